"""The table from blobfs errors to errno. Only this module raises FUSEError.

Any other exception of a handler ends ``pyfuse3.main``, and with it the mount. So every handler is
wrapped in ``replies_errno``, or in ``logs_errors`` if FUSE expects no reply.
"""

from __future__ import annotations

import errno
import functools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

import pyfuse3

from blobfs import errors
from blobfs.fuse.requests import Operation, Request, Requests, errno_name
from blobfs.logs import about

log = logging.getLogger(__name__)

ERRNO: Final[dict[type[errors.BlobfsError], int]] = {
    errors.NotFound: errno.ENOENT,
    errors.Invalid: errno.EINVAL,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.NotADirectory: errno.ENOTDIR,
    errors.NotAFile: errno.EISDIR,
    errors.NotASymlink: errno.EINVAL,
    errors.Stale: errno.ESTALE,  # the kernel looks the name up again, and repeats the request
    errors.AttributeUnknown: errno.ENODATA,
    errors.Unsupported: errno.EOPNOTSUPP,
    errors.ReadOnly: errno.EROFS,
    errors.NotPermitted: errno.EPERM,
    errors.CrossesDirectories: errno.EXDEV,  # mv(1) then copies
    errors.Exists: errno.EEXIST,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.Busy: errno.EBUSY,
    errors.Interrupted: errno.EIO,
    errors.CallerKilled: errno.EINTR,
    errors.TooManyOpen: errno.ENFILE,
    errors.TooLarge: errno.EFBIG,
    errors.ContentMismatch: errno.EBADMSG,
    errors.AccessDenied: errno.EACCES,
    errors.SourceDenied: errno.EACCES,
    errors.StorageReadOnly: errno.EROFS,
    errors.Corrupt: errno.EIO,
    errors.WriterClosed: errno.EIO,
    errors.StorageFull: errno.ENOSPC,
    errors.QuotaExceeded: errno.EDQUOT,
    errors.StorageUnavailable: errno.EIO,
}

_EXPECTED: Final = frozenset(
    {
        errno.ENOENT,
        errno.EINTR,
        errno.ENAMETOOLONG,
        errno.ENODATA,
        errno.EOPNOTSUPP,
        errno.EROFS,
        errno.EPERM,
        errno.EXDEV,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.EBUSY,
        errno.ESTALE,
    }
)
"""Errnos that occur in normal use; they are logged at DEBUG only."""

_REPETITION_S: Final = 10.0
"""Time in which a repeated line is not logged again."""


def errno_for(exc: Exception) -> int:
    """Return the errno of the nearest base class in ERRNO; EIO for an unexpected exception."""
    for cls in type(exc).__mro__:
        if cls in ERRNO:
            return ERRNO[cls]
    return errno.EIO


class _Counting(Protocol):
    """An object whose handlers are counted."""

    @property
    def requests(self) -> Requests: ...


S = TypeVar("S", bound=_Counting)
P = ParamSpec("P")
T = TypeVar("T")

Handler = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def replies_errno(handler: Handler[S, P, T]) -> Handler[S, P, T]:
    """Make a FUSE handler reply with an errno to every exception."""
    operation = Operation(handler)

    @functools.wraps(handler)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        request = self.requests.begin(operation, args)
        try:
            reply = await handler(self, *args, **kwargs)
        except errors.BlobfsError as exc:
            number = errno_for(exc)
            _log_failure(self.requests, request, number, exc)
            exc.with_traceback(None)  # its frames hold it, and buffers of data
        except Exception:  # a bug: the traceback goes to the log, EIO to the caller
            number = errno.EIO
            fields = _fields(self.requests, request, number)
            log.exception("%s: unexpected, replying EIO", operation.name, extra=fields)
        else:
            self.requests.end(request)
            return reply
        self.requests.end(request, number)
        raise pyfuse3.FUSEError(number)

    return wrapper


def logs_errors(handler: Handler[S, P, None]) -> Handler[S, P, None]:
    """Log the exceptions of a handler that has no reply (``forget``), so the mount goes on."""

    @functools.wraps(handler)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await handler(self, *args, **kwargs)
        except Exception:
            log.exception("%s: unexpected, ignored", handler.__name__)

    return wrapper


class _RecentLines:
    """Recently logged lines: a program may repeat a failing request very often.

    Used on the event loop only.
    """

    def __init__(self) -> None:
        self._logged: OrderedDict[str, float] = OrderedDict()

    def is_repeated(self, line: str) -> bool:
        now = time.monotonic()
        repeated = now - self._logged.pop(line, -_REPETITION_S) < _REPETITION_S
        self._logged[line] = now
        if len(self._logged) > 1024:
            self._logged.popitem(last=False)
        return repeated


_recent_lines = _RecentLines()


def _log_failure(
    requests: Requests, request: Request, number: int, exc: errors.BlobfsError
) -> None:
    if number in _EXPECTED and not isinstance(exc, errors.StorageReadOnly):
        level = logging.DEBUG
    elif _recent_lines.is_repeated(str(exc)):
        return
    else:
        level = logging.WARNING
    if log.isEnabledFor(level):
        line = "%s: %s: %s"
        fields = _fields(requests, request, number)
        log.log(level, line, request.operation.name, errno_name(number), exc, extra=fields)


def _fields(requests: Requests, request: Request, number: int) -> dict[str, object]:
    seconds = round(request.seconds, 6)
    subject = requests.about(request)
    return about(operation=request.operation.name, errno=number, seconds=seconds, **subject)
