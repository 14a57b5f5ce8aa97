"""Storage drivers: one contract for a local directory, a bucket, and memory.

blobfs works on the storage of a registry that may run at the same time, and that other programs
back up, collect and move. The storage code above needs one small set of operations with the same
behaviour on every backend: read a range, replace a small file, append to an upload, rename, list.
``base`` defines it after the contract of distribution's drivers. ``resumable`` and ``objectstore``
add the operations of some backends only: unfinished files, flat listings. A suite in
``tests/drivers`` checks every driver and every wrapper against it.

Drivers: ``filesystem`` (with ``localfile``, ``openat2``, ``submounts``, ``ownership``,
``temporaries`` and ``filelock``), ``s3`` and ``inmemory``. Features are wrappers, so that each
driver stays small: ``base_driver`` validates paths and records durations, ``prefetch`` fetches
ahead. ``factory`` creates a driver from a storage's URL.

Invariants:

* Drivers are synchronous and thread-safe. A call on an event loop that may take longer than
  microseconds raises TakesLong; the caller repeats it in a thread.
* Readers see the old or the new content of a replaced file, never a mixture. A file counts as
  written only after it is durable.
* Only errors of ``blobfs.errors`` leave a driver; each backend translates its own in one place.
* Paths and the content of the storage are hostile: no symlink is followed, and a listed name that
  is no valid component is hidden.
"""
