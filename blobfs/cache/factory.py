"""From what a person types, ``none``, ``memory`` or ``redis://host``, to a cache."""

from __future__ import annotations

import math
import re
from typing import Final

from blobfs import metrics
from blobfs.cache.base import DescriptorCache
from blobfs.cache.memory import MemoryCache
from blobfs.cache.none import NoCache
from blobfs.cache.redis.options import RedisOptions
from blobfs.cache.resilient import ResilientCache
from blobfs.digest import Digest
from blobfs.errors import MountRefused, StorageUnavailable

_PATIENT_S: Final = 1.0
"""The time for the first answer of a Redis, which a person waits for once."""

_REDIS: Final = re.compile(r"(?:rediss?(?:\+sentinel|\+cluster)?|unix):", re.IGNORECASE)


def is_redis(text: str) -> bool:
    """Whether *text* names a Redis."""
    return _REDIS.match(text) is not None


def cache_for(text: str, ttl_s: float = math.inf) -> DescriptorCache:
    """A cache that never fails, to be closed by the caller; a server need not be there yet.

    What is kept in memory is kept for *ttl_s* seconds. Raises MountRefused, without what was
    given if that may hold a password.
    """
    if is_redis(text):
        from blobfs.cache.redis.cache import RedisCache  # noqa: PLC0415  (redis takes a while to import)

        return _watched(ResilientCache(RedisCache.at(text)), "redis")
    match text.lower():
        case "none":
            return NoCache()
        case "memory":
            return _watched(MemoryCache(ttl_s=ttl_s), "memory")
    shown = repr(text) if "@" not in text else "what was given"
    raise MountRefused(
        f"{shown} is not a descriptor cache; give none, memory, redis://host or unix:///socket"
    )


def trouble_with(url: str) -> str | None:
    """The reason why the Redis at *url* does not answer at this moment; None if it does."""
    from blobfs.cache.redis.cache import RedisCache  # noqa: PLC0415

    cache = RedisCache(RedisOptions.parse(url), _PATIENT_S)
    try:
        cache.stat(Digest.of(b""))
    except StorageUnavailable as exc:
        return str(exc)
    finally:
        cache.close()
    return None


def _watched(cache: DescriptorCache, name: str) -> DescriptorCache:
    metrics.CACHE.watch(cache, name)
    return cache
