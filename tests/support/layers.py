"""Layers as tar archives, block by block, and images of them in OCI layouts and registries.

A member is bytes: its headers and its content. ``archive`` joins members to a layer. The members
take what ``tarfile`` refuses to write: any bytes in names, wrong numbers, headers that lie.
"""

import gzip
import hashlib
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from blobfs.digest import Digest
from blobfs.errors import LayerInvalid
from blobfs.reference import Tag
from tests.support.layout import LATEST, Layout

BLOCK: Final = 512
MTIME_NS: Final = 1_600_000_000_123_456_789
END: Final = bytes(2 * BLOCK)

GNU_MAGIC: Final = b"ustar  \0"
PAX_MAGIC: Final = b"ustar\x0000"

_OCI: Final = "application/vnd.oci.image"
_CREATED: Final = "2024-02-29T12:00:00Z"
CREATED_NS: Final = 1_709_208_000 * 10**9

Json = dict[str, object]


def header(
    name: bytes,
    kind: bytes = tarfile.REGTYPE,
    size: int = 0,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = MTIME_NS // 10**9,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    magic: bytes = PAX_MAGIC,
    prefix: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """A header block; what does not fit is cut off. *tail* replaces all from the prefix on."""
    block = bytearray(BLOCK)
    fields = [
        (0, name[:100]), (100, _number(mode, 8)), (108, _number(uid, 8)), (116, _number(gid, 8)),
        (124, _number(size, 12)), (136, _number(mtime, 12)), (156, kind), (157, link[:100]),
        (257, magic), (329, _number(device[0], 8)), (337, _number(device[1], 8)),
        (345, tail or prefix[:155]),
    ]  # fmt: skip
    for offset, value in fields:
        block[offset : offset + len(value)] = value
    return with_checksum(bytes(block))


def with_checksum(block: bytes) -> bytes:
    """A header block with the right checksum."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


def _number(value: int, size: int) -> bytes:
    """A field in octal, or in base 256 if it must be."""
    if 0 <= value < 8 ** (size - 1):
        return b"%0*o\0" % (size - 1, value)
    return bytes((0xFF if value < 0 else 0x80,)) + value.to_bytes(size - 1, "big", signed=value < 0)


def padded(content: bytes) -> bytes:
    """Content with zeros up to a whole block."""
    return content + bytes(-len(content) % BLOCK)


def pax(records: Mapping[bytes, bytes] | Sequence[tuple[bytes, bytes]]) -> bytes:
    """An extended header in front of a member."""
    pairs = records.items() if isinstance(records, Mapping) else records
    content = b"".join(_record(key, value) for key, value in pairs)
    return raw_pax(content)


def raw_pax(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header with any content."""
    return header(b"PaxHeaders/member", kind, len(content)) + padded(content)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest)
    while size != len(b"%d" % size) + len(rest):
        size = len(b"%d" % size) + len(rest)
    return b"%d" % size + rest


