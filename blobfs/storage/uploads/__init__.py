"""Uploads: blobs and manifests on their way into a repository.

A program writes an upload, perhaps with interruptions and out of order. At the end the content is
verified against the declared digest and published. The layout of a blob's upload is that of
distribution (``_uploads/<id>/data``, ``startedat``, ``hashstates``), so that a registry can resume
an upload of blobfs and the reverse. blobfs adds one file of its own: the record (``metadata``).

* ``base`` has the two contracts: ``ContentStore`` begins uploads, ``ContentWriter`` receives one.
* ``store`` and ``blobwriter`` implement them for blobs, ``manifestwriter`` for manifests. Manifests
  are small, so they stay in memory until they are complete; ``store`` also finds the uploads in the
  storage.
* ``buffer`` holds the bytes of a blob's upload: the first 1 MiB in memory, more in the storage. All
  uploads of the process share one budget of memory. A small blob thus costs the storage nothing but
  the blob itself.
* ``staging`` is the place of the bytes in the storage. ``LocalStaging`` is a file, which the commit
  moves. In an object store, a move would copy every byte. So ``MultipartStaging`` writes at the
  blob's final path where the digest is known before; the object is shown only once it is complete.
* ``state`` has the states of a blob's upload and the changes between them.
* ``inventory`` lists the uploads that have not ended.

Invariants: content is published only after it was verified. A hash state never covers bytes that
can be lost in a crash or were changed after it was saved. Nothing of an upload is removed before
its blob is linked. A failure leaves the upload as it was, so that it can be resumed.
"""
