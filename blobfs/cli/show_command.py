"""The command ``show``."""

from __future__ import annotations

import sys

import click

from blobfs.cli import image_report
from blobfs.cli.opening import open_existing
from blobfs.cli.output import DAMAGED
from blobfs.cli.types import HUMAN, JSON, LONG_HELP, REFERENCE, STORAGE
from blobfs.reference import Reference


@click.command(context_settings=LONG_HELP)
@STORAGE
@click.argument("reference", type=REFERENCE)
@HUMAN
@JSON
def show(storage: str, reference: Reference, *, human: bool, as_json: bool) -> None:
    """Show an image in STORAGE: its platforms, config, and layers with their history.

    REFERENCE is REPOSITORY:TAG or REPOSITORY@DIGEST. Exits with 1 if a part of it is missing.
    """
    with open_existing(storage) as registry:
        report = image_report.show(registry, reference)
    click.echo(report.as_json() if as_json else report.as_text(human=human))
    if report.is_damaged:
        sys.exit(DAMAGED)
