"""The command ``blobfs stat``."""

from __future__ import annotations

import click

from blobfs.cli import image_report
from blobfs.cli.opening import open_existing
from blobfs.cli.output import print_report
from blobfs.cli.reports import Report, Row
from blobfs.cli.types import HUMAN, JSON, LONG_HELP, REFERENCE, STORAGE
from blobfs.reference import Reference


@click.command(context_settings=LONG_HELP)
@STORAGE
@click.argument("reference", type=REFERENCE)
@HUMAN
@JSON
def stat(storage: str, reference: Reference, *, human: bool, as_json: bool) -> None:
    """Show a line for each platform of an image in STORAGE: created, size, layers, digest.

    REFERENCE is REPOSITORY:TAG or REPOSITORY@DIGEST; blobfs show has more. Exits with 1 if a part
    of the image is missing.
    """
    with open_existing(storage) as registry:
        found = image_report.show(registry, reference)
    rows: list[Row] = [
        (
            image.platform or "",
            image.created,
            image.size,
            sum(step.digest is not None for step in image.steps),
            found.media_type,
            image.digest,
            image.state,
        )
        for image in found.images
    ]
    columns = ("platform", "created", "bytes", "layers", "media type", "digest", "state")
    report = Report(columns, rows, damaged=found.is_damaged)
    print_report(report, as_json=as_json, human=human)
