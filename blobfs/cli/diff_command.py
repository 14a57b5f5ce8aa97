"""The command ``blobfs diff``."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final

import click

from blobfs.cli.image_files import ListedFile, shown
from blobfs.cli.image_options import ImageOpener, image_options
from blobfs.cli.opening import open_existing
from blobfs.cli.output import sentence
from blobfs.cli.types import JSON, REFERENCE, STORAGE
from blobfs.errors import BlobfsError
from blobfs.images.comparison import Aspect, Change, Comparison, Difference, Side
from blobfs.images.layer import Layer
from blobfs.logs import printable
from blobfs.reference import Reference

_DIFFERENT: Final = 1
_WIDTH: Final = max(map(len, Change))


class _Trouble(click.ClickException):
    """An error after which it is not known if the images differ."""

    exit_code = 2


@click.command()
@STORAGE
@click.argument("old", type=REFERENCE)
@click.argument("new", type=REFERENCE)
@click.option(
    "--ignore",
    "ignored",
    type=click.Choice([aspect.value for aspect in Aspect]),
    multiple=True,
    help="Ignore this aspect of files. Give it several times.",
)
@JSON
@image_options
def diff(
    storage: str,
    old: Reference,
    new: Reference,
    *,
    ignored: tuple[str, ...],
    as_json: bool,
    opener: ImageOpener,
) -> None:
    """Compare the files of two images in STORAGE, each REPOSITORY:TAG or REPOSITORY@DIGEST.

    Prints the files that NEW adds, changes and removes, with the number of the layer that has them:
    a layer of NEW, or of OLD for a removed file. A changed file is followed by what has changed.
    The time of a directory is not compared. --json prints one object a line.

    Exits with 0 if the files are equal, 1 if they differ, 2 if that cannot be found out.
    """
    is_different = False
    try:
        for line in _lines(
            storage, (old, new), frozenset(map(Aspect, ignored)), opener, as_json=as_json
        ):
            is_different = True
            click.echo(line)
    except BlobfsError as exc:
        raise _Trouble(printable(sentence(exc))) from exc
    except OSError as exc:
        if exc.errno == errno.EPIPE:
            raise
        raise _Trouble(printable(f"{exc.filename or 'output'}: {exc.strerror}")) from exc
    if is_different:
        sys.exit(_DIFFERENT)


def _lines(
    storage: str,
    references: Sequence[Reference],
    ignored: frozenset[Aspect],
    opener: ImageOpener,
    *,
    as_json: bool,
) -> Iterator[str]:
    """Yield a line for each difference."""
    with open_existing(storage) as registry:
        old, new = opener.open(registry, *references)
        before, after = (Side(each.files, each.image.layers) for each in (old, new))
        for each in Comparison(before, after, ignored).differences():
            image = old.image if each.change is Change.REMOVED else new.image
            yield _as_json(each, image.layers) if as_json else _as_text(each)


def _as_text(found: Difference) -> str:
    aspects = f"  ({', '.join(found.aspects)})" if found.aspects else ""
    return f"{found.change:<{_WIDTH}} {found.layer + 1:>3}  {shown(found.path)}{aspects}"


def _as_json(found: Difference, layers: Sequence[Layer]) -> str:
    file = ListedFile(found.path, found.entry)
    layer = layers[found.layer] if found.layer < len(layers) else None
    document = {
        "change": found.change,
        "path": os.fsdecode(found.path),
        "type": file.type,
        "size": found.entry.size,
        "layer": found.layer + 1,
        "layer_digest": None
        if layer is None
        else str(layer.descriptor.digest),  # an image without layers has a root
    }
    return json.dumps(document | ({"aspects": found.aspects} if found.aspects else {}))
