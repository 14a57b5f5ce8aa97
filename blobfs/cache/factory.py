"""Creates the cache that the option ``--cache`` names: ``none``, ``memory`` or a Redis URL."""

from __future__ import annotations

import math
import re
from contextlib import closing
from typing import TYPE_CHECKING, Final

from blobfs import metrics
from blobfs.cache.base import DescriptorCache
from blobfs.cache.memory import MemoryCache, NoCache
from blobfs.cache.resilient import ResilientCache
from blobfs.digest import Digest
from blobfs.errors import MountRefused, StorageUnavailable

if TYPE_CHECKING:
    from blobfs.cache.redis.cache import RedisCache

_FIRST_ANSWER_S: Final = 1.0
"""The time limit of the check at the start of a mount, while a person waits."""

_STRICT_S: Final = 10.0
"""The time limit of a call that must not fail, while no user waits."""

_REDIS: Final = re.compile(r"(?:rediss?(?:\+sentinel|\+cluster)?|unix):", re.IGNORECASE)


def is_redis(text: str) -> bool:
    """True if *text* is a Redis URL."""
    return _REDIS.match(text) is not None


def cache_for(text: str, ttl_s: float = math.inf) -> DescriptorCache:
    """Create a cache that never raises; the caller closes it. A server need not run yet.

    Entries in memory expire after *ttl_s* seconds. Raises MountRefused; its message leaves out
    *text* if that may contain a password.
    """
    if is_redis(text):
        return _watched(ResilientCache(_redis_cache().at(text)), "redis")
    match text.lower():
        case "none":
            return NoCache()
        case "memory":
            return _watched(MemoryCache(ttl_s=ttl_s), "memory")
    shown = repr(text) if "@" not in text else "the given value"
    raise MountRefused(
        f"{shown} is not a descriptor cache; give none, memory, redis://host or unix:///socket"
    )


def strict_cache_for(url: str | None) -> DescriptorCache:
    """Create a cache whose calls raise if the Redis at *url* fails; None has no cache.

    Raises MountRefused.
    """
    if url is None:
        return NoCache()
    return _redis_cache().at(url, _STRICT_S)


def redis_failure(url: str) -> str | None:
    """Return why the Redis at *url* does not answer now; None if it does."""
    with closing(_redis_cache().at(url, _FIRST_ANSWER_S)) as cache:
        try:
            cache.stat(Digest.of(b""))
        except StorageUnavailable as exc:
            return str(exc).rstrip(".")  # a clause of the caller's sentence follows
    return None


def _redis_cache() -> type[RedisCache]:
    from blobfs.cache.redis.cache import RedisCache  # noqa: PLC0415  (redis takes a while to import)

    return RedisCache


def _watched(cache: DescriptorCache, name: str) -> DescriptorCache:
    metrics.CACHE.watch(cache, name)
    return cache
