"""The options of commands that read a whole storage: who reads it, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import wraps
from typing import TypeVar

import click

from blobfs.cli.storage import Storage
from blobfs.cli.types import Option, Size
from blobfs.drivers.rate_limit import RateLimits
from blobfs.inventory.cluster import cluster_workers
from blobfs.inventory.inventory import Workers

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading:
    """The options; without *cluster* the threads of this process read."""

    cluster: str | None
    limits: RateLimits

    def storage(self, argument: str) -> Storage:
        """Return STORAGE, which must exist, with the limits; prints the warnings about it.

        Raises MountRefused.
        """
        found = Storage.of_argument(argument)
        if self.limits != RateLimits():
            found = found._replace(location=replace(found.location, limits=self.limits))
        found.open().close()  # here and not later, as the deadline of its checks is near
        return found

    def workers(self, storage: Storage) -> AbstractContextManager[Workers | None]:
        """Connect with the cluster; None without one. Raises MountRefused."""
        if self.cluster is None:
            return nullcontext()
        return cluster_workers(self.cluster, storage.location)


def reading_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options to a command, which takes them as the argument *reading*."""

    @click.option(
        "--cluster",
        metavar="tcp://HOST:PORT",
        help="Read with the workers of this Dask scheduler; they need the same storage.",
    )
    @click.option(
        "--bwlimit",
        type=Size(),
        default="0",
        metavar="SIZE",
        help="Read so many bytes per second at most, such as 50M.",
    )
    @click.option(
        "--tps", cls=Option, type=click.IntRange(min=0), default=0, metavar="NUMBER",
        help="Make so many requests per second at most.",
    )  # fmt: skip
    @wraps(command)
    def with_reading(*, cluster: str | None, bwlimit: int, tps: int, **others: object) -> T:
        return command(reading=Reading(cluster, RateLimits(bwlimit, tps)), **others)

    return with_reading
