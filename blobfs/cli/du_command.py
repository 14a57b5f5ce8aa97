"""The command ``blobfs du``."""

from __future__ import annotations

import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import click

from blobfs.cli.inventories import take_inventory
from blobfs.cli.output import DAMAGED, echo
from blobfs.cli.reading import Reading, reading_options
from blobfs.cli.reports import Report, Row, human_size
from blobfs.cli.types import HUMAN, JSON, LONG_HELP, STATE, STORAGE
from blobfs.errors import RepositoryUnknown
from blobfs.inventory.inventory import Depth, Inventory
from blobfs.logs import printable
from blobfs.maintenance import usage
from blobfs.maintenance.usage import StorageUsage, Usage

_COLUMNS: Final = ("repository", "tags", "layers", "bytes", "shared", "freed")
_ORDERS: Final[dict[str, Callable[[Usage], Any]]] = {
    "name": attrgetter("name"),
    "bytes": lambda usage: -usage.size,
    "shared": lambda usage: -usage.shared,
    "freed": lambda usage: -usage.freed,
}


@click.command(context_settings=LONG_HELP)
@STORAGE
@click.argument("prefixes", metavar="[PREFIX]...", nargs=-1)
@click.option("--tags", is_flag=True, help="Show each tag of the repositories.")
@click.option(
    "--sort", "order", type=click.Choice(list(_ORDERS)), default="bytes", show_default=True,
    help="Order of the lines; the largest comes first.",
)  # fmt: skip
@HUMAN
@JSON
@STATE
@reading_options
def du(
    storage: str,
    prefixes: tuple[str, ...],
    *,
    tags: bool,
    order: str,
    human: bool,
    as_json: bool,
    state: Path | None,
    reading: Reading,
) -> None:
    """Show the disk usage of the repositories in STORAGE, each blob once.

    Without a PREFIX all repositories are shown. PREFIX is a repository or the beginning of names
    before a slash; one line has its usage together with everything below it.

    bytes counts the blobs that a line links; freed those that nothing else links, so what its
    removal frees; shared the rest. On a terminal, a tree with bars shows the shares of the total.

    Exits with 1 if something cannot be read, which is printed.
    """
    given = reading.storage(storage)
    # Another command may use *state*.
    depth = Depth.REFERENCES if tags or state is not None else Depth.LINKS
    with (
        reading.workers(given) as workers,
        take_inventory(given, state, workers, depth) as inventory,
    ):
        found = usage.of_storage(inventory)
        lines = sorted(_lines(found, prefixes), key=_ORDERS[order])
        if tags:
            lines = list(_of_tags(inventory, lines))
    if as_json:
        click.echo(_as_json(found, lines))
    elif sys.stdout.isatty() and not (tags or prefixes):
        click.echo("\n".join(_tree(found, _ORDERS[order])))
    else:
        click.echo(_table(found, lines, with_total=not prefixes).as_table(human=human))
    for path in found.unreadable:
        echo(f"{path} cannot be read, and is not counted; run as a user who may read it")
    if found.unreadable:
        sys.exit(DAMAGED)


def _lines(found: StorageUsage, prefixes: Sequence[str]) -> Iterator[Usage]:
    """Yield the usage of each prefix, or of each repository; raises RepositoryUnknown."""
    if not prefixes:
        yield from found.repositories.values()
    for prefix in prefixes:
        try:
            yield found.prefixes[prefix.strip("/")]
        except KeyError:
            raise RepositoryUnknown(prefix) from None


def _of_tags(inventory: Inventory, lines: Sequence[Usage]) -> Iterator[Usage]:
    """Yield each repository and its tags."""
    for line in lines:
        yield line
        for tag in usage.of_tags(inventory, line.name):
            yield replace(tag, name=f"{line.name}:{tag.name}")


def _row(line: Usage) -> Row:
    return line.name, line.tags, line.layers, line.size, line.shared, line.freed


def _outside(found: StorageUsage) -> Iterator[tuple[str, int]]:
    """Yield the name and the size of what belongs to no repository."""
    for name, size in (("(unlinked blobs)", found.unlinked), ("(open uploads)", found.uploads)):
        if size:
            yield name, size


def _table(found: StorageUsage, lines: Sequence[Usage], *, with_total: bool) -> Report:
    rows = [_row(line) for line in lines]
    if not with_total:
        return Report(_COLUMNS, rows)
    outside: list[Row] = [(name, "", "", size, "", "") for name, size in _outside(found)]
    total = ("total", found.tags, found.layers, found.size + found.uploads, "", "")
    return Report(_COLUMNS, [*rows, *outside], total)


def _as_json(found: StorageUsage, lines: Sequence[Usage]) -> str:
    total = {"bytes": found.size, "blobs": found.blobs, "unlinked": found.unlinked,
             "uploads": found.uploads}  # fmt: skip
    rows = [dict(zip(_COLUMNS, _row(line), strict=True)) for line in lines]
    return json.dumps({"usage": rows, "total": total}, indent=2)


def _tree(found: StorageUsage, order: Callable[[Usage], Any]) -> Iterator[str]:
    """Yield a line for each prefix: its size, what is freed, a bar of its share, and its name."""
    below: dict[str, list[Usage]] = defaultdict(list)
    for prefix, line in found.prefixes.items():
        below[prefix.rpartition("/")[0]].append(line)
    width = max(10, shutil.get_terminal_size().columns // 4)
    total = f"{human_size(found.size)} in {found.blobs:,} blobs"
    yield f"{'bytes':>6} {'freed':>6} {'':{width}} {total}"
    pending = [(line, 0) for line in sorted(below[""], key=order, reverse=True)]
    while pending:
        line, depth = pending.pop()
        filled = round(width * line.size / found.size) if found.size else 0
        name = printable(line.name.rpartition("/")[2])
        yield (
            f"{human_size(line.size):>6} {human_size(line.freed):>6} {'█' * filled:{width}}"
            f" {'  ' * depth}{name}"
        )
        children = sorted(below[line.name], key=order, reverse=True)
        pending += [(child, depth + 1) for child in children]
    for name, size in _outside(found):
        yield f"{human_size(size):>6} {'':6} {'':{width}} {name}"
