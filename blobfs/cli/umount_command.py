"""The command ``umount``."""

from __future__ import annotations

from pathlib import Path

import click

from blobfs.cli.output import echo
from blobfs.cli.types import PATH
from blobfs.host.unmount import unmount


@click.command()
@click.argument("mountpoint", type=PATH)
@click.option("--lazy", is_flag=True, help="Detach a mount that is in use; do not wait.")
def umount(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount MOUNTPOINT and wait until its daemon has ended; a dead mount is removed too.

    Also called blobfs unmount.
    """
    unmount(mountpoint, lazy=lazy, waiting=echo)
