"""The command ``blobfs ls``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

import click

from blobfs.cli import image_files, reports
from blobfs.cli.image_files import ListedFile
from blobfs.cli.image_options import ImageOpener, image_options
from blobfs.cli.opening import open_existing, progress
from blobfs.cli.output import DAMAGED, echo, print_report
from blobfs.cli.types import HUMAN, JSON, LONG_HELP, NAME, STORAGE
from blobfs.reference import Reference, RepositoryName
from blobfs.storage.registry import Registry


@click.command(context_settings=LONG_HELP)
@STORAGE
@click.argument("name", metavar="[REPOSITORY|REFERENCE]", type=NAME, required=False)
@click.argument("path", required=False)
@click.option("-l", "is_long", is_flag=True, help="Print modes, owners, sizes and times of files.")
@HUMAN
@JSON
@image_options
def ls(
    storage: str,
    name: RepositoryName | Reference | None,
    path: str | None,
    *,
    is_long: bool,
    human: bool,
    as_json: bool,
    opener: ImageOpener,
) -> None:
    """List the repositories in STORAGE, the tags of a REPOSITORY, or the files of an image.

    REFERENCE is REPOSITORY:TAG or REPOSITORY@DIGEST. Its files in the directory PATH are listed, or
    in the root of the image; symlinks in PATH stay in the image. The first use of an image reads
    its layers and keeps an index of them. --json prints one object a line for files.

    Exits with 1 if something is damaged; a column or a message says what.
    """
    if not isinstance(name, Reference) and (path is not None or opener.platform is not None):
        raise click.UsageError("PATH and --platform need REPOSITORY:TAG or REPOSITORY@DIGEST")
    with open_existing(storage) as registry:
        if isinstance(name, Reference):
            found = _files(registry, opener, name, path or "/")
            _print_files(found, is_long=is_long, human=human, as_json=as_json)
            return
        if name is None:
            report = reports.repositories(registry, progress)
        else:
            report = reports.tags(registry, name)
    print_report(report, as_json=as_json, human=human)


def _files(
    registry: Registry, opener: ImageOpener, reference: Reference, path: str
) -> Iterator[ListedFile]:
    [opened] = opener.open(registry, reference)
    yield from image_files.listed(opened.files, os.fsencode(path))


def _print_files(found: Iterator[ListedFile], *, is_long: bool, human: bool, as_json: bool) -> None:
    """Print a line for each file; exits with 1 if one of them cannot be shown."""
    faults: list[str] = []
    files = _without_faults(found, faults)
    lines: Iterable[str]
    if as_json:
        lines = map(image_files.as_json, files)
    elif is_long:
        lines = image_files.long_lines(files, human=human)
    else:
        lines = (each.text for each in files)
    for line in lines:
        click.echo(line)
    for fault in faults:
        echo(fault)
    if faults:
        sys.exit(DAMAGED)


def _without_faults(found: Iterator[ListedFile], faults: list[str]) -> Iterator[ListedFile]:
    """Yield all of *found*, and add a message for each with a fault to *faults*."""
    for each in found:
        if each.entry.fault:
            faults.append(f"{each.text}: {each.entry.fault}")
        yield each
