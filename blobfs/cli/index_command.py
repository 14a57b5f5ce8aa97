"""The command ``blobfs index``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import click

from blobfs.cli.image_options import Indexes, bytes_of, index_options
from blobfs.cli.opening import ByteBar, digest_of, open_existing
from blobfs.cli.output import echo, print_report
from blobfs.cli.reports import BROKEN, OK, Report, Row
from blobfs.cli.types import HUMAN, JSON, LONG_HELP, NAME, STORAGE
from blobfs.digest import Digest
from blobfs.errors import Corrupt, NotFound
from blobfs.images.image import Image
from blobfs.images.images import Images
from blobfs.reference import Reference, RepositoryName
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository

_COLUMNS: Final = ("image", "platform", "entries", "bytes", "layers", "index", "state")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An image to index; *image* is None if it cannot be read, and *fault* says why."""

    reference: Reference
    repository: Repository
    image: Image | None
    fault: str = ""


@click.command(context_settings=LONG_HELP)
@STORAGE
@click.argument("names", metavar="REPOSITORY[:TAG]...", type=NAME, nargs=-1, required=True)
@click.option("-q", "--quiet", is_flag=True, help="Print only what cannot be indexed.")
@HUMAN
@JSON
@index_options
def index(
    storage: str,
    names: tuple[RepositoryName | Reference, ...],
    *,
    quiet: bool,
    human: bool,
    as_json: bool,
    indexes: Indexes,
) -> None:
    """Make the indexes of images in STORAGE, so that their first use reads no layer.

    A REPOSITORY without a tag means all its tags, but for signatures and other things that are no
    images; REPOSITORY@DIGEST is possible, too. Of an image
    index the images of all platforms are indexed. Each layer is read once and verified. Mounts and
    commands find the indexes in --index-dir.

    Exits with 1 if an image cannot be indexed, such as one with a layer that is no archive; the
    state says why, and the others are indexed.
    """
    bar = ByteBar("Indexing")
    with open_existing(storage) as registry:
        images = indexes.images(registry, bar.add)
        wanted = [each for name in names for each in _wanted(registry, images, name)]
        readable = (each.image for each in wanted if each.image is not None)
        layers = (layer for image in readable for layer in images.unindexed(image))
        with bar.showing(0 if quiet else bytes_of(layers)):
            rows = list(_rows(images, wanted, is_told=not quiet and not sys.stderr.isatty()))
    damaged = [row for row in rows if row[-1] != OK]
    report = Report(_COLUMNS, damaged if quiet else rows, damaged=len(damaged))
    if as_json or report.rows:
        print_report(report, as_json=as_json, human=human)


def _wanted(
    registry: Registry, images: Images, name: RepositoryName | Reference
) -> Iterator[_Wanted]:
    """Yield the images of a name; raises RepositoryUnknown, TagUnknown."""
    if isinstance(name, Reference):
        repository = registry.existing(name.repository)
        yield from _images(repository, images, name, digest_of(repository, name))
        return
    repository = registry.existing(name)
    for tag in sorted(repository.tags.enumerate()):
        reference = Reference(name, tag)
        try:
            digest = repository.tags.get(tag)
        except BROKEN as exc:
            yield _Wanted(reference, repository, None, str(exc))
        else:
            for each in _images(repository, images, reference, digest):
                if each.image is not None and each.image.is_artifact:
                    echo(f"{reference}: skipped, it is no image")
                else:
                    yield each


def _images(
    repository: Repository, images: Images, reference: Reference, digest: Digest
) -> Iterator[_Wanted]:
    try:
        for each in images.platforms(repository, digest).values():
            yield _Wanted(reference, repository, images.image(repository, each))
    except BROKEN as exc:
        yield _Wanted(reference, repository, None, str(exc))


def _rows(images: Images, wanted: Iterable[_Wanted], *, is_told: bool) -> Iterator[Row]:
    """Index the images, and yield a row for each; a line for each too if *is_told*."""
    for each in wanted:
        row = _row(images, each)
        if is_told:
            echo(f"{each.reference}: {row[-1]}")
        yield row


def _row(images: Images, wanted: _Wanted) -> Row:
    name, image = str(wanted.reference), wanted.image
    if image is None:
        return name, None, None, None, None, None, wanted.fault
    platform = "" if image.platform is None else image.platform.specifier
    try:
        files = images.index(wanted.repository, image)
    except (NotFound, Corrupt) as exc:
        return name, platform, None, None, len(image.layers), None, str(exc)
    entries, size = files.totals
    state = files.unplaced or OK
    return name, platform, entries, size, len(image.layers), images.index_size(image), state
