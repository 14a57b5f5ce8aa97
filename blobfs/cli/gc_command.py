"""The command ``blobfs gc``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from blobfs.cache.factory import redis_failure, strict_cache_for
from blobfs.cli.opening import Counts
from blobfs.cli.output import echo, print_report
from blobfs.cli.reading import Reading, reading_options
from blobfs.cli.reports import Report, Row
from blobfs.cli.types import FILE, HUMAN, JSON, LONG_HELP, STORAGE, Duration, redis_option
from blobfs.config.settings import default_state
from blobfs.drivers.location import Location
from blobfs.errors import MountRefused
from blobfs.inventory.rows import unpack
from blobfs.inventory.scanning import close_all
from blobfs.maintenance.gc import planfile
from blobfs.maintenance.gc.collector import Collection, Feedback, Options, Outcome
from blobfs.maintenance.gc.plan import Plan
from blobfs.maintenance.gc.planfile import PlanFile
from blobfs.timestamps import format_seconds

T = TypeVar("T", bound=Callable[..., Any])

_NO_REPOSITORY: Final = "(unlinked)"
"""The name in the table for blobs whose repository is not known."""

_PLANNED: Final = "nothing was changed; --delete deletes"
_NOTHING_TO_DELETE: Final = "there is nothing to delete"

_IN_MEMORY: Final = (
    "the registry caches descriptors in its memory (storage.cache.blobdescriptor: inmemory), so it"
    " accepts pushes that refer to deleted blobs; restart it after gc has removed links, or make it"
    " read-only until --grace has passed and it was restarted"
)


def _duration(name: str, default: str, text: str) -> Callable[[T], T]:
    return click.option(name, type=Duration(), default=default, show_default=True, help=text)


@click.command("gc", context_settings=LONG_HELP)
@STORAGE
@click.option("--layers", is_flag=True, help="Remove links of layers that no manifest names.")
@click.option("--untagged", is_flag=True, help="Remove manifests that no tag leads to.")
@_duration("--age", "24h", "Leave what is younger than this.")
@_duration(
    "--grace",
    "1h",
    "Delete a blob this time after its last link was removed; longer than a push takes.",
)
@_duration("--settle", "10s", "Wait so long before the last look at a blob that is to be deleted.")
@click.option("--wait", is_flag=True, help="Wait for the end of --grace; else run gc again then.")
@click.option("--plan", "plan_file", type=FILE, help="Write what would go, as JSON lines.")
@click.option("--apply", "apply_file", type=FILE, help="Delete what this plan has, if it may go.")
@click.option("--delete", is_flag=True, help="Delete; without it nothing is changed.")
@click.option(
    "--state",
    type=FILE,
    help="Journal, the same for all runs.  [default: a file in /var/lib/blobfs or"
    " ~/.local/state/blobfs]",
)
@redis_option(
    "Redis in which registries cache descriptors.  [default: that of the registry's file]"
)
@HUMAN
@JSON
@reading_options
def gc(
    storage: str,
    *,
    layers: bool,
    untagged: bool,
    age: float,
    grace: float,
    settle: float,
    wait: bool,
    plan_file: Path | None,
    apply_file: Path | None,
    delete: bool,
    state: Path | None,
    cache: str | None,
    human: bool,
    as_json: bool,
    reading: Reading,
) -> None:
    """Delete what nothing refers to in STORAGE, while registries use it.

    By default nothing is deleted: a table shows what would go. Blobs that no repository links are
    deleted, and with --layers and --untagged links are removed first. Their blobs go by a later
    run, after --grace.

    Kept are the children and referrers of kept manifests, aliases, and what open uploads name. A
    repository keeps all its links if a part of it cannot be read.

    Exits with 1 if something was left for such a reason, which is printed.
    """
    if plan_file and (delete or apply_file):
        raise click.UsageError("--plan is for a run that deletes nothing")
    given = reading.storage(storage)
    cache = cache or given.redis
    if cache is not None and (failure := redis_failure(cache)):
        raise MountRefused(f"--cache: {failure}; start it, or give the right URL")
    if given.config is not None and given.config.cache == "memory":
        echo(_IN_MEMORY)
    options = Options(layers, untagged, age, grace, settle)
    approved = PlanFile.read(apply_file) if apply_file else None
    try:
        with (
            Counts() as counts,
            closing(strict_cache_for(cache)) as clears,
            reading.workers(given) as workers,
        ):
            collection = Collection(
                given.location, state or _default_state(given.location),
                replace(options, workers=workers), clears,
                Feedback(counts.add, _wait),
            )  # fmt: skip
            if delete or approved is not None:
                report, notes = _deleted(collection.run(approved, wait=wait))
            else:
                with collection.planned() as plan:
                    report, notes = _planned(plan, plan_file)
    except KeyboardInterrupt:
        raise click.ClickException("stopped; run the same command again to go on") from None
    finally:
        close_all()
    print_report(report, as_json=as_json, human=human, notes=notes)


def _default_state(storage: Location) -> Path:
    directory = default_state()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory / f"gc-{storage.key}.db"


def _wait(seconds: float) -> None:
    """Wait, with a bar on a terminal."""
    if not sys.stderr.isatty():
        time.sleep(seconds)
        return
    steps = max(1, round(seconds))
    with click.progressbar(range(steps), label="Waiting", file=sys.stderr) as bar:
        for _ in bar:
            time.sleep(seconds / steps)


def _planned(plan: Plan, file: Path | None) -> tuple[Report, list[str]]:
    """Return the table of a plan, and sentences for a person; write it to *file*."""
    if file is not None:
        planfile.write(file, plan.entries())
    now = time.time()
    rows: list[Row] = [
        (name or _NO_REPOSITORY, kind, count, size, _when(due, now))
        for name, kind, count, size, due in plan.summary()
    ]
    notes = [*_left(plan.skipped, plan.blocked)]
    report = Report(
        ("repository", "kind", "count", "bytes", "when"), rows, _total(rows), len(notes)
    )
    if empty := len(plan.empty_directories()):
        notes.append(f"{empty} empty directories go too")
    return report, [*notes, _PLANNED if rows or empty else _NOTHING_TO_DELETE]


def _when(due: float | None, now: float) -> str | None:
    return "now" if due is None or due <= now else format_seconds(due)


def _total(rows: Sequence[Row]) -> Row | None:
    def column(number: int) -> int:
        return sum(cell for row in rows if isinstance(cell := row[number], int))

    return ("total", "", column(2), column(3), "")[: len(rows[0])] if rows else None


def _deleted(outcome: Outcome) -> tuple[Report, list[str]]:
    """Return the table of what was deleted, and sentences for a person."""
    rows: list[Row] = [
        (name, kind, count, 0) for (name, kind), count in sorted(outcome.links.items()) if count
    ]
    rows += [(name or _NO_REPOSITORY, "blob", count, size) for name, count, size in outcome.freed]
    notes = [
        *_left(outcome.skipped, outcome.blocked),
        *(f"not done, as it is needed or too young: {key}" for key in outcome.refused),
        *(
            f"blob {unpack(digest)} was stored again with another size;"
            " compare data and data.aside.*"
            for digest in sorted(outcome.left)
        ),
        *(
            f"blob {unpack(digest)} is needed, and was deleted by another program; push it again"
            for digest in sorted(outcome.lost)
        ),
    ]
    report = Report(("repository", "kind", "count", "bytes"), rows, _total(rows), len(notes))
    if outcome.due_at is not None:
        notes.append(f"more blobs can go after {format_seconds(outcome.due_at)}; run gc again")
    elif not rows:
        notes.append(_NOTHING_TO_DELETE)
    return report, notes


def _left(skipped: dict[str, str], blocked: str | None) -> Iterator[str]:
    for name, reason in sorted(skipped.items()):
        yield f"repository {name} keeps its links: {reason}"
    if blocked is not None:
        yield f"no blob can be deleted: {blocked}"
