"""Invalidations of the kernel's caches: an exception does not end them."""

import threading

import pytest
from pyfuse3 import InodeT

from blobfs.errors import StorageUnavailable
from blobfs.fuse.notifier import Notifier


@pytest.mark.parametrize(
    "failure", [StorageUnavailable("no answer"), OSError("no space"), KeyError("bug")]
)
def test_invalidations_go_on_after_an_action_that_fails(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise failure

    notifier = Notifier()
    later = threading.Event()
    notifier.invalidate(InodeT(2), fail)
    notifier.invalidate(InodeT(3), later.set)
    assert later.wait(10)
    [record] = [r for r in caplog.records if r.exc_info]
    assert "inode 2" in record.getMessage()
