"""OCI image layouts, in directories and in tar archives, as places of a copy.

A layout has its blobs once, by digest, and the file ``index.json``, whose entries name manifests
(OCI image specification, image-layout.md). Tools agree on one name for each entry, the annotation
``org.opencontainers.image.ref.name``. skopeo and umoci show it after a colon.

A registry has more than that: repositories, manifests without a tag, single blobs, and the history
of tags. So in our layouts the name of an entry is ``repository:tag``. A manifest without a tag, and
a single blob (``application/octet-stream``), has the name ``repository@digest``: the garbage
collection of umoci removes what only entries without a name refer to. ``io.blobfs.history`` has the
history of a tag. A manifest that an index of the repository names, and a blob that a manifest of it
names, need no entry. A name without a colon is a tag of the repository ``""``. Entries of other
tools are kept as they are.

``entries`` reads and writes the index. ``contents`` is the content of one repository, which follows
from its entries. ``source`` and ``target`` are the two contracts of a copy, over a ``store`` of
files: ``directory`` and ``archive``, or ``archive_stream`` for the standard output.

Invariants: an index only names what is durable, and is replaced as a whole; bytes are stored under
a digest only after they were hashed. ``flush`` appends what is new to a file of ``notes``, as the
index of many tags cannot be written for each of them. A killed copy continues from the notes, so no
blob is sent again. ``finish`` writes the index and removes the notes.
"""

from blobfs.transfer.layout.archive import ArchiveSource
from blobfs.transfer.layout.archive_stream import ArchiveStreamTarget
from blobfs.transfer.layout.archive_writer import ArchiveTarget
from blobfs.transfer.layout.source import LayoutSource
from blobfs.transfer.layout.target import LayoutTarget

__all__ = [
    "ArchiveSource",
    "ArchiveStreamTarget",
    "ArchiveTarget",
    "LayoutSource",
    "LayoutTarget",
]
