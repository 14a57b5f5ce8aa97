"""Telling the kernel that what it keeps is out of date, from a thread of its own.

Never from a handler: the kernel may need an answer of ours before it can take the message.
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
    """Sends invalidations one after the other; nobody waits for them."""

    def __init__(self) -> None:
        self._inodes: queue.SimpleQueue[tuple[InodeT, Callable[[], None]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def forget(self, inode: InodeT, then: Callable[[], None] = lambda: None) -> None:
        """Have the kernel forget an inode's attributes and what it has of its content.

        *then* is called when it has, in the notifier's thread.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="blobfs-notifier", daemon=True)
            self._thread.start()
        self._inodes.put((inode, then))

    def _run(self) -> None:
        while True:
            inode, then = self._inodes.get()
            try:
                pyfuse3.invalidate_inode(inode)
                metrics.KERNEL_INVALIDATIONS.labels("inode").inc()
            except OSError as exc:  # the kernel has let go of it already
                log.debug("inode %d: %s", inode, exc)
            then()
