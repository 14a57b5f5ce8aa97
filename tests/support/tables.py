"""Layers with a table of contents: eStargz and zstd:chunked, written by their specifications.

``estargz`` and ``zstd_chunked`` take an archive, and *change* its table before it is written, so
that a manifest vouches for a table that lies.
"""

import base64
import gzip
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Final

import zstandard

from blobfs.digest import Descriptor, Digest
from blobfs.images.layer import Layer
from blobfs.images.toc.table import CHUNKED, CHUNKED_POSITION, ESTARGZ, Table
from tests.support.layers import image_blobs

Json = dict[str, Any]
Change = Callable[[Json], object]

FOOTER: Final = 51
_NAME: Final = "stargz.index.json"
_TYPES: Final = {
    tarfile.REGTYPE: "reg", tarfile.LNKTYPE: "hardlink", tarfile.SYMTYPE: "symlink",
    tarfile.DIRTYPE: "dir", tarfile.FIFOTYPE: "fifo", tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
}  # fmt: skip


def unchanged(document: Json) -> None:
    """Leave a table as it is."""


@dataclass(frozen=True, slots=True)
class TabledLayer:
    """A layer with a table: its blob, its archive, and the annotations of its descriptor."""

    blob: bytes
    archive: bytes
    annotations: dict[str, str]

    @property
    def layer(self) -> Layer:
        """The layer as an image has it."""
        descriptor = Descriptor(Digest.of(self.blob), len(self.blob))
        return Layer(descriptor, Digest.of(self.archive), Table.of(self.annotations))


def estargz(
    archive: bytes,
    change: Change = unchanged,
    *,
    chunk_size: int = 2**22,
    min_chunk_size: int = 0,
    is_listed: bool = True,
    encode: Callable[[Json], bytes] = lambda document: json.dumps(document, indent="\t").encode(),
) -> TabledLayer:
    """An eStargz layer. *is_listed*: the table is a member of the archive, before its end mark.

    With *min_chunk_size* several files share a gzip member, as newer versions write them.
    """
    writer = _Writer(archive, chunk_size, min_chunk_size, lambda data: gzip.compress(data, 1))
    end = writer.content_end
    writer.finish(b"" if is_listed else archive[end:])
    entries = [{k: v for k, v in entry.items() if k != "endOffset"} for entry in writer.entries]
    document = {"version": 1, "entries": entries}
    change(document)
    content = encode(document)
    info = tarfile.TarInfo(_NAME)
    info.size, info.mode = len(content), 0
    tail = info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512 + 1024)
    position = len(writer.blob)
    extra = b"SG" + (22).to_bytes(2, "little") + b"%016xSTARGZ" % position
    footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0" + extra + b"\x01\0\0\xff\xff" + bytes(8)
    assert len(footer) == FOOTER
    blob = bytes(writer.blob) + gzip.compress(tail, 9) + footer
    return TabledLayer(blob, gzip.decompress(blob), {ESTARGZ: str(Digest.of(content))})


def zstd_chunked(
    archive: bytes, change: Change = unchanged, *, chunk_size: int = 2**16
) -> TabledLayer:
    """A zstd:chunked layer."""
    writer = _Writer(archive, chunk_size, 0, zstandard.ZstdCompressor().compress, is_exact=True)
    writer.finish(archive[writer.content_end :])
    document = {"version": 1, "entries": writer.entries}
    change(document)
    text = json.dumps(document).encode()
    content = zstandard.ZstdCompressor().compress(text)
    position = len(writer.blob) + 8
    fields = (position, len(content), len(text), 1, 0, 0, 0)
    footer = b"".join(field.to_bytes(8, "little") for field in fields) + b"GNUlInUx"
    blob = bytes(writer.blob) + _skippable(content) + _skippable(footer)
    annotations = {
        CHUNKED: str(Digest.of(content)),
        CHUNKED_POSITION: f"{position}:{len(content)}:{len(text)}:1",
    }
    return TabledLayer(blob, archive, annotations)


