"""Images: the root filesystem of a tag, from the layers in the storage.

An ``Image`` (``image``) is what a manifest says: its config, and its layers with their diff IDs. An
index has an image for each ``Platform`` (``platforms``).

A layer is a tar archive, mostly compressed. One pass over it makes its ``LayerIndex``
(``layer_index``): the ``Member``s (``members``, read by ``tar`` with ``pax`` and ``sparse``), and
the ``Point``s (``source``) at which decompression can begin, which ``gzip`` (with ``inflate``) and
``zstd`` find. The same pass verifies the layer's digest and its diff ID, so that an index exists
only for a layer whose content is right. With the index, a ``SeekableLayer`` (``seekable``) reads
any range of the archive; a layer with too few points is decompressed once, as a whole. A layer with
a table of contents is indexed without that pass (``toc``).

``write_tree`` (``tree``, with ``tree_names``) merges the members of all layers of an image, one
layer on the other, into a SQLite file (``tree_file``). ``RootFilesystem`` (``rootfs``, with
``readers``) reads it. The result is that of ``umoci unpack``: the tests compare each attribute. So
a whiteout keeps what its own layer has, a path is resolved with the symlinks of the layers below,
and a directory that no layer names has the time of the image.

``IndexStore`` (``index_store``, with ``stored_file``) keeps indexes and trees in a directory: under
the digest of what they describe, with a checksum and a version, bounded, and shared by all
processes of the machine.
``Images`` (``images``, with ``recent``) is the entrance for mounts and commands. It makes indexes
and trees in ``ChildProcesses`` (``processes``), beside the requests of a mount. ``Comparison``
(``comparison``) finds the differences between two root filesystems.

Everything in a layer is hostile: names, links, sizes, numbers of members. A member that cannot be
shown has a ``fault``, and uses of its name raise LayerInvalid. Nothing in an archive is ever used
as a path of this machine.
"""
