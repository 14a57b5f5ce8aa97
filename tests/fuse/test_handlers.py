"""No handler can end the mount, and every error has its errno."""

import errno
import inspect
import logging
from collections.abc import Iterator

import pyfuse3
import pytest

from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import BlobfsError, BlobUnknown, StorageTimeout
from blobfs.fuse import stats
from blobfs.fuse.attributes import AttributeMapper
from blobfs.fuse.errnos import ERRNO, errno_for, logs_errors, replies_errno
from blobfs.fuse.operations import Operations
from blobfs.fuse.readonly_operations import ReadOnlyOperations
from blobfs.fuse.requests import Requests
from blobfs.fuse.threads import StorageThreads
from blobfs.storage.registry import Registry
from blobfs.vfs.tree import Tree
from blobfs.vfs.verification import Verification, Verify


def _subclasses(cls: type[BlobfsError]) -> Iterator[type[BlobfsError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


@pytest.mark.parametrize("cls", list(_subclasses(BlobfsError)), ids=lambda c: c.__name__)
def test_every_error_has_an_errno(cls: type[BlobfsError]) -> None:
    assert any(base in ERRNO for base in cls.__mro__)


def test_nearest_base_class_wins() -> None:
    assert errno_for(BlobUnknown("sha256:00")) == errno.ENOENT


class _Handlers:
    """Two handlers with a bug, and one that meets what it knows of."""

    def __init__(self) -> None:
        self.requests = Requests()

    @replies_errno
    async def broken(self) -> None:
        raise KeyError("bug")

    @replies_errno
    async def failing(self, text: str = "no answer") -> None:
        raise StorageTimeout(text)

    @logs_errors
    async def forgetting(self) -> None:
        raise KeyError("bug")


async def test_unforeseen_exception_becomes_eio_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await _Handlers().broken()
    assert caught.value.errno == errno.EIO
    assert "KeyError" in caplog.text


async def test_unforeseen_exception_without_a_reply_is_logged_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await _Handlers().forgetting()
    assert "KeyError" in caplog.text


async def test_one_failure_is_one_line_however_often_it_is_met(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handlers = _Handlers()
    for _ in range(5):
        with pytest.raises(pyfuse3.FUSEError):
            await handlers.failing("the same again")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert stats.requests()["failing"]["errors"] == {"EIO": 5}


def _handlers() -> dict[str, object]:
    ours = [cls for cls in Operations.__mro__ if issubclass(cls, ReadOnlyOperations)]
    return {
        name: function
        for cls in reversed(ours)
        for name, function in vars(cls).items()
        if inspect.iscoroutinefunction(function) and not name.startswith("_")
    }


@pytest.mark.parametrize("name", sorted(_handlers()))
def test_no_handler_lets_an_exception_end_the_mount(name: str) -> None:
    assert hasattr(_handlers()[name], "__wrapped__")


def test_only_harmless_handlers_are_left_to_pyfuse3() -> None:
    """What is not ours raises ENOSYS, after which the kernel does not ask again."""
    theirs = {n for n, f in vars(pyfuse3.Operations).items() if inspect.iscoroutinefunction(f)}
    assert theirs - set(_handlers()) == {"access", "fsyncdir", "poll"}


# What each handler is given, with numbers and handles that do not exist.
_ARGUMENTS: dict[str, tuple[object, ...]] = {
    "lookup": (99, b"x", None),
    "getattr": (99, None),
    "readlink": (99, None),
    "opendir": (99, None),
    "readdir": (99, 0, None),
    "releasedir": (99,),
    "open": (99, 0, None),
    "read": (99, 0, 1),
    "release": (99,),
    "flush": (99,),
    "fsync": (99, False),
    "getxattr": (99, b"user.x", None),
    "listxattr": (99, None),
    "create": (99, b"x", 0, 0, None),
    "link": (99, 99, b"x", None),
    "mkdir": (99, b"x", 0, None),
    "mknod": (99, b"x", 0, 0, None),
    "removexattr": (99, b"x", None),
    "rename": (99, b"x", 99, b"y", 0, None),
    "rmdir": (99, b"x", None),
    "setattr": (99, None, None, None, None),
    "setxattr": (99, b"x", b"", None),
    "symlink": (99, b"x", b"y", None),
    "unlink": (99, b"x", None),
    "write": (99, 0, b""),
}


@pytest.mark.parametrize("name", sorted(_ARGUMENTS))
async def test_handler_that_is_given_nonsense_answers_with_an_errno(name: str) -> None:
    tree = Tree(Registry(InMemoryDriver()), Verification(Verify.NONE))
    operations = Operations(tree, StorageThreads(inline=True), AttributeMapper())
    with pytest.raises(pyfuse3.FUSEError):
        await getattr(operations, name)(*_ARGUMENTS[name])


def test_every_handler_is_given_nonsense() -> None:
    assert set(_handlers()) - set(_ARGUMENTS) == {"forget", "statfs"}
