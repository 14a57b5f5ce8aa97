"""The exceptions that blobfs raises, after their base classes; ``fuse/errnos.py`` has the errnos.

BlobfsError: NotFound Invalid NameTooLong NotADirectory NotAFile NotASymlink Stale
    AttributeUnknown Unsupported ReadOnly NotPermitted CrossesDirectories Exists NotEmpty Busy
    Interrupted TooManyOpen TooLarge ContentMismatch AccessDenied Corrupt WriterClosed
    SourceDenied StorageFull StorageUnavailable
NotFound: PathNotFound BlobUnknown ManifestUnknown TagUnknown UploadUnknown RepositoryUnknown
Interrupted: CallerKilled
Invalid: DigestInvalid HashStateInvalid NameInvalid PathInvalid OffsetInvalid AppendOnly
    ManifestRejected MountRefused
ManifestRejected: ManifestIncomplete
Corrupt: LinkInvalid LinkDangling BlobDamaged FileChanged ManifestInvalid DigestMismatch
    LayerInvalid
AccessDenied: StorageReadOnly    StorageFull: QuotaExceeded
StorageUnavailable: StorageTimeout StorageOverloaded
"""

from __future__ import annotations

from collections.abc import Callable, Mapping


class BlobfsError(Exception):
    """Base of all exceptions of blobfs.

    No subclass is a frozen dataclass, because ``contextlib`` assigns ``__traceback__``.
    """

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        """Pickle the message and the attributes, not the arguments of ``__init__``."""
        return _restored, (type(self), self.args, self.__dict__)


class NotFound(BlobfsError):
    """Nothing has that name."""


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
    """The argument is invalid, independent of the stored data."""


class DigestInvalid(Invalid):
    """The text is not a digest of a supported algorithm."""


class HashStateInvalid(Invalid):
    """The bytes are not a hash state that a digester can resume."""


class NameInvalid(Invalid):
    """The text is not a repository name, tag or reference."""


class PathInvalid(Invalid):
    """The text is not a driver path, or not a path of the registry's layout."""


class OffsetInvalid(Invalid):
    """The offset is negative."""


class AppendOnly(Invalid):
    """The backend cannot change written bytes."""


class ManifestRejected(Invalid):
    """The uploaded manifest is not valid in the repository; the message says why."""


class ManifestIncomplete(ManifestRejected):
    """The repository does not have *missing*, to which the manifest refers."""

    def __init__(self, message: str, missing: object) -> None:
        super().__init__(message)
        self.missing = missing


class MountRefused(Invalid):
    """A command cannot use its storage, mount point or options; the message says what to do."""


class NameTooLong(BlobfsError):
    """The name is longer than any name in the tree."""


class NotADirectory(BlobfsError):
    """A file was used as a directory."""


class NotAFile(BlobfsError):
    """A directory was used as a file."""


class NotASymlink(BlobfsError):
    """A file or directory was used as a symlink."""


class Stale(BlobfsError):
    """The object existed when it was looked up, and is gone."""


class AttributeUnknown(BlobfsError):
    """No extended attribute has that name."""


class Unsupported(BlobfsError):
    """The mount does not support the operation."""


class ReadOnly(BlobfsError):
    """The object cannot be changed through the mount."""


class NotPermitted(BlobfsError):
    """The operation is not allowed there, or only with an option of the mount."""


class CrossesDirectories(BlobfsError):
    """The rename needs a copy."""


class Exists(BlobfsError):
    """The name exists already."""


class NotEmpty(BlobfsError):
    """The directory to be removed is not empty."""


class Busy(BlobfsError):
    """Another writer has the object open."""


class Interrupted(BlobfsError):
    """The operation was stopped before its end, and can be repeated."""


class CallerKilled(Interrupted):
    """The program that waits for the operation is killed."""


class TooManyOpen(BlobfsError):
    """A user has reached the limit of open files and directories."""


class TooLarge(BlobfsError):
    """The data exceed the size limit."""


class ContentMismatch(BlobfsError):
    """The uploaded content does not have the declared digest or size."""


class AccessDenied(BlobfsError):
    """The storage denies access."""


class StorageReadOnly(AccessDenied):
    """The storage is on a read-only file system."""


class SourceDenied(BlobfsError):
    """The source of a copy denies access."""


class Corrupt(BlobfsError):
    """The stored data are inconsistent."""


class LinkInvalid(Corrupt):
    """A link file does not contain exactly one digest."""


class LinkDangling(Corrupt):
    """A link names a missing blob."""


class BlobDamaged(Corrupt):
    """A blob is shorter than it was, or empty although it must not be."""


class FileChanged(Corrupt):
    """A file was replaced or truncated while it was read."""


class ManifestInvalid(Corrupt):
    """The content is not a manifest of a supported media type."""


class DigestMismatch(Corrupt):
    """Stored bytes do not have their digest."""


class LayerInvalid(Corrupt):
    """The layer is no archive that can be shown, or a member of it cannot."""


class WriterClosed(BlobfsError):
    """A file writer was used after it was closed."""


class StorageFull(BlobfsError):
    """The storage is full; bytes written so far stay."""


class QuotaExceeded(StorageFull):
    """The quota of the storage is used up."""


class StorageUnavailable(BlobfsError):
    """The driver could not reach its storage; a retry may help."""


class StorageTimeout(StorageUnavailable):
    """The storage did not answer in time."""


class StorageOverloaded(StorageUnavailable):
    """Too many requests wait for the storage; this one was refused."""


def _restored(
    kind: type[BlobfsError], args: tuple[object, ...], attributes: Mapping[str, object]
) -> BlobfsError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error
