"""From what a person types, ``none``, ``memory`` or ``redis://host``, to a cache."""

from __future__ import annotations

from blobfs.cache.base import DescriptorCache
from blobfs.cache.memory import MemoryCache
from blobfs.cache.none import NoCache
from blobfs.cache.resilient import ResilientCache
from blobfs.errors import MountRefused


def cache_for(text: str) -> DescriptorCache:
    """A cache that never fails, to be closed by the caller; a server need not be there yet.

    Raises MountRefused, without what was given if that may hold a password.
    """
    scheme, colon, _ = text.partition(":")
    match scheme.lower(), colon:
        case "none", "":
            return NoCache()
        case "memory", "":
            return MemoryCache()
        case "redis" | "rediss" | "unix", ":":
            from blobfs.cache.redis import RedisCache  # noqa: PLC0415  (redis takes a while to import)

            return ResilientCache(RedisCache.at(text))
        case (("redis+cluster" | "rediss+cluster" | "redis+sentinel" | "rediss+sentinel"), ":"):
            raise MountRefused(
                "a Redis cluster or sentinel cannot be the cache; give the one server, redis://host"
            )
    shown = repr(text) if "@" not in text else "what was given"
    raise MountRefused(
        f"{shown} is not a descriptor cache; give none, memory, redis://host or unix:///socket"
    )
