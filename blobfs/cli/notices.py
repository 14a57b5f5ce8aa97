"""Messages at the start of a mount, for the terminal and the log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, NamedTuple

from blobfs.cache.factory import is_redis, redis_failure
from blobfs.cache.redis.options import RedisOptions
from blobfs.cli.output import echo

log = logging.getLogger(__name__)

_LOSS: Final = "does not notice a rm in the mount, and loses a removed layer that is pushed again"
_GENERAL: Final = (
    f"--allow-delete: a registry with blobdescriptor: inmemory {_LOSS}; restart it after each rm,"
    " or remove that key; with --config FILE the registry's file is checked"
)

UNLOGGED: Final = (
    "this machine has no system log (/dev/log): the mount logs nothing; give --log-file FILE"
)


class Notice(NamedTuple):
    """A message and its log level."""

    level: int
    text: str


def show(notice: Notice, *, on_terminal: bool) -> None:
    """Log a message; print it on stderr too if *on_terminal*."""
    log.log(notice.level, "%s", notice.text)
    if on_terminal:
        echo(notice.text)


def cache_notice(cache: str) -> Notice | None:
    """Return a notice if *cache* is a Redis that does not answer.

    It starts threads, so call it after a fork.
    """
    why = redis_failure(cache) if is_redis(cache) else None
    if why is None:
        return None
    text = f"the cache cannot be used; the mount works without it until it answers: {why}"
    return Notice(logging.INFO, text)


def deletes_notice(file: Path | None, registry_cache: str | None, cache: str) -> Notice | None:
    """Return a warning about deletes beside a registry; None if they are known to be safe.

    *registry_cache* is the descriptor cache in the registry's configuration *file*, *cache* that
    of the mount, both as ``cache_for`` takes them.
    """
    if file is None:
        return Notice(logging.INFO, _GENERAL)
    if registry_cache is None:
        return None
    if not is_redis(registry_cache):
        return Notice(
            logging.WARNING,
            f"{file}: with storage.cache.blobdescriptor: inmemory and --allow-delete the registry"
            f" {_LOSS}; restart the registry after each rm, or remove the key, or set it to redis",
        )
    theirs = str(RedisOptions.parse(registry_cache))
    ours = str(RedisOptions.parse(cache)) if is_redis(cache) else cache
    if ours == theirs:
        return None
    return Notice(
        logging.WARNING,
        f"{file}: the registry's blobdescriptor cache is {theirs}, and --cache is {ours}: unless"
        f" they are one server, the registry {_LOSS}; omit --cache, or name the same server",
    )
