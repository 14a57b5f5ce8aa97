"""The FUSE side of a mount: requests of the kernel in, replies out.

The problem: one thread serves all requests of the kernel, and a storage may be slow, may hang, or
may return errors. No request may stop the others, and no error may end the mount.

- ``mount`` starts and ends a mount. ``readonly_operations`` and ``operations`` hold the handlers,
  which decode arguments, call nodes of ``blobfs.vfs``, and encode the result with ``attributes``.
- All tables (``inodes``, ``handles``, ``requests``, ``waiting``) belong to the event loop, so they
  take no locks. Code below ``fuse`` may run in any thread, and does not know the tables.
- ``threads`` is the only bridge to blocking calls. Local storage is called on the event loop,
  because a switch of threads costs more than the call; other storage is called in threads, with a
  deadline. ``waiting`` bounds the requests that wait, and shares the threads between users.
- ``upload_dispatcher`` does the same for uploads. Lookups wait for commits of closed files, so a
  program finds a blob right after it has closed the upload.
- ``errnos`` maps every exception to an errno: an exception that leaves a handler ends the mount.
- ``notifier`` invalidates the kernel's caches in its own thread: in a handler this can deadlock.
- ``open_file_scanner`` finds out in /proc whether a close is the last one. The kernel reports the
  last close only after close(2) has returned, too late for an error of the commit.

An inode number is a hash of the node's key. So numbers are stable over mounts and hosts, and no
table of them is stored.
"""
