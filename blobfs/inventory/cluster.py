"""The workers of a Dask cluster, which run the tasks of a pass on other machines.

A task has the storage's location without credentials: each worker takes those of its own
environment. Before each task the worker compares the storage that it sees with that of the
command, as an empty directory or another server under the same name would look like a registry
that lost everything.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final, Generic, NamedTuple, TypeVar

from blobfs.drivers.location import Location
from blobfs.errors import MountRefused, StorageUnavailable
from blobfs.inventory.inventory import Executor, Workers

T = TypeVar("T")

_TIMEOUT_S: Final = 10.0

_QUEUED: Final = 2
"""Tasks for each thread of a worker: one runs, and one waits."""


class _Sight(NamedTuple):
    """A storage as a process sees it: equal if it is the same one and the same blobfs reads it."""

    version: str
    address: str
    inode: int

    @classmethod
    def of(cls, storage: Location) -> _Sight:
        """Look at *storage*; raises StorageUnavailable if its directory is missing."""
        inode = 0
        if storage.root is not None:
            try:
                inode = storage.root.stat().st_ino
            except OSError as exc:
                raise StorageUnavailable(f"{storage.root}: {exc.strerror}") from None
        return cls(version("blobfs"), storage.address, inode)


class _ClusterExecutor:
    """Submits calls to *executor* that run only where *storages* are what this process sees."""

    def __init__(self, executor: Executor, storages: Sequence[Location]) -> None:
        self._executor = executor
        self._sights = {storage: _Sight.of(storage) for storage in storages}

    def submit(self, call: Callable[[], T], /) -> Future[T]:
        return self._executor.submit(_Guarded(call, self._sights))


@dataclass(frozen=True, slots=True)
class _Guarded(Generic[T]):
    """A call that runs only where storages look as in *sights*."""

    call: Callable[[], T]
    sights: Mapping[Location, _Sight]

    def __call__(self) -> T:
        for storage, sight in self.sights.items():
            found = _Sight.of(storage)
            if found != sight:
                raise MountRefused(
                    f"the worker on {socket.gethostname()} sees {found}, and this machine {sight};"
                    " give all workers the same storage, AWS_… variables, and blobfs"
                )
        return self.call()


@contextmanager
def cluster_workers(address: str, *storages: Location) -> Iterator[Workers]:
    """Yield the workers of the Dask scheduler at *address*, such as ``tcp://host:8786``.

    All see the same *storages*. Raises MountRefused.
    """
    if any(storage.root is None and storage.bucket is None for storage in storages):
        raise MountRefused("--cluster: a storage in memory is in one process only")
    try:
        from distributed import Client  # noqa: PLC0415  (optional, and takes a second)
    except ImportError:
        raise MountRefused("--cluster needs Dask; run pip install 'blobfs[cluster]'") from None
    _check(address)
    try:
        client = Client(address, timeout=_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as exc:
        raise MountRefused(f"--cluster {address}: {exc}; is it a Dask scheduler?") from None
    with closing(client):
        threads = sum(client.nthreads().values())
        if not threads:
            raise MountRefused(f"--cluster {address} has no workers; run dask worker {address}")
        executor = _ClusterExecutor(client.get_executor(pure=False), storages)
        try:
            executor.submit(int).result()
        except (ImportError, RuntimeError) as exc:
            raise MountRefused(f"--cluster {address}: {exc}; install blobfs for workers") from None
        yield Workers(executor, _QUEUED * threads)


def _check(address: str) -> None:
    """Raise MountRefused unless something listens at *address*."""
    found = re.fullmatch(r"(?:tcp|tls)://\[?([^/@]+?)\]?:(\d{1,5})", address)
    if found is None:
        raise MountRefused(f"--cluster {address!r} is not tcp://host:port")
    try:
        socket.create_connection((found[1], int(found[2])), _TIMEOUT_S).close()
    except (OSError, OverflowError) as exc:
        raise MountRefused(
            f"--cluster {address}: {exc}; start the scheduler, or give its address"
        ) from None
