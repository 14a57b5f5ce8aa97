"""Invalidation of the kernel's caches, in a thread of its own.

A handler cannot do it: the kernel may need the handler's reply before it takes the message.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

import pyfuse3
from pyfuse3 import InodeT

from blobfs import metrics

log = logging.getLogger(__name__)


class Notifier:
    """Sends invalidations to the kernel, one after the other, in a thread that it starts and owns.

    No caller waits for an invalidation. ``invalidate`` is called on the event loop only.
    """

    def __init__(self) -> None:
        self._inodes: queue.SimpleQueue[tuple[InodeT, Callable[[], None]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def invalidate(self, inode: InodeT, then: Callable[[], None] = lambda: None) -> None:
        """Invalidate the kernel's attributes and content of an inode.

        The notifier's thread calls *then* afterwards.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="blobfs-notifier", daemon=True)
            self._thread.start()
        self._inodes.put((inode, then))

    def _run(self) -> None:
        while True:
            inode, then = self._inodes.get()
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
