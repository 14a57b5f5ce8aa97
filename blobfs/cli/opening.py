"""Opening a storage for a command, and progress on a terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

import click

from blobfs.cli.storage import Storage
from blobfs.storage.registry import Registry

T = TypeVar("T")


def open_existing(storage: str) -> Registry:
    """Open the registry of STORAGE, which must exist; raises MountRefused."""
    return Storage.of_argument(storage).open()


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


def progress(items: Iterable[T], label: str) -> Iterator[T]:
    """Yield *items*, with a progress bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(list(items), label=label, file=sys.stderr) as bar:
        yield from bar
