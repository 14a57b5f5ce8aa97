"""The outcome of a copy: the failures, with the images that they hurt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from blobfs.inventory.rows import unpack
from blobfs.transfer.catalog import Catalog

_ABOVE: Final = """
    UNION SELECT follows.manifest FROM follows JOIN hurt ON follows.earlier = hurt.id WHERE required
"""
_IMAGES: Final = """
    SELECT DISTINCT origin || ':' || tag.name FROM hurt JOIN manifest ON manifest.id = hurt.id
    JOIN named_tag AS tag USING (repository, digest) ORDER BY 1
"""
_OF_BLOB: Final = f"""
    WITH RECURSIVE hurt (id) AS (
        SELECT needs_blob.manifest FROM needs_blob
        JOIN manifest ON manifest.id = needs_blob.manifest
        JOIN link USING (repository, blob)
        WHERE blob = :number AND link.state = 'failed' {_ABOVE}
    ) {_IMAGES}
"""
_OF_REPOSITORY: Final = """
    SELECT origin || ':' || name FROM named_tag
    WHERE repository = :number AND state = 'failed' AND fault IS NULL ORDER BY 1
"""
_LEFT_OUT: Final = (
    "SELECT count(*) FROM {} WHERE repository = :number AND state = 'failed' AND fault IS NULL"
)
_OF_MANIFEST: Final = f"WITH RECURSIVE hurt (id) AS (SELECT :number {_ABOVE}) {_IMAGES}"


class Failure(NamedTuple):
    """An item that could not be copied, and the *images* that were left out for it."""

    item: str
    reason: str
    images: list[str]

    def __str__(self) -> str:
        others = [image for image in self.images if not self.item.endswith(f" {image}")]
        hurt = f"; left out: {', '.join(others)}" if others else ""
        return f"{self.item}: {self.reason}{hurt}"


def failures(catalog: Catalog) -> Iterator[Failure]:
    """Yield the causes of what could not be copied: repositories, tags, manifests, blobs."""
    for number, name, fault in catalog.rows(
        "SELECT id, name, fault FROM repository WHERE fault IS NOT NULL ORDER BY 2"
    ):
        left = ", ".join(_left_out(catalog, number))
        item = f"repository {name}"
        yield Failure(item, f"{fault} ({left})" if left else fault,
                      _names(catalog, _OF_REPOSITORY, number))  # fmt: skip
    for name, tag, fault in catalog.rows(
        "SELECT origin, name, fault FROM named_tag"
        " WHERE state = 'failed' AND fault IS NOT NULL ORDER BY 1, 2"
    ):
        yield Failure(f"tag {name}:{tag}", fault, [f"{name}:{tag}"])
    for number, name, digest, fault in catalog.rows(
        "SELECT id, origin, digest, fault FROM named_manifest"
        " WHERE state = 'failed' AND fault IS NOT NULL ORDER BY 2, 1"
    ):
        item = f"manifest {name}@{unpack(digest)}"
        yield Failure(item, fault, _names(catalog, _OF_MANIFEST, number))
    for number, digest, fault in catalog.rows(
        "SELECT blob, digest, min(fault) FROM named_link"
        " WHERE state = 'failed' AND fault IS NOT NULL GROUP BY blob ORDER BY 1"
    ):
        yield Failure(f"blob {unpack(digest)}", fault, _names(catalog, _OF_BLOB, number))


def _left_out(catalog: Catalog, repository: int) -> Iterator[str]:
    """Yield the numbers of items of a repository that has a fault, such as ``2 blobs``."""
    for kind, table in (("blob", "link"), ("manifest", "manifest"), ("tag", "tag")):
        count = catalog.one(_LEFT_OUT.format(table), number=repository)
        if count:
            yield f"{count:,} {kind}{'s' * (count > 1)}"


def _names(catalog: Catalog, select: str, number: int) -> list[str]:
    return [name for (name,) in catalog.rows(select, number=number)]
