"""Tables of contents that layers bring: eStargz and zstd:chunked.

The manifest of an image names the digest of a table. So the table is what the author of the image
says of the layer, and it can be used before the layer is read in full: a few ranges of the blob
make the index of the layer, not the whole of it. containerd's stargz snapshotter and podman show
the same tree.

A ``Table`` (``table``) is found by the annotations of the layer. ``formats`` reads it by ranges and
verifies its digest. ``document`` parses its JSON. ``contents`` makes the ``Member``s of the archive
and the ``Chunk``s of their contents from it. ``TableIndex`` (``index``) is an index of both. A
chunk is a gzip member or zstd frame, or a part of one. Every read verifies the digest of a chunk.

The table has no offsets in the archive. The offsets of its index are those in the contents of all
files, one after the other. So the index of a table and that of the archive are never mixed;
``Layer.by_table`` chooses one.

The diff ID does not verify a table. When the layer is read in full, ``Claims`` (``verification``)
compares the table with the archive: members, attributes and contents. If they differ, the layer
cannot be used any more.

A table must describe each attribute of the archive. Otherwise it is refused, and the layer is read
in full. Reasons are names that are no UTF-8, rounded times, unknown types of members, and chunks
that are not in the order of the archive.
"""
