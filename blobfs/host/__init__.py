"""The Linux side of a mount: its process, its signals, systemd, and its mount point.

``blobfs mount`` runs in this order. ``preflight`` checks the storage and the mount point while
a person can still read an error. ``daemon`` then forks: the parent waits until the child has
mounted and answers, so that a script can use the mount as soon as the command returns.
``systemd`` reports the state of the mount to a service manager, and ``signals`` changes the log
level. ``unmount`` ends a mount from another process.

* A hung storage, server or mount blocks each thread that touches it. Checks run in threads with
  a deadline, and facts about mounts come from /proc, not from the mount.
* The process forks before it has threads, because a child of fork(2) has only the thread that
  forked, and locks of the others stay locked in it.
* A refusal is MountRefused, and its text says what to do.
"""
