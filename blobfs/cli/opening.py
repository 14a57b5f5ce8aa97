"""Opening a storage for a command, and progress on a terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import click

from blobfs.cli.storage import Storage
from blobfs.inventory.inventory import Inventory, Workers
from blobfs.storage.registry import Registry

T = TypeVar("T")


def open_existing(storage: str) -> Registry:
    """Open the registry of STORAGE, which must exist; raises MountRefused."""
    return Storage.of_argument(storage).open()


def hash_blobs(inventory: Inventory, workers: Workers | None) -> None:
    """Hash the blobs of *inventory*; the bytes that were read are shown."""
    counts = Counts(step=100 * 2**20)
    try:
        inventory.hash_blobs(workers, counts.add)
    finally:
        counts.end()


def take_inventory(
    given: Storage, state: Path | None, workers: Workers | None, *, every_link: bool = False
) -> Inventory:
    """Take the inventory of an existing registry; the counts of what was read are shown."""
    given.open().close()
    counts = Counts()
    try:
        return Inventory.taken(
            given.location,
            state=state,
            workers=workers,
            every_link=every_link,
            progress=counts.add,
        )
    finally:
        counts.end()


class Counts:
    """A line on the terminal with the number of items of each kind; nothing elsewhere.

    It is updated after *step* items.
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

    def end(self) -> None:
        """Clear the line."""
        if self._shown:
            click.echo("\r\033[K", nl=False, err=True)


def progress(items: Iterable[T], label: str) -> Iterator[T]:
    """Yield *items*, with a progress bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(list(items), label=label, file=sys.stderr) as bar:
        yield from bar
