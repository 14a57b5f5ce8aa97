"""Digests and sizes that programs declare of uploads."""

from __future__ import annotations

from blobfs.digest import Digest
from blobfs.errors import DigestInvalid, TooLarge
from blobfs.storage.uploads.base import ContentWriter


def check_size(writer: ContentWriter, size: int, max_undeclared: int | None) -> None:
    """Raise TooLarge if *size* in bytes is more than an upload may have without a declaration."""
    if max_undeclared is None or size <= max_undeclared:
        return
    if writer.record.digest is None and writer.record.size is None:
        raise TooLarge(
            f"{size} bytes are more than --max-upload ({max_undeclared});"
            " declare the digest or the size, or raise the option"
        )


def declared_by(name: str) -> Digest | None:
    """Return the digest that a file's name declares, or None.

    rsync(1) calls an unfinished file ``.<name>.<six letters and digits>``; then *<name>* counts.
    """
    if name.startswith("."):
        name = name[1:].rpartition(".")[0]
    try:
        return Digest.parse(name)
    except DigestInvalid:
        return None
