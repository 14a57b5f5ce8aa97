"""The inventory of a storage: its blobs and links, and the references in its manifests.

``verify``, ``gc`` and ``du`` need the same facts about a storage. One pass collects them: it lists
the blobs and the repositories, reads each manifest once, and writes the results to a SQLite file,
the journal. The commands then query the journal in SQL.

* ``spans`` divides the storage into spans. A span is a range of sibling directories, such as
  ``blobs/sha256/00`` to ``07``. It is read in steps of up to ten thousand files.
* ``scanning`` has the tasks of a pass: to read a step, links, manifests, or the bytes of blobs.
  A task is a module-level function. Its arguments and its result can be pickled, so an executor
  can run it in a thread, in a process, or on another machine.
* ``rows`` has the rows of the journal, and makes them from the paths of a step.
* ``journal`` is the SQLite file. It stores the rows of a step and the progress of its span in one
  transaction. So a pass that was stopped continues after the last stored step. A manifest never
  changes, so a later pass with the same journal reads only the manifests that are new.
* ``inventory`` runs the tasks on an executor. The number of running tasks is limited, and so is
  the memory.
  ``cluster`` has the executor of a Dask cluster.

Sizes and times come from listings. On an object store the ETag of a link shows its content, so a
pass reads only the current links of tags, aliases, and links of an unexpected size. The memory does
not depend on the size of the storage: SQLite sorts on the disk.

Invariants:

* An object that could not be read has a row with the reason; it is not omitted. A caller that
  deletes must check these rows.
* An inventory is no snapshot, because other programs change the storage during the pass. A caller
  that deletes must look at the storage again first.
"""
