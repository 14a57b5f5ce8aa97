"""The nodes of ``_uploads`` and ``_manifests/_uploads``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from blobfs.digest import Digest
from blobfs.drivers.base import FileReader
from blobfs.errors import AttributeUnknown, CrossesDirectories, Invalid
from blobfs.storage.contentwriter import ContentStore
from blobfs.vfs.blobs import BlobFile
from blobfs.vfs.nodes import Attr, Changeable, Directory, File, Kind, Lifetime, Node, Placed
from blobfs.vfs.upload import Upload
from blobfs.vfs.uploads import Uploads, UploadSet

_DIGEST = "user.blobfs.digest"
_SIZE = "user.blobfs.size"
_STATE = "user.blobfs.state"


class UploadReader(FileReader):
    """Reads what an upload has received so far, also while it is being written."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload

    @property
    def size(self) -> int:
        return self._upload.info().size

    def read_at(self, offset: int, size: int) -> bytes:
        return self._upload.read_at(offset, size)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class UploadFile(File):
    """An upload, and its bytes so far.

    Once it is committed, its name is another one of the blob. Descriptors that are older than the
    commit stay with this node, and read the blob through it.
    """

    takes_long = True  # it waits for a commit that is under way

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

    def set_xattr(self, name: str, value: bytes) -> None:
        """Declare the digest, or the size, that it will have; raises Invalid, ReadOnly."""
        text = value.decode("ascii", "replace")
        if name == _DIGEST:
            self.upload.declare(digest=Digest.parse(text))
        elif name == _SIZE:
            if not text.isdecimal() or len(text) > 18:
                raise Invalid(f"not a size in bytes: {text[:80]!r}")
            self.upload.declare(size=int(text))
        else:
            raise AttributeUnknown(f"{name[:160]} cannot be set on an upload")


@dataclass(frozen=True, slots=True)
class UploadsDirectory(Placed, Directory, Changeable):
    """``_uploads``, of blobs or of manifests.

    *published* makes the node of what was committed, and *layers* is where a rename publishes, if
    anywhere.
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
        upload = self._set.get(name)
        if upload.is_to_be_replaced:
            upload = self._set.replace(upload)
        receipt = upload.receipt
        if receipt is None:
            return UploadFile(upload)
        return replace(self.published(receipt.descriptor.digest), receipt=upload)

    def names(self) -> Iterator[str]:
        return iter(self._set.names())

    def create(self, name: str) -> Node:
        return UploadFile(self._set.begin(name))

    def unlink(self, name: str) -> None:
        self._set.remove(name)

    def rename(self, name: str, target: Node, new_name: str, *, replace: bool) -> None:
        if target.key == self.key:
            self._set.rename(name, new_name, replace=replace)
            return
        above, _, algorithm = target.key.rpartition("/")
        if not self.layers or above != self.layers:
            raise CrossesDirectories(f"{self.path}/{name[:160]} can only be copied")
        upload = self._set.get(name)
        upload.commit_as(Digest(algorithm, new_name))
        self._set.remove(name)

    @property
    def takes_long(self) -> bool:
        return not self._set.is_fresh

    @property
    def _set(self) -> UploadSet:
        return self.uploads.at(self.path, self.store)


def upload_of(node: Node) -> Upload | None:
    """The upload that *node* is, or whose receipt is a name of it."""
    match node:
        case UploadFile():
            return node.upload
        case BlobFile(receipt=Upload(is_receipt=True)):
            return node.receipt
    return None
