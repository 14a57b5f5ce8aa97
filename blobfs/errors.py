"""Every exception that blobfs raises on purpose.

BlobfsError
├── NotFound              nothing is there under that name
│   ├── PathNotFound          driver: no file or directory at the path
│   ├── BlobUnknown           no such blob, or no link to it in the repository
│   ├── ManifestUnknown       no such revision in the repository
│   ├── TagUnknown
│   ├── UploadUnknown
│   └── RepositoryUnknown
├── Invalid               the argument can never be right
│   ├── DigestInvalid
│   ├── HashStateInvalid
│   ├── NameInvalid
│   ├── PathInvalid
│   ├── OffsetInvalid
│   ├── AppendOnly            the backend cannot change bytes that were written
│   ├── ManifestRejected      what was to be put is no manifest that the repository can hold
│   └── MountRefused          the command line: what to mount, or where, cannot be used
├── NameTooLong           longer than any name the tree has
├── NotADirectory         a file was used as a directory
├── NotAFile              a directory was used as a file
├── NotASymlink           something else was used as a symlink
├── Stale                 the thing was there when it was looked up, and is gone
├── AttributeUnknown      no extended attribute of that name
├── Unsupported           the mount does not have the operation
├── ReadOnly              the thing can never be changed through the mount
├── NotPermitted          nothing can be done in that way there, or only with an option
├── CrossesDirectories    a rename that only a copy can do
├── Exists                something is there under that name
├── NotEmpty              the directory to be removed has something in it
├── Busy                  another writer has it open
├── Interrupted           the work was stopped before its end, and can be begun again
├── TooManyOpen           a user has as many files open as one may have
├── TooLarge              more bytes than it may have
├── ContentMismatch       what was uploaded is not what was declared
├── AccessDenied          the storage refuses us
│   └── StorageReadOnly       it refuses every change
├── Corrupt               what is stored contradicts itself
│   ├── LinkInvalid           a link file that is not exactly one digest
│   ├── LinkDangling          a link to a blob that is missing
│   ├── BlobDamaged           a blob that is shorter than it was, or empty where it must not be
│   ├── FileChanged           a file that was replaced while it was read
│   ├── ManifestInvalid       not a manifest of a supported media type
│   └── DigestMismatch        stored bytes do not hash to their digest
├── WriterClosed          a file writer was used after its end
├── StorageFull           the storage has no room
│   └── QuotaExceeded         we may not use more of it
└── StorageUnavailable    the driver could not reach its storage; trying again may help
    ├── StorageTimeout        it did not answer in time
    └── StorageOverloaded     too many requests wait for it

``fuse/errnos.py`` gives each of them its errno. Exceptions are plain classes, never
frozen dataclasses: ``contextlib`` assigns ``__traceback__`` while they propagate.
"""

from __future__ import annotations


class BlobfsError(Exception):
    """Base of everything below."""


class NotFound(BlobfsError):
    """Nothing is there under that name."""


class PathNotFound(NotFound):
    """A driver has no file or directory at *path*."""

    def __init__(self, path: str) -> None:
        super().__init__(f"no such path: {path}")
        self.path = path


class BlobUnknown(NotFound):
    """The blob does not exist, or the repository has no link to it."""

    def __init__(self, digest: object) -> None:
        super().__init__(f"unknown blob: {digest}")
        self.digest = digest


class ManifestUnknown(NotFound):
    """The repository has no such revision."""

    def __init__(self, reference: object) -> None:
        super().__init__(f"unknown manifest: {reference}")


class TagUnknown(NotFound):
    """The repository has no such tag."""

    def __init__(self, tag: str) -> None:
        super().__init__(f"unknown tag: {tag}")


class UploadUnknown(NotFound):
    """The repository has no such upload."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown upload: {name}")


class RepositoryUnknown(NotFound):
    """The registry has no repository of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown repository: {name}")


class Invalid(BlobfsError):
    """The argument can never be right, whatever is stored."""


class DigestInvalid(Invalid):
    """Not a digest blobfs can address content by."""


class HashStateInvalid(Invalid):
    """Not a hash state that a digester can go on from."""


class NameInvalid(Invalid):
    """Not a repository name, tag or reference."""


class PathInvalid(Invalid):
    """Not a driver path, or not one of the registry's layout."""


class OffsetInvalid(Invalid):
    """A negative offset."""


class AppendOnly(Invalid):
    """The backend cannot change bytes that were written."""


class ManifestRejected(Invalid):
    """What was to be put is no manifest that the repository can hold; the message says why."""


class MountRefused(Invalid):
    """What was to be mounted, or where, cannot be used; the message says what to do."""


class NameTooLong(BlobfsError):
    """Longer than any name the tree has."""


class NotADirectory(BlobfsError):
    """A file was used as a directory."""


class NotAFile(BlobfsError):
    """A directory was used as a file."""


class NotASymlink(BlobfsError):
    """Something else was used as a symlink."""


class Stale(BlobfsError):
    """The thing was there when it was looked up, and is gone."""


class AttributeUnknown(BlobfsError):
    """No extended attribute of that name."""


class Unsupported(BlobfsError):
    """The mount does not have the operation."""


class ReadOnly(BlobfsError):
    """The thing can never be changed through the mount."""


class NotPermitted(BlobfsError):
    """Nothing can be done in that way there, or only with an option of the mount."""


class CrossesDirectories(BlobfsError):
    """A rename that only a copy can do."""


class Exists(BlobfsError):
    """Something is there under that name."""


class NotEmpty(BlobfsError):
    """The directory to be removed has something in it."""


class Busy(BlobfsError):
    """Another writer has it open."""


class Interrupted(BlobfsError):
    """The work was stopped before its end, and can be begun again."""


class TooManyOpen(BlobfsError):
    """A user has as many files and directories open as one user may have."""


class TooLarge(BlobfsError):
    """More bytes than it may have."""


class ContentMismatch(BlobfsError):
    """What was uploaded has another digest, or size, than was declared."""


class AccessDenied(BlobfsError):
    """The storage refuses us."""


class StorageReadOnly(AccessDenied):
    """The storage is on a read-only file system."""


class Corrupt(BlobfsError):
    """What is stored contradicts itself."""


class LinkInvalid(Corrupt):
    """A link file that is not exactly one digest."""


class LinkDangling(Corrupt):
    """A link to a blob that is missing."""


class BlobDamaged(Corrupt):
    """A blob that is shorter than it was, or empty where it must not be."""


class FileChanged(Corrupt):
    """A file was replaced by another, or cut, while it was read."""


class ManifestInvalid(Corrupt):
    """Not a manifest of a supported media type."""


class DigestMismatch(Corrupt):
    """Stored bytes do not hash to their digest."""


class WriterClosed(BlobfsError):
    """A file writer was used after its end."""


class StorageFull(BlobfsError):
    """The storage has no room; what was written so far stays."""


class QuotaExceeded(StorageFull):
    """We may not use more of the storage."""


class StorageUnavailable(BlobfsError):
    """The driver could not reach its storage; trying again may help."""


class StorageTimeout(StorageUnavailable):
    """The storage did not answer in time."""


class StorageOverloaded(StorageUnavailable):
    """So many requests wait for the storage that one more was not taken."""
