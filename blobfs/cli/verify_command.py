"""The command ``blobfs verify``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from blobfs.cache.factory import redis_failure, strict_cache_for
from blobfs.cli.inventories import hash_blobs, take_inventory
from blobfs.cli.opening import progress
from blobfs.cli.output import DAMAGED, echo
from blobfs.cli.reading import Reading, reading_options
from blobfs.cli.storage import Storage
from blobfs.cli.types import DIRECTORY, JSON, REPOSITORY, STATE, STORAGE
from blobfs.errors import BlobfsError, MountRefused
from blobfs.inventory.inventory import Depth
from blobfs.inventory.scanning import Hashed, opened
from blobfs.logs import printable
from blobfs.maintenance.faults import Fault, Severity
from blobfs.maintenance.repair import Repair, Repairer, RepairKind
from blobfs.maintenance.verify import SETTLE_S, SecondLook, Verification
from blobfs.maintenance.verify import verify as verify_storage
from blobfs.reference import RepositoryName

_IMAGES: Final = 3
"""Images named in a line of text."""


@click.command()
@STORAGE
@click.argument("repositories", type=REPOSITORY, nargs=-1)
@click.option("--links", is_flag=True, help="Read every link, also where its ETag is not its MD5.")
@click.option("--content", is_flag=True, help="Read and hash every blob too.")
@click.option(
    "--repair",
    "kinds",
    type=click.Choice([kind.value for kind in RepairKind]),
    multiple=True,
    help="Show what a repair would do; with --yes do it. Give it several times.",
)
@click.option("--yes", is_flag=True, help="Make the repairs.")
@click.option("--quarantine", type=DIRECTORY, help="Directory for damaged blobs.")
@click.option("--repair-from", "source", metavar="STORAGE", help="Storage to fetch blobs from.")
@JSON
@STATE
@reading_options
def verify(
    storage: str,
    repositories: tuple[RepositoryName, ...],
    *,
    links: bool,
    content: bool,
    kinds: tuple[str, ...],
    yes: bool,
    quarantine: Path | None,
    source: str | None,
    as_json: bool,
    state: Path | None,
    reading: Reading,
) -> None:
    """Check the links, tags, manifests and blobs in STORAGE, and all that they refer to.

    With REPOSITORIES only their faults and those of their blobs are shown. damage keeps an image
    from being pulled, and the images are named; a risk may do so later; a left-over only takes
    space. A registry may go on writing meanwhile.

    --repair relink writes lost links again; unlink removes those whose blob is gone and that no
    manifest needs, and empty repositories; quarantine moves damaged blobs to a directory; fetch
    copies missing ones from the storage of --repair-from. The storage is checked again afterwards.

    Exits with 1 if there is damage.
    """
    wanted = _repairs(kinds, quarantine, source)
    given = reading.storage(storage)
    _check_repositories(given, repositories)
    theirs = None if source is None else reading.storage(source).location
    depth = Depth.EVERY_LINK if links else Depth.EVERY_MANIFEST
    intact: list[Hashed] = []  # a look after a repair does not hash them again

    redis = _redis(given) if wanted and yes else None
    with closing(strict_cache_for(redis)) as cache, reading.workers(given) as workers:

        def look() -> Verification:
            with take_inventory(given, state, workers, depth) as inventory:
                if content:
                    inventory.journal.add_hashed(intact)
                    hash_blobs(inventory, workers)
                    intact[:] = inventory.journal.intact()
                return verify_storage(inventory, repositories, settle_s=SETTLE_S)

        found = look()
        repairer = Repairer(
            opened(given.location),
            SecondLook(opened(given.location)).confirms,
            quarantine,
            None if theirs is None else opened(theirs),
            cache,
        )
        repairs = repairer.plan(found.faults, wanted)
        tried: set[str] = set()
        while yes and (left := [repair for repair in repairs if repair.text not in tried]):
            _make(repairer, left)
            tried.update(repair.text for repair in left)
            found = look()  # what was repaired may show what else is wrong
            repairs = repairer.plan(found.faults, wanted)
    click.echo(_as_json(found, repairs) if as_json else "\n".join(_as_text(found, repairs)))
    if found.is_damaged:
        sys.exit(DAMAGED)


def _repairs(kinds: Sequence[str], quarantine: Path | None, source: str | None) -> set[RepairKind]:
    """Return the kinds of repairs; raises UsageError if one lacks its option."""
    wanted = set(map(RepairKind, kinds))
    if RepairKind.QUARANTINE in wanted and quarantine is None:
        raise click.UsageError("--repair quarantine needs --quarantine DIRECTORY")
    if RepairKind.FETCH in wanted and source is None:
        raise click.UsageError("--repair fetch needs --repair-from STORAGE")
    return wanted


def _redis(given: Storage) -> str | None:
    """Return the URL of the registry's Redis, which must answer; raises MountRefused."""
    url = given.redis
    if url is not None and (failure := redis_failure(url)):
        raise MountRefused(f"the registry's Redis: {failure}; start it, or correct its address")
    return url


def _check_repositories(given: Storage, names: Sequence[RepositoryName]) -> None:
    """Raise RepositoryUnknown for a misspelt name, in which nothing would be found."""
    if names:
        with given.open() as registry:
            for name in names:
                registry.existing(name)


def _make(repairer: Repairer, repairs: Sequence[Repair]) -> None:
    """Make the repairs, and print what was done."""
    for repair in progress(repairs, "Repairing"):
        try:
            if repairer.make(repair):
                echo(f"done: {repair.text}")
        except BlobfsError as exc:
            echo(f"failed: {repair.text}: {exc}")


def _as_json(found: Verification, repairs: Sequence[Repair]) -> str:
    faults = [
        {"severity": fault.severity, **_without(asdict(fault), "present", "absent", "size")}
        for fault in found.faults
    ]
    planned = [repair.text for repair in repairs]
    return json.dumps({"faults": faults, "repairs": planned, "checked": found.counts}, indent=2)


def _without(values: dict[str, object], *keys: str) -> dict[str, object]:
    return {key: value for key, value in values.items() if key not in keys}


def _as_text(found: Verification, repairs: Sequence[Repair]) -> Iterator[str]:
    """Yield a paragraph for each kind of fault, and a summary."""
    last = None
    for fault in found.faults:
        if fault.kind is not last:
            yield f"{fault.severity}: {fault.kind}: {fault.kind.text}"
            last = fault.kind
        yield f"  {printable(_line(fault))}"
    for repair in repairs:
        yield f"repair: {repair.kind}: {printable(repair.text)}"
    by_severity = Counter(fault.severity for fault in found.faults)
    faults = ", ".join(f"{by_severity[each]:,} {each}" for each in Severity)
    checked = ", ".join(f"{count:,} {name}" for name, count in found.counts.items())
    yield f"{faults} in {checked}"


def _line(fault: Fault) -> str:
    text = f"{fault.place}: {fault.detail}" if fault.detail else fault.place
    if not fault.images:
        return text
    named = ", ".join(fault.images[:_IMAGES])
    more = len(fault.images) - _IMAGES
    return f"{text}; needed by {named}" + (f" and {more} more" if more > 0 else "")
