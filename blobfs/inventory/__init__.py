"""The inventory of a registry: what it stores, and what refers to what.

``verify``, ``gc``, ``prune`` and ``du`` ask the same questions of a storage. One pass answers them:
it lists the blobs and the repositories, reads each manifest once, and writes what it finds into
a SQLite file, the journal. The questions are then SQL.

* ``spans`` divides the storage into spans, ranges of sibling directories. A span is read in
  steps of ten thousand files. A step is a task: a module-level function that takes the storage's
  URL and a span, and returns rows. So tasks run in threads, in processes, or on a cluster.
* ``scanning`` has the tasks, and ``rows`` the meaning of each path.
* ``journal`` stores the rows of a step in the transaction that marks the step as done. A pass that
  was stopped continues at its last step. Manifests never change, so a later pass reads new ones.
* ``inventory`` runs the tasks on an executor and bounds those under way, and with them the memory.

Sizes and times come from listings. On an object store the ETag of a link shows its content, so
links are not read. SQLite sorts on disk, so memory does not grow with the storage.

Nothing is left out silently: a directory or a manifest that could not be read is a row, and
callers that delete must respect it. Other programs change the storage during the pass. It is no
snapshot, and a caller that deletes looks again first.
"""
