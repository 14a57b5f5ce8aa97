"""The disk cache: blobs of an object store on a local disk, by digest.

Problem: reads from an object store are slow and cost money, and the same layers are read again
after each mount. A digest names one content for ever, so a cached blob is never out of date. It can
be incomplete, damaged, or forged by another user.

Design: readers fill a ``Download`` with the bytes that they fetch anyway (``downloads``). When it
is complete, a thread verifies the whole against the digest and stores it as an entry with a
checksum for each block of 256 KiB (``entries``). A read of an entry verifies only the blocks it
needs, so the first byte of a large blob comes at once. ``quota`` shares the disk space between
processes and evicts the least recently used entries. ``cache`` is the driver wrapper.

Invariants:
- An entry has passed the verification of its digest. A block whose checksum fails is not served:
  the entry is removed, and the blob is read from the store.
- The entries and the downloads of all processes stay within the limit.
- A failure of the disk never fails a read. ``health`` stops the use of the directory for a while.

A checksum for each block is needed because the digest can only verify a whole blob. Files that
another user can write are refused, because that user could write valid checksums too.
"""
