"""Opening a storage for a command, and progress on a terminal."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Self, TypeVar

import click

from blobfs.cli.reports import human_size
from blobfs.cli.storage import Storage
from blobfs.concurrency import CallLock
from blobfs.digest import Digest
from blobfs.errors import AccessDenied
from blobfs.logs import printable
from blobfs.reference import Reference
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

T = TypeVar("T")


def open_existing(storage: str) -> Registry:
    """Open the registry of STORAGE, which must exist; raises MountRefused."""
    return Storage.of_argument(storage).open()


def each_readable(
    registry: Registry, read: Callable[[Repository], T], left_out: list[str]
) -> Iterator[tuple[Repository, T]]:
    """Yield each repository with what *read* returns for it, and show the progress.

    For one that cannot be read a sentence is added to *left_out*.
    """
    for name in progress(registry.enumerate(), "Reading"):
        repository = registry.repository(name)
        try:
            found = read(repository)
        except AccessDenied as exc:
            left_out.append(f"{name} was left out: {exc}")
            continue
        yield repository, found


def digest_of(repository: Repository, reference: Reference) -> Digest:
    """Return the digest of a reference; raises TagUnknown, Corrupt."""
    target = reference.target
    return target if isinstance(target, Digest) else repository.tags.get(target)


class Counts:
    """A line on the terminal with the number of items of each kind; nothing elsewhere.

    It is updated after *step* items, and cleared at the end of the context.
    """

    def __init__(self, step: int = 1000) -> None:
        self._step = step
        self._counts: Counter[str] = Counter()
        self._shown = 0
        self._is_shown = sys.stderr.isatty()

    def add(self, kind: str, count: int) -> None:
        """Count more items of a kind, such as ``"files"``."""
        self._counts[kind] += count
        if self._is_shown and self._counts.total() >= self._shown + self._step:
            self._shown = self._counts.total()
            text = ", ".join(f"{count:,} {kind}" for kind, count in self._counts.items())
            click.echo(f"\rread {text} …", nl=False, err=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo("\r\033[K", nl=False, err=True)


class ByteBar:
    """A bar on the terminal with the bytes that are read, their rate, and the time left.

    Elsewhere it shows nothing. *note* is shown beside the rate. ``add`` may be called in any
    thread: ``_bar_lock`` serializes the calls.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar_lock = CallLock()
        self._bar: ProgressBar[object] | None = None
        self.note = ""
        self._began = 0.0
        self._count = self._total = 0

    def add(self, count: int) -> None:
        """Count bytes that were read."""
        with self._bar_lock:
            if self._bar is not None:
                self._count += count
                self._bar.update(count, f"{self._rate()}  {printable(self.note)}".rstrip())

    def _rate(self) -> str:
        rate = self._count / max(1e-3, time.monotonic() - self._began)
        text = f"{human_size(int(rate))}/s"
        if self._count <= 0:
            return text
        left_s = timedelta(seconds=round(max(0, self._total - self._count) / rate))
        return f"{text}  {left_s} left"

    @contextmanager
    def showing(self, total: int) -> Iterator[None]:
        """Show the bar meanwhile, unless there is nothing to read."""
        if not total or not sys.stderr.isatty():
            yield
            return
        self._began, self._count, self._total = time.monotonic(), 0, total
        # click has another time left: it takes the bytes before the first ones as slow.
        with click.progressbar(
            length=total,
            label=self._label,
            file=sys.stderr,
            item_show_func=_text,
            color=False,
            show_eta=False,
        ) as bar:
            self._bar = bar
            try:
                yield
            finally:
                with self._bar_lock:
                    self._bar = None


def _text(note: object) -> str | None:
    return None if note is None else str(note)


def progress(items: Iterable[T], label: str) -> Iterator[T]:
    """Yield *items*, with a progress bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(list(items), label=label, file=sys.stderr) as bar:
        yield from bar
