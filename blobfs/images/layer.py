"""The layers of an image."""

from __future__ import annotations

from dataclasses import dataclass

from blobfs.digest import CANONICAL, Descriptor, Digest
from blobfs.images.toc.table import Table


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an image. *diff_id* is the digest of the uncompressed archive.

    *table* is the table of contents that the manifest names. The index of the layer is made from
    the table if *by_table* is true, otherwise from the archive.
    """

    descriptor: Descriptor
    diff_id: Digest | None
    table: Table | None = None
    by_table: bool = False

    @property
    def index(self) -> Digest:
        """The key of its index.

        It depends on the algorithm of the diff ID, which the index has, too. It depends on the
        table, because an index is made from it or compared with it.
        """
        parts = [str(self.descriptor.digest)]
        if self.diff_id is not None and self.diff_id.algorithm != CANONICAL:
            parts.append(self.diff_id.algorithm)
        if self.table is not None:
            parts += [self.table.digest, self.table.position, str(self.by_table)]
        return self.descriptor.digest if len(parts) == 1 else Digest.of(f"{parts}".encode())
