"""Translation of the errors of local files into those of a driver."""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Final, NoReturn

from blobfs.errors import (
    AccessDenied,
    NotAFile,
    PathNotFound,
    QuotaExceeded,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
    TooLarge,
)

_MISSING: Final = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
# ENXIO: a FIFO without a reader, or a socket; ESPIPE: a FIFO with one.
_NOT_A_FILE: Final = {errno.EISDIR, errno.ENXIO, errno.ESPIPE}
_REFUSED: Final = {
    errno.EACCES: AccessDenied,
    errno.EPERM: AccessDenied,
    errno.EROFS: StorageReadOnly,
}
_OUT_OF_ROOM: Final = {
    errno.ENOSPC: StorageFull,
    errno.EDQUOT: QuotaExceeded,
    errno.EFBIG: TooLarge,
}
_OUTSIDE: Final = {
    errno.ELOOP: "a symlink; use a bind mount, as symlinks in a storage are not followed",
    errno.EXDEV: "leads out of the storage",  # from openat2; callers of rename(2) handle its EXDEV
}


def raise_translated(exc: OSError, path: str) -> NoReturn:
    """Raise the driver's error for *exc*, which is about *path*."""
    if exc.errno in _MISSING:
        raise PathNotFound(path) from None
    if exc.errno in _NOT_A_FILE:
        raise NotAFile(f"not a file: {path}") from None
    if exc.errno in _REFUSED:
        raise _REFUSED[exc.errno](f"{path}: {exc.strerror}") from None
    if exc.errno in _OUTSIDE:
        raise AccessDenied(f"{path}: {_OUTSIDE[exc.errno]}") from None
    kind_of_ours = _OUT_OF_ROOM.get(exc.errno or 0, StorageUnavailable)
    raise kind_of_ours(f"{path}: {exc.strerror}") from exc


class os_errors:  # noqa: N801  (a context manager; @contextmanager costs a fifth of a stat)
    """Translate an OSError about *path* in the block."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if isinstance(exc, OSError):
            raise_translated(exc, self._path)
