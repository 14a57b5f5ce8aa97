"""The command ``blobfs doctor``."""

from __future__ import annotations

import click

from blobfs.cli import checkup
from blobfs.cli.completion import complete_storage
from blobfs.cli.output import print_report
from blobfs.cli.types import JSON, redis_option


@click.command()
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
    print_report(checkup.report(findings), as_json=as_json)
