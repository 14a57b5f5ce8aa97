"""The descriptor cache: the digest, size and media type of each blob, kept beside the storage.

A lookup of a blob costs one request to the storage, and a listing costs one for each entry. The
cache answers such lookups from memory or from a Redis that the registries share.
Source of truth: distribution, ``registry/storage/cache``.

``base`` defines the contract, ``memory`` and ``redis`` implement it. ``resilient`` wraps a cache
that can fail: it turns failures into misses, stops calling a server that fails, and repeats
clears later. ``factory`` reads the ``--cache`` option.

These rules hold for every cache:

* A cache only saves time. After a miss the caller asks the storage and calls ``set``.
* A hit can be outdated. A caller that finds the blob missing calls ``clear``.
* A writer never takes a hit as proof that the blob exists.
* A repository has a blob only if ``set`` was called for that repository. A hit for the blob alone
  gives no access through another repository.

Expiry is no substitute for ``clear``: distribution's Redis cache sets no expiry, and a registry
would serve a deleted blob until the entry is evicted.
"""
