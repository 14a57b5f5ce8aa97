"""The pass over a storage, and the inventory that it makes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

from blobfs.concurrency import ThreadPool
from blobfs.drivers.base import Closing
from blobfs.drivers.location import Location
from blobfs.inventory.journal import Journal
from blobfs.inventory.scanning import (
    hash_blobs,
    opened,
    read_links,
    read_manifests,
    scan,
    spans_left,
)
from blobfs.inventory.spans import divide

A = TypeVar("A")
T = TypeVar("T")

Progress = Callable[[str, int], None]
"""Receives the name of a kind of items, and how many more of them were read."""

_LOCAL_JOBS: Final = 2
"""Threads for a directory: most of their time they hold the interpreter's lock."""

_REMOTE_JOBS: Final = 16


class Executor(Protocol):
    """The part of ``concurrent.futures.Executor`` that a pass uses."""

    def submit(self, call: Callable[[], T], /) -> Future[T]:
        """Queue *call*."""


class Depth(Enum):
    """The content that a pass reads, beside all names and sizes."""

    LINKS = "links"  # links whose path or size does not show their content
    REFERENCES = "references"  # those, and the manifests that no pass has read
    EVERY_MANIFEST = "every manifest"  # those, and every manifest
    EVERY_LINK = "every link"  # every link, and every manifest


@dataclass(frozen=True, slots=True)
class Workers:
    """An executor, and the number of tasks that it may have at once."""

    executor: Executor
    jobs: int

    def run(self, call: Callable[[A], T], take: Callable[[], A | None]) -> Iterator[tuple[A, T]]:
        """Yield each item and its result as it is completed; raises the first error of a *call*.

        *take* returns the next item, or None if none is waiting. An item may come to wait while
        others are under way.
        """
        running: dict[Future[T], A] = {}
        try:
            while True:
                while len(running) < self.jobs and (item := take()) is not None:
                    running[self.executor.submit(partial(call, item))] = item
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()

    def map(self, call: Callable[[A], T], items: Iterator[A]) -> Iterator[tuple[A, T]]:
        """``run`` for all of *items*."""
        return self.run(call, lambda: next(items, None))


class Inventory(Closing):
    """The content of a storage, as a pass has found it. It owns the journal, and closes it.

    ``journal.db`` answers questions in SQL.
    """

    def __init__(self, storage: Location, journal: Journal) -> None:
        self.storage = storage
        self.journal = journal

    @classmethod
    def taken(
        cls,
        storage: str | Location,
        *,
        state: Path | None = None,
        workers: Workers | None = None,
        depth: Depth = Depth.REFERENCES,
        progress: Progress = lambda _kind, _count: None,
    ) -> Self:
        """Read the storage, or the rest of it if the pass in *state* was stopped.

        *state* is the journal's file, which is temporary if it is None. *workers* are threads by
        default. Raises StorageUnavailable, AccessDenied, and MountRefused for an unfit *state*.
        """
        location = Location.of(storage)
        inventory = cls(location, Journal.opened(state, location.url))
        try:
            with nullcontext(workers) if workers else threads(location) as used:
                inventory._begin(depth)
                inventory._read_links(used, progress, every_link=depth is Depth.EVERY_LINK)
                if depth is not Depth.LINKS:
                    inventory._read_manifests(used, progress)
                inventory.journal.end()
        except BaseException:
            inventory.close()
            raise
        return inventory

    def hash_blobs(
        self, workers: Workers | None = None, progress: Progress = lambda _kind, _count: None
    ) -> None:
        """Hash the blobs that were not hashed yet; the results are in the table ``hashed``.

        If it is stopped, the next inventory with this state goes on in the same pass. *progress* is
        called with the bytes. Raises StorageUnavailable.
        """
        batches = self.journal.unhashed()
        call = partial(hash_blobs, self.storage)
        used_workers = nullcontext(workers) if workers else threads(self.storage)
        with self.journal.reopened(), used_workers as used:
            for batch, results in used.map(call, batches):
                self.journal.add_hashed(results)
                progress("bytes", sum(size for _, size in batch))

    def close(self) -> None:
        self.journal.close()

    def _begin(self, depth: Depth) -> None:
        """Begin a pass, unless one is under way."""
        if self.journal.is_under_way:
            return
        if depth in {Depth.EVERY_MANIFEST, Depth.EVERY_LINK}:
            self.journal.forget_manifests()
        self.journal.begin(self.storage.url, divide(opened(self.storage)))

    def _read_links(self, workers: Workers, progress: Progress, *, every_link: bool) -> None:
        journal = self.journal
        self._scan(workers, progress)
        links = journal.unread_links(every=every_link)
        read = partial(read_links, self.storage)
        for batch, targets in workers.map(read, links):
            journal.set_targets(zip((number for number, _ in batch), targets, strict=True))
            progress("links", len(batch))
        journal.assume_targets()

    def _read_manifests(self, workers: Workers, progress: Progress) -> None:
        digests = self.journal.unread_manifests()
        parse = partial(read_manifests, self.storage)
        for _, rows in workers.map(parse, digests):
            self.journal.add_manifests(rows)
            progress("manifests", len(rows))

    def _scan(self, workers: Workers, progress: Progress) -> None:
        waiting = deque(self.journal.spans())
        call = partial(scan, self.storage)
        for (number, span), step in workers.run(
            call, lambda: waiting.popleft() if waiting else None
        ):
            left = spans_left(self.storage, span, step)
            waiting.extendleft(reversed(self.journal.add(number, step.rows, left)))
            progress("files", len(step.rows))


@contextmanager
def threads(storage: Location) -> Iterator[Workers]:
    """Yield threads of this process, as many as suit *storage*."""
    jobs = _LOCAL_JOBS if opened(storage).is_local else _REMOTE_JOBS
    with closing(ThreadPool("inventory", jobs)) as threads:
        yield Workers(threads, jobs)
