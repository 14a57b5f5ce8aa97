"""Nodes of ``_uploads`` and ``_manifests/_uploads``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from blobfs.concurrency import refuse_to_take_long
from blobfs.digest import Digest
from blobfs.drivers.base import FileReader
from blobfs.errors import (
    AttributeUnknown,
    CrossesDirectories,
    Invalid,
    NotADirectory,
    NotFound,
    NotPermitted,
    TagUnknown,
    UploadUnknown,
)
from blobfs.storage.blobstore import MAX_CONTENT
from blobfs.storage.uploads.base import ContentStore
from blobfs.vfs.blobs import BlobFile
from blobfs.vfs.copied_upload import CopiedUpload, Placeholder
from blobfs.vfs.declarations import declared_by
from blobfs.vfs.nodes import Attr, Directory, File, Kind, Lifetime, MutableDirectory, Node, Placed
from blobfs.vfs.upload import Upload
from blobfs.vfs.upload_set import DELAYED, UploadSet
from blobfs.vfs.uploads import Uploads

_DIGEST = "user.blobfs.digest"
_SIZE = "user.blobfs.size"
_STATE = "user.blobfs.state"
_OURS = "user.blobfs."
_WITHOUT_EFFECT = {_STATE, "user.blobfs.media_type", "user.blobfs.repository"}


class UploadReader(FileReader):
    """Reads the received bytes of an upload, even while it is written."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload

    @property
    def size(self) -> int:
        return self._upload.info().size

    def read_at(self, offset: int, size: int) -> bytes:
        return self._upload.read_at(offset, size)

    def close(self) -> None:
        """Do nothing: the reader owns nothing."""


@dataclass(frozen=True, slots=True)
class UploadFile(File):
    """An upload and its received bytes.

    After the commit, a lookup of its name finds the blob. Descriptors that are older than the
    commit keep this node, and read the blob through it.
    """

    takes_long = True  # it may wait for a commit

    upload: Upload

    @property
    def key(self) -> str:
        return self.upload.key

    def attr(self) -> Attr:
        info = self.upload.info()
        return Attr(
            Kind.FILE,
            size=info.size,
            mtime_ns=info.mtime_ns,
            lifetime=Lifetime.MOMENT,
            writable=True,
        )

    def open(self) -> FileReader:
        return UploadReader(self.upload)

    def xattrs(self) -> Mapping[str, Callable[[], str]]:
        names = {_STATE: lambda: self.upload.state}
        digest, size = self.upload.declared()
        if digest is not None:
            names[_DIGEST] = lambda: str(digest)
        if size is not None:
            names[_SIZE] = lambda: str(size)
        return names


@dataclass(frozen=True, slots=True)
class CopiedFile(UploadFile):
    """The upload of a file that is copied into a link set, as a file of the link set.

    It is another file than that in ``_uploads``. A rename of a file to another of its names does
    nothing, so the rename that is to commit the upload would not reach this mount.
    """

    @property
    def key(self) -> str:
        return f"{self.upload.key}/copied"


