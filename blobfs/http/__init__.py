"""HTTP beside a mount: metrics, health, activity, and the registry's API for pulls.

The problem: HTTP clients are not trusted, and may be many, slow or broken. They must not delay the
mount, and must not take its descriptors, threads or memory.

- ``server`` runs in a thread with an event loop of its own. It bounds connections, and ends those
  that stall. Its failures do not end the mount.
- ``workers`` runs storage calls in threads apart from those of the mount.
- ``app`` has the pages about the mount. They use only what is in memory: they work while the
  storage hangs. They ask the event loop of the mount with a deadline. ``health`` runs its checks in
  threads, and reports a run that is late as a failure.
- ``api`` has the registry's API. It only reads; its responses are compared with distribution's.

A mount without ``--http`` imports neither asyncio nor starlette, so it starts faster.
"""
