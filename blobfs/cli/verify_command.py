"""The command ``blobfs verify``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from blobfs.cli.opening import hash_blobs, take_inventory
from blobfs.cli.types import JSON, STATE, Parsed
from blobfs.logs import printable
from blobfs.maintenance.faults import Fault, Severity
from blobfs.maintenance.verify import Verification
from blobfs.maintenance.verify import verify as verify_storage
from blobfs.reference import RepositoryName

_DAMAGED: Final = 1
"""The exit code if something that was pushed cannot be pulled."""

_IMAGES: Final = 3
"""Images named in a line of text."""


@click.command()
@click.argument("storage")
@click.argument("repositories", type=Parsed("repository", RepositoryName), nargs=-1)
@click.option("--links", is_flag=True, help="Read every link, also where its ETag is not its MD5.")
@click.option("--content", is_flag=True, help="Read and hash every blob too.")
@JSON
@STATE
def verify(
    storage: str,
    repositories: tuple[RepositoryName, ...],
    *,
    links: bool,
    content: bool,
    as_json: bool,
    state: Path | None,
) -> None:
    """Check the links, tags, manifests and blobs in STORAGE, and all that they refer to.

    With REPOSITORIES only their faults and those of their blobs are shown. damage keeps an image
    from being pulled, and the images are named; a risk may do so later; a left-over only takes
    space. A registry may go on writing meanwhile.

    Exits with 1 if there is damage.
    """
    with take_inventory(storage, state, every_link=links) as inventory:
        if content:
            hash_blobs(inventory)
        found = verify_storage(inventory, repositories)
    click.echo(_as_json(found) if as_json else "\n".join(_as_text(found)))
    if found.is_damaged:
        sys.exit(_DAMAGED)


def _as_json(found: Verification) -> str:
    faults = [
        {"severity": fault.severity, **_without(asdict(fault), "present", "absent")}
        for fault in found.faults
    ]
    return json.dumps({"faults": faults, "checked": found.counts}, indent=2)


def _without(values: dict[str, object], *keys: str) -> dict[str, object]:
    return {key: value for key, value in values.items() if key not in keys}


def _as_text(found: Verification) -> Iterator[str]:
    """Yield a paragraph for each kind of fault, and a summary."""
    last = None
    for fault in found.faults:
        if fault.kind is not last:
            yield f"{fault.severity}: {fault.kind}: {fault.kind.text}"
            last = fault.kind
        yield f"  {printable(_line(fault))}"
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
