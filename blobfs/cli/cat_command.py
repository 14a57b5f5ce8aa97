"""The command ``blobfs cat``."""

from __future__ import annotations

import os
import sys

import click

from blobfs.cli import image_files, reports
from blobfs.cli.image_options import ImageOpener, image_options
from blobfs.cli.opening import open_existing
from blobfs.cli.types import REFERENCE, STORAGE
from blobfs.reference import Reference


@click.command()
@STORAGE
@click.argument("reference", type=REFERENCE)
@click.argument("path", required=False)
@image_options
def cat(storage: str, reference: Reference, path: str | None, *, opener: ImageOpener) -> None:
    """Print a blob or manifest, verified, from STORAGE; or with PATH a file of an image.

    REFERENCE is REPOSITORY@DIGEST for a blob or manifest, REPOSITORY:TAG for a manifest. Before
    PATH it is an image. Symlinks in PATH stay in the image. The bytes are written as they are.
    """
    if path is None and opener.platform is not None:
        raise click.UsageError("--platform needs the PATH of a file")
    with open_existing(storage) as registry:
        if path is None:
            chunks = reports.content(registry, reference)
        else:
            [opened] = opener.open(registry, reference)
            chunks = image_files.content(opened.files, os.fsencode(path))
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