def _skippable(content: bytes) -> bytes:
    return b"\x50\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


class _Writer:
    """Compresses the contents of files apart from each other, and makes their entries."""

    def __init__(
        self,
        archive: bytes,
        chunk_size: int,
        min_chunk_size: int,
        compress: Callable[[bytes], bytes],
        *,
        is_exact: bool = False,
    ) -> None:
        self.blob = bytearray()
        self.entries: list[Json] = []
        self.content_end = 0
        self._compress = compress
        self._pending = bytearray()
        with tarfile.open(fileobj=BytesIO(archive)) as file:
            for info in file:
                self._add(archive, info, chunk_size, min_chunk_size, is_exact)

    def _add(
        self, archive: bytes, info: tarfile.TarInfo, chunk_size: int, least: int, is_exact: bool
    ) -> None:
        entry = _entry(info, is_exact)
        self.entries.append(entry)
        self._pending += archive[self.content_end : info.offset_data]
        size = info.size if info.isreg() else 0
        content = archive[info.offset_data : info.offset_data + size]
        if content:
            entry["digest"] = str(Digest.of(content))
        for start in range(0, size, chunk_size):
            if start:
                entry = {"name": info.name, "type": "chunk", "chunkOffset": start}
                self.entries.append(entry)
            part = content[start : start + chunk_size]
            if len(self._pending) >= least:
                self.finish(b"")
            entry["offset"] = len(self.blob)
            if self._pending:
                entry["innerOffset"] = len(self._pending)
            if len(part) < size - start:
                entry["chunkSize"] = len(part)
            if size > chunk_size or not is_exact:
                entry["chunkDigest"] = str(Digest.of(part))
            self._pending += part
        self.content_end = info.offset_data + size + -size % 512
        self._pending += archive[info.offset_data + size : self.content_end]

    def finish(self, rest: bytes) -> None:
        """Write what is pending, and *rest*."""
        self._pending += rest
        if self._pending:
            self.blob += self._compress(bytes(self._pending))
        self._pending.clear()


def _entry(info: tarfile.TarInfo, is_exact: bool) -> Json:
    name = info.name + "/" * (info.isdir() and not info.name.endswith("/"))
    entry: Json = {"name": name, "type": _TYPES[info.type], "mode": info.mode}
    entry |= {"uid": info.uid, "gid": info.gid, "modtime": _time(info, is_exact)}
    if info.isreg():
        entry["size"] = info.size
    if info.issym() or info.islnk():
        entry["linkName"] = info.linkname
    if info.isdev():
        entry |= {"devMajor": info.devmajor, "devMinor": info.devminor}
    prefix = "SCHILY.xattr."
    entry["xattrs"] = {
        key.removeprefix(prefix): base64.b64encode(
            value.encode("utf-8", "surrogateescape")
        ).decode()
        for key, value in info.pax_headers.items()
        if key.startswith(prefix)
    }
    return {key: value for key, value in entry.items() if value}


def _time(info: tarfile.TarInfo, is_exact: bool) -> str:
    seconds, _, fraction = info.pax_headers.get("mtime", str(int(info.mtime))).partition(".")
    text = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction}Z" if fraction and is_exact else f"{text}Z"


def chunks_of(document: Json) -> Iterator[Json]:
    """The entries of a table that have content."""
    yield from (entry for entry in document["entries"] if "offset" in entry)


def image_of(*tabled: TabledLayer) -> list[bytes]:
    """The blobs of an image of layers with tables, the last of which is its manifest."""
    packed = {each.archive: each.blob for each in tabled}
    *blobs, manifest = image_blobs(list(packed), compress=True, pack=packed.__getitem__)
    document = json.loads(manifest)
    for described, each in zip(document["layers"], tabled, strict=True):
        described["annotations"] = each.annotations
    return [*blobs, json.dumps(document).encode()]
