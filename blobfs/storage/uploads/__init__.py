"""Uploads of blobs and manifests into a repository.

A program writes an upload, perhaps with interruptions and out of order. The commit verifies the
content against the declared digest, stores it, and links it in the repository. The files of a
blob's upload are those of distribution (``_uploads/<id>/data``, ``startedat``, ``hashstates``), so
a registry can resume an upload of blobfs, and blobfs one of a registry. blobfs adds one file, the
record ``blobfs.json``.

* ``base`` has the two contracts. ``ContentStore`` begins uploads. A ``ContentWriter`` receives the
  bytes of one upload, and commits it.
* ``store`` and ``blobwriter`` implement the contracts for blobs. ``store`` also finds stored
  uploads and resumes them.
* ``manifestwriter`` and ``manifestuploads`` implement the contracts for manifests. They are small,
  so they stay in memory until the commit. Only one that a program copies is stored if it has to
  wait for a blob or manifest.
* ``buffer`` holds the bytes of a blob's upload. An upload of up to 1 MiB stays in memory, and a
  larger one is moved to the storage. All uploads of the process share one limit of memory. A small
  blob thus needs no files of an upload. ``digests`` has the running hashes of the bytes.
* ``staging`` stores the bytes of a larger upload. ``LocalStaging`` writes a file, and the commit
  renames it. An object store has no rename, and a copy takes long. So ``MultipartStaging`` writes
  to the path of the future blob, if the digest is declared. The object appears only when it is
  completed, after the verification.
* ``metadata`` reads and writes the other files of an upload. Among them is the record.
* ``state`` has the states of a blob's upload and the possible changes between them.
* ``inventory`` lists the uploads that have not ended.

Invariants:

* Content is stored under a digest only after its verification.
* A saved hash state never covers bytes that a crash can lose, or that were changed later.
* A commit removes the files of an upload only after it has linked the blob.
* A commit that fails leaves the upload unchanged, so that it can be resumed.
"""
