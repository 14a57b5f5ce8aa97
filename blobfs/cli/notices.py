"""Sentences that a mount prints on the terminal when it begins, and writes into its log."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Final, NamedTuple

import click

from blobfs import logs
from blobfs.cache.factory import is_redis, redis_failure
from blobfs.cache.redis.options import RedisOptions

log = logging.getLogger(__name__)

_LOSS: Final = (
    "takes for stored what rm removes here, and a layer that is pushed again then is missing"
)
_GENERAL: Final = (
    f"--allow-delete: a registry with blobdescriptor: inmemory {_LOSS}; restart it after each rm,"
    " or remove that key; with --config FILE the registry's file is checked"
)

UNLOGGED: Final = (
    "this machine has no system log (/dev/log): the mount logs nothing; give --log-file FILE"
)


class Notice(NamedTuple):
    """A sentence, and the level that it is logged at."""

    level: int
    text: str


def say(notice: Notice, *, on_terminal: bool) -> None:
    """Log a sentence, and print it on stderr if *on_terminal*, where nothing else shows the log."""
    log.log(notice.level, "%s", notice.text)
    if on_terminal:
        click.echo(logs.printable(notice.text), err=True)


def of_cache(cache: str) -> Notice | None:
    """A notice that the Redis of the mount's *cache* cannot be used; None if it can, or is none.

    It begins threads, so a process that forks calls it after that.
    """
    why = redis_failure(cache) if is_redis(cache) else None
    if why is None:
        return None
    text = f"the cache cannot be used, and the mount goes on without it until it can: {why}"
    return Notice(logging.INFO, text)


def tell_if_watched(sentence: str) -> None:
    """Print *sentence* on stderr if that is a terminal."""
    if sys.stderr.isatty():
        click.echo(sentence, err=True)


def of_deletes(file: Path | None, registry_cache: str | None, cache: str) -> Notice | None:
    """The condition under which deleting is safe beside a registry; None if it is known to hold.

    *registry_cache* is the descriptor cache of the registry's configuration *file*, *cache* that
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