def member(
    path: bytes,
    content: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime_ns: int = MTIME_NS,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    xattrs: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """A member as GNU tar writes it with ``--format=pax``."""
    records: dict[bytes, bytes] = {}
    if mtime_ns % 10**9:
        records[b"mtime"] = _decimal(mtime_ns)
    if len(path) > 100:
        records[b"path"] = path
    if len(link) > 100:
        records[b"linkpath"] = link
    records |= {b"SCHILY.xattr." + name: value for name, value in (xattrs or {}).items()}
    block = header(
        path, kind, len(content), mode=mode, uid=uid, gid=gid, mtime=mtime_ns // 10**9,
        link=link, device=device,
    )  # fmt: skip
    return (pax(records) if records else b"") + block + padded(content)


def _decimal(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    return sign + b"%d.%09d" % divmod(abs(nanoseconds), 10**9)


def directory(path: bytes, mode: int = 0o755, **more: object) -> bytes:
    """A directory."""
    return member(path, kind=tarfile.DIRTYPE, mode=mode, **more)  # type: ignore[arg-type]


def symlink(path: bytes, target: bytes, **more: object) -> bytes:
    """A symlink."""
    return member(path, kind=tarfile.SYMTYPE, mode=0o777, link=target, **more)  # type: ignore[arg-type]


def hardlink(path: bytes, target: bytes) -> bytes:
    """A hard link."""
    return member(path, kind=tarfile.LNKTYPE, link=target)


def whiteout(path: bytes) -> bytes:
    """The mark that removes *path*."""
    parent, slash, name = path.rpartition(b"/")
    return member(parent + slash + b".wh." + name)


def opaque(path: bytes) -> bytes:
    """The mark that removes all that lower layers have in the directory *path*."""
    return member((path + b"/" if path else b"") + b".wh..wh..opq")


def gnu_long(text: bytes, kind: bytes = tarfile.GNUTYPE_LONGNAME) -> bytes:
    """A long name in the GNU format, in front of a member."""
    content = text + b"\0"
    return header(b"././@LongLink", kind, len(content), magic=GNU_MAGIC) + padded(content)


def _sparse_map(parts: Mapping[int, bytes], size: int) -> tuple[list[int], bytes]:
    """Offsets and lengths of *parts* and of the end, as GNU tar writes them; and the content."""
    numbers = [number for start, data in parts.items() for number in (start, len(data))]
    return [*numbers, size, 0], b"".join(parts.values())


def sparse_old_gnu(path: bytes, parts: Mapping[int, bytes], size: int) -> bytes:
    """A sparse file in the old GNU format."""
    numbers, data = _sparse_map(parts, size)
    fields = [_number(number, 12) for number in numbers]
    first, rest = b"".join(fields[:8]), fields[8:]
    tail = bytes(41) + first.ljust(96, b"\0") + bytes((bool(rest),)) + _number(size, 12)
    blocks = b""
    while rest:
        part, rest = rest[:42], rest[42:]
        blocks += (b"".join(part).ljust(504, b"\0") + bytes((bool(rest),))).ljust(BLOCK, b"\0")
    return header(path, b"S", len(data), magic=GNU_MAGIC, tail=tail) + blocks + padded(data)


def sparse_pax_00(path: bytes, parts: Mapping[int, bytes], size: int) -> bytes:
    """A sparse file in the PAX format 0.0."""
    numbers, data = _sparse_map(parts, size)
    count = b"%d" % (len(numbers) // 2)
    records = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.numblocks", count)]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        records.append((b"GNU.sparse.offset", b"%d" % start))
        records.append((b"GNU.sparse.numbytes", b"%d" % length))
    return pax(records) + header(path, size=len(data)) + padded(data)


def sparse_pax_01(path: bytes, parts: Mapping[int, bytes], size: int) -> bytes:
    """A sparse file in the PAX format 0.1."""
    numbers, data = _sparse_map(parts, size)
    text = b",".join(b"%d" % number for number in numbers)
    records = {b"GNU.sparse.size": b"%d" % size, b"GNU.sparse.name": path, b"GNU.sparse.map": text,
               b"GNU.sparse.numblocks": b"%d" % (len(numbers) // 2)}  # fmt: skip
    return pax(records) + header(b"GNUSparseFile.1/file", size=len(data)) + padded(data)


def sparse_pax_10(path: bytes, parts: Mapping[int, bytes], size: int) -> bytes:
    """A sparse file in the PAX format 1.0."""
    numbers, data = _sparse_map(parts, size)
    text = b"".join(b"%d\n" % number for number in (len(numbers) // 2, *numbers))
    content = padded(text) + data
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": path,
               b"GNU.sparse.realsize": b"%d" % size}  # fmt: skip
    return pax(records) + header(b"GNUSparseFile.1/file", size=len(content)) + padded(content)


SPARSE: Final = {
    "old": sparse_old_gnu, "0.0": sparse_pax_00, "0.1": sparse_pax_01, "1.0": sparse_pax_10,
}  # fmt: skip


def archive(*members: bytes) -> bytes:
    """A layer."""
    return b"".join(members) + END


class MemorySource:
    """A ByteSource of an archive in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.position = 0

    def read(self, size: int) -> bytes:
        """The next bytes."""
        data = self._content[self.position : self.position + size]
        self.position += len(data)
        return data

    def skip(self, size: int) -> None:
        """Go forward."""
        if size < 0 or self.position + size > len(self._content):
            raise LayerInvalid("the archive ends within a member")
        self.position += size


class LayerImages:
    """Writes an OCI layout of images with given layers at *directory*, which umoci can unpack."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._tags: list[Json] = []
        (directory / "blobs/sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def add(self, tag: str, *layers: bytes, compress: bool = False) -> None:
        """Add an image of *layers*, archives from the lowest to the highest."""
        self.add_blobs(tag, image_blobs(layers, compress=compress))

    def add_blobs(self, tag: str, blobs: Sequence[bytes]) -> None:
        """Add an image of *blobs*, the last of which is its manifest."""
        for content in blobs:
            (self.directory / "blobs/sha256" / _hex(content)).write_bytes(content)
        name = {"org.opencontainers.image.ref.name": tag}
        manifest = _described("manifest.v1+json", blobs[-1]) | {"annotations": name}
        self._tags.append(manifest)
        index = {"schemaVersion": 2, "manifests": self._tags}
        (self.directory / "index.json").write_text(json.dumps(index))


def store_image(
    layout: Layout, *layers: bytes, compress: bool = False, tag: Tag = LATEST
) -> Digest:
    """Store an image in a registry's storage, under *tag* of ``layout.APP``; returns its digest."""
    return store_blobs(layout, image_blobs(layers, compress=compress), tag)


def store_blobs(layout: Layout, contents: Sequence[bytes], tag: Tag) -> Digest:
    """Store an image of blobs, the last of which is its manifest; returns its digest."""
    *blobs, manifest = contents
    for content in blobs:
        layout.layer(content)
    digest = layout.revision(manifest)
    layout.tag(digest, tag)
    return digest


def image_blobs(
    layers: Sequence[bytes], *, compress: bool = False, pack: Callable[[bytes], bytes] | None = None
) -> list[bytes]:
    """The blobs of an image: its layers, its config, and at the end its manifest.

    *pack* compresses a layer; by default it is gzip with *compress*, and nothing without it.
    """
    if pack is None:
        pack = partial(gzip.compress, compresslevel=1, mtime=0) if compress else bytes
    stored = [pack(layer) for layer in layers]
    diff_ids = [f"sha256:{_hex(layer)}" for layer in layers]
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "created": _CREATED,
         "rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": {}}
    ).encode()  # fmt: skip
    kind = "layer.v1.tar+gzip" if compress else "layer.v1.tar"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": _described("config.v1+json", config),
        "layers": [_described(kind, layer) for layer in stored],
    }
    return [*stored, config, json.dumps(manifest).encode()]


def _described(kind: str, content: bytes) -> Json:
    return {
        "mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{_hex(content)}", "size": len(content),
    }  # fmt: skip


def _hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
