"""Tables of contents that layers bring: eStargz and zstd:chunked.

The manifest of an image names the digest of a table. So the table is what the author of the image
says of the layer, and it can be used before the layer is read in full: a few ranges of the blob
make the index of the layer, not the whole of it. containerd's stargz snapshotter and podman show
the same tree.

A ``Table`` (``table``) is found by the annotations of the layer. ``formats`` reads it by ranges and
verifies its digest, ``document`` parses its JSON, and ``contents`` makes of it the ``Member``s of
the archive and the ``Chunk``s of their contents. ``TableIndex`` (``index``) is the index of that.
Each chunk is a gzip member or zstd frame, or a part of one, and has a digest, which every read
verifies.

The table has no offsets in the archive: the contents of its files, one after the other, stand for
it. So the index of a table and that of the archive are never mixed; ``Layer.by_table`` chooses one.

A table cannot be compared with the diff ID. When the layer is read in full, ``Claims``
(``verification``) compares the table with the archive: members, attributes and contents. A layer
whose table says otherwise cannot be used any more.

A table that cannot stand for the archive in each attribute is refused, and the layer is read in
full: names that are no UTF-8, times that the table rounds, members of unknown types, chunks in
another order than that of the archive.
"""
