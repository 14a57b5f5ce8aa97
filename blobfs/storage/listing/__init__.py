"""Metadata of an object store from listings, kept for a short time.

Problem: a directory tree of a registry is many small questions (is there a tag, a link, a blob?),
and each is a request to an object store. One LIST request answers for a thousand
files.

Design: ``driver`` answers ``stat``, ``listdir`` and links from ``cache``, which holds listings of
repositories and of their parts. Blobs may be millions, so ``blob_stats`` holds their attributes
apart, from pages of the whole blob store and from single HEAD requests. ``presence`` wraps the
concrete driver, for directories too, and confirms the registry's existence before a path is
reported as missing.

Invariants:
- A change through this process is visible at once; a change by others after the lifetime.
- A request that began before a change does not answer calls after it.
- Writers ask the storage itself (``stat_now``).
- A lost registry raises StorageUnavailable; it is never shown as an empty one.
"""
