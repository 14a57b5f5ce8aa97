"""The command ``blobfs doctor``."""

from __future__ import annotations

import sys
from typing import Final

import click

from blobfs.cli import checkup
from blobfs.cli.completion import complete_storage
from blobfs.cli.types import JSON, redis_option

_PROBLEM: Final = 1


@click.command(short_help="Check this machine, and a storage.")
@click.argument("storage", required=False, shell_complete=complete_storage)
@redis_option(
    "Redis to check.  [default: that of the registry's file]",
    "BLOBFS_DOCTOR_CACHE",
    "BLOBFS_MOUNT_CACHE",
)
@JSON
def doctor(storage: str | None, *, cache: str | None, as_json: bool) -> None:
    """Check if this machine can mount, and if STORAGE can be mounted.

    A table shows the state of each check, and what to do: the FUSE device, the right to mount,
    limits, the storage and its free space, and for a bucket the credentials and the clock. Nothing
    is changed.

    Exits with 1 if there is a problem. A warning is no problem.
    """
    findings = list(checkup.of_machine())
    if storage is not None:
        findings += checkup.of_storage(storage, cache)
    report = checkup.report(findings)
    click.echo(report.as_json() if as_json else report.as_table())
    if report.damaged:
        sys.exit(_PROBLEM)
