"""Invalidation of the kernel's caches, in a thread of its own.

A handler cannot do it: the kernel may need the handler's reply before it takes the message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import pyfuse3
from pyfuse3 import InodeT

from blobfs import metrics
from blobfs.concurrency import ThreadPool

log = logging.getLogger(__name__)


class Notifier:
    """Sends invalidations to the kernel, one after the other, in a thread that it starts and owns.

    No caller waits for an invalidation. ``invalidate`` is called on the event loop only.
    """

    def __init__(self) -> None:
        self._thread = ThreadPool("notifier", 1)

    def invalidate(self, inode: InodeT, then: Callable[[], None] = lambda: None) -> None:
        """Invalidate the kernel's attributes and content of an inode.

        The notifier's thread calls *then* afterwards.
        """
        self._thread.submit(partial(_run, inode, then))


def _run(inode: InodeT, then: Callable[[], None]) -> None:
    try:
        _invalidate(inode)
        then()
    except Exception:
        log.exception("inode %d: unexpected error at its invalidation, ignored", inode)


def _invalidate(inode: InodeT) -> None:
    try:
        pyfuse3.invalidate_inode(inode)
        metrics.KERNEL_INVALIDATIONS.labels("inode").inc()
    except OSError as exc:  # the kernel does not hold it any more
        log.debug("inode %d: %s", inode, exc)
