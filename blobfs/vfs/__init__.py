"""The tree that a mount shows, without FUSE: no inode numbers, no errno, names are ``str``.

A ``Tree`` makes nodes: directories, files and symlinks. A node is a value. It costs no I/O to make
or to compare, and holds no cached content. Two nodes with the same ``key`` are the same thing, by
whichever path each was found, and a mount gives them one inode. So nodes need no locks, and every
state of a mount is in a few services that the tree passes to its nodes:

* ``Uploads`` (module ``uploads``) has the files of the ``_uploads`` directories. Each ``Upload``
  has a lock, which keeps its calls apart; the I/O of its own writer runs under that lock.
* ``Verification`` has the progress and the results of hashing blobs that are read.
* ``WaitingTags`` has the tags that a program has copied before their revisions. Copied manifests
  that come before what they refer to are uploads (``copied_upload``).
* ``MadeRepositories`` has directories that exist only in this mount.

``nodes`` has the contracts. ``tree`` has the upper levels, and its docstring the whole layout;
``links``, ``blobs``, ``manifests``, ``upload_nodes`` and ``control`` have the levels below.

Invariants: a lookup error of one name does not hide its neighbours (``BrokenNode``). Names are
hostile: each is parsed as a tag, a digest or a repository's name before it becomes a path. Methods
may block; a node that never asks the storage has ``asks_storage = False``, and works while the
storage hangs.
"""