@dataclass(frozen=True, slots=True)
class UploadsDirectory(Placed, Directory, MutableDirectory):
    """``_uploads`` of blobs or of manifests.

    *published* makes the node of committed content. *layers* is the path of the link set to which
    a rename publishes an upload; it is empty for manifests.
    """

    path: str
    uploads: Uploads
    store: ContentStore
    mtime_ns: Callable[[], int]
    published: Callable[[Digest], BlobFile]
    layers: str = ""

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns())

    def lookup(self, name: str) -> Node:
        if name == DELAYED and self._set.is_delaying:
            return DelayedDirectory(f"{self.path}/{name}", self)
        return self.file(name)

    def file(self, name: str) -> File:
        """Return the upload or receipt *name*, which may be in the ``DelayedDirectory``."""
        return self._file(self._set.get(name), UploadFile)

    def _file(self, upload: Upload, kind: type[UploadFile]) -> File:
        """Return the file of *upload*: one of *kind*, or the blob that it has become."""
        if upload.is_to_be_replaced:
            upload = self._set.replace(upload)
        receipt = upload.receipt
        if receipt is None:
            return kind(upload)
        try:
            return replace(self.published(receipt.descriptor.digest), receipt=upload)
        except NotFound:
            self._set.end_receipt(upload)
            raise

    def names(self) -> Iterator[str]:
        names = [name for name in self._set.names() if "/" not in name]
        return iter([*names, DELAYED] if self._set.is_delaying else names)

    def delayed_names(self) -> Iterator[str]:
        """Return the names in the ``DelayedDirectory``."""
        below = f"{DELAYED}/"
        names = self._set.names()
        return (name.removeprefix(below) for name in names if name.startswith(below))

    def mkdir(self, name: str) -> Node:
        if name != DELAYED:
            raise self._not_permitted(name)
        self._set.begin_delaying()
        return self.lookup(name)

    def rmdir(self, name: str) -> None:
        if not isinstance(self.lookup(name), DelayedDirectory):
            raise NotADirectory(f"not a directory: {self.path}/{name[:160]}")
        self._set.end_delaying()

    def create(self, name: str) -> Node:
        return UploadFile(self._set.begin(name))

    def unlink(self, name: str) -> None:
        self._set.remove(name)

    def link(self, name: str, node: Node) -> Node:
        """Copy a receipt, which is a hard link of a blob."""
        if not isinstance(node, BlobFile):
            raise self._not_permitted(name)
        self.store.commit_again(node.descriptor, node.descriptor.digest)
        self._set.add_receipt(name, node.descriptor)
        return self.lookup(name)

    def link_temporary(self, name: str, node: Node) -> None:
        """Add a receipt that is not listed."""
        if not isinstance(node, BlobFile):
            raise self._not_permitted(name)
        self._set.add_receipt(name, node.descriptor, is_copy=True)

    def copied(self, name: str) -> Node:
        """Return the upload of a copied file; a manifest that waits is tried again."""
        upload = self._copied(name)
        if not self.layers and not upload.is_open:
            refuse_to_take_long()
            self._set.retry(upload)
        if upload.is_gone and upload.receipt is not None:
            return self.published(upload.receipt.descriptor.digest)
        return self._file(upload, CopiedFile)

    def _copied(self, name: str) -> CopiedUpload:
        """Return the upload of a copied file, none that was begun here; raises UploadUnknown."""
        upload = self._set.peek(name) if self.layers else self._set.get(name)
        if not isinstance(upload, CopiedUpload):
            raise UploadUnknown(f"no file {name[:160]!r} is being copied")
        return upload

    def copy(self, name: str) -> Node:
        """Begin the upload of a copied file."""
        if declared_by(name) is None:
            raise NotPermitted(f"{name[:160]!r} is no digest; see {self.path}")
        return CopiedFile(self._set.begin_copy(name))

    def rename_copy(self, name: str, new_name: str) -> None:
        """Rename the upload of a copied file."""
        try:
            self._copied(name)
        except UploadUnknown:
            raise self._not_permitted(name) from None
        if declared_by(new_name) is None:
            raise NotPermitted(f"{new_name[:160]!r} is no digest; see {self.path}")
        self._set.rename(name, new_name, replace=True)

    def discard_copy(self, name: str) -> bool:
        """Remove the upload of a copied file; False if there is none."""
        try:
            self._copied(name)
        except UploadUnknown:
            return False
        self._set.remove(name)
        return True

    def begin_placeholder(self, name: str) -> Node:
        """Begin the file that a program later replaces by a tag, or by an entry of its history."""
        return UploadFile(self._set.begin_placeholder(name))

    def placeholder(self, name: str) -> Node:
        """Return the file that ``begin_placeholder`` has begun; raises TagUnknown."""
        try:
            upload = self._set.peek(name)
        except UploadUnknown:
            raise TagUnknown(repr(name[:160])) from None
        if upload.receipt is not None or not isinstance(upload, Placeholder):
            raise TagUnknown(repr(name[:160]))
        return UploadFile(upload)

    def discard_placeholder(self, name: str) -> bool:
        """Remove the file that ``begin_placeholder`` has begun; False if there is none."""
        try:
            self.placeholder(name)
        except TagUnknown:
            return False
        self._set.remove(name)
        return True

    def link_copy(self, name: str, node: Node) -> None:
        """Copy a manifest that waits, or link a blob under its digest of another algorithm."""
        digest = declared_by(name)
        match node:
            case BlobFile() if self.layers and digest is not None:
                if digest.algorithm == node.descriptor.digest.algorithm:
                    raise Invalid(f"blob {node.descriptor.digest} cannot be called {digest}")
                self.store.commit_again(node.descriptor, digest)
                self.uploads.linked(self.path, digest, node.descriptor.digest)
            case File() if not self.layers:
                with node.open() as reader:
                    content = reader.read_at(0, MAX_CONTENT)
                self._set.begin_copy(name).receive(content)
            case _:
                raise self._not_permitted(name)

    def rename(self, name: str, target: Node, new_name: str, *, replace: bool) -> None:
        if target.key == self.key:
            self._set.rename(name, new_name, replace=replace)
            return
        if target.key == f"{self.path}/{DELAYED}":
            self._set.rename(name, f"{DELAYED}/{new_name}", replace=replace)
            return
        above, _, algorithm = target.key.rpartition("/")
        if not self.layers or above != self.layers:
            raise CrossesDirectories(f"{self.path}/{name[:160]} can only be copied")
        upload = self._set.get(name)
        upload.commit_as(Digest(algorithm, new_name))
        if not upload.is_gone:  # that of a copied file ends with its commit
            self._set.remove(name)

    @property
    def takes_long(self) -> bool:
        return not self._set.is_fresh

    @property
    def _set(self) -> UploadSet:
        return self.uploads.at(self.path, self.store)


