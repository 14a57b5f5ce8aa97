"""The storage of a registry: blobs, repositories, tags and uploads over a storage driver.

Problem: a mount and a registry (docker-registry, in Go) use one directory or bucket at the same
time. Both must find the other's content valid after every call, and after a crash between any two.

Design: the terms and the layout are distribution's; ``blobfs.paths`` has the layout. ``Registry``
has one ``BlobStore`` and a ``Repository`` for each name. A repository sees only the blobs that its
links name (``LinkedBlobStore``). Its ``LayerStore``, ``RevisionStore`` and the history of a tag are
such link sets. ``ManifestStore`` validates manifests as a registry does (``manifest``, ``gojson``).
``MediaTypes`` and ``LeftOvers`` read manifests for facts that the layout does not hold. The
packages ``uploads``, ``listing`` and ``diskcache`` describe themselves.

Invariants:
- Readers may use caches; writers ask the storage (``stat_now``), because a blob that a cache knows
  may be deleted.
- A blob is durable before its link, and a link before the tag or the event that needs it.
- The digest of every byte is verified before the storage holds it under that digest.
- All classes are thread-safe and synchronous. A call that may take long raises TakesLong on an
  event loop (``blobfs.concurrency``).
"""
