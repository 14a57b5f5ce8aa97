"""Tables of contents by the annotations of a layer.

Source: stargz-snapshotter, docs/estargz.md; containers/storage, pkg/chunked/internal/minimal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ESTARGZ: Final = "containerd.io/snapshot/stargz/toc.digest"
CHUNKED: Final = "io.github.containers.zstd-chunked.manifest-checksum"
CHUNKED_POSITION: Final = "io.github.containers.zstd-chunked.manifest-position"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of contents as a manifest names it; both texts are untrusted.

    *position* is that of zstd:chunked. It is empty for eStargz, whose table a footer leads to.
    """

    digest: str
    position: str

    @classmethod
    def of(cls, annotations: Mapping[str, str]) -> Table | None:
        """Return the table that a layer's annotations name; None for none."""
        if CHUNKED in annotations and CHUNKED_POSITION in annotations:
            return cls(annotations[CHUNKED], annotations[CHUNKED_POSITION])
        return cls(annotations[ESTARGZ], "") if ESTARGZ in annotations else None