@dataclass(frozen=True, slots=True)
class DelayedDirectory(Placed, Directory, MutableDirectory):
    """The directory in which ``rsync --delay-updates`` collects files until all have arrived.

    It is in memory. Uploads and receipts are renamed into it and out of it; none begins in it.
    """

    path: str
    above: UploadsDirectory

    def attr(self) -> Attr:
        return self.above.attr()

    def lookup(self, name: str) -> Node:
        return self.above.file(f"{DELAYED}/{name}")

    def names(self) -> Iterator[str]:
        return self.above.delayed_names()

    def unlink(self, name: str) -> None:
        self.above.unlink(f"{DELAYED}/{name}")

    def rename(self, name: str, target: Node, new_name: str, *, replace: bool) -> None:
        self.above.rename(f"{DELAYED}/{name}", target, new_name, replace=replace)

    @property
    def takes_long(self) -> bool:
        return self.above.takes_long


def set_xattr(upload: Upload, name: str, value: bytes) -> None:
    """Declare the digest or size of *upload*; raises Invalid, ContentMismatch.

    Other programs' attributes, and attributes copied from a file of a mount, have no effect. Nor
    has any on a file that is copied into a link set, since its name declares the digest.
    """
    if upload.is_copy:
        return
    text = value.decode("ascii", "replace")
    if name == _DIGEST:
        upload.declare(digest=Digest.parse(text))
    elif name == _SIZE:
        if not text.isdecimal() or len(text) > 18:
            raise Invalid(f"not a size in bytes: {text[:80]!r}")
        upload.declare(size=int(text))
    elif name.startswith(_OURS) and name not in _WITHOUT_EFFECT:
        raise Invalid(f"{name[:160]} is no attribute of an upload; set {_DIGEST} or {_SIZE}")


def remove_xattr(upload: Upload, name: str) -> None:
    """Accept a removal that has no effect; raises AttributeUnknown, NotPermitted.

    Programs that copy attributes remove those that the source does not have.
    """
    if name not in {_DIGEST, _SIZE, *_WITHOUT_EFFECT}:
        raise AttributeUnknown(f"an upload has no attribute {name[:160]}")
    if name not in _WITHOUT_EFFECT and not upload.is_receipt and not upload.is_copy:
        raise NotPermitted(f"{name} is declared; declare another value, or remove the upload")


def upload_of(node: Node) -> Upload | None:
    """Return the upload of *node*, or the receipt of a blob; None if it has none."""
    match node:
        case UploadFile():
            return node.upload
        case BlobFile(receipt=Upload(is_receipt=True)):
            return node.receipt
    return None
