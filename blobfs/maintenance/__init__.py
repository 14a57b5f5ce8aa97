"""Maintenance of a storage: verification, repair, disk usage, retention rules, garbage collection.

Most modules query an ``inventory`` in SQL. An inventory is no snapshot, because registries write to
the storage at the same time. So ``verify``, ``repair`` and ``gc`` look at the storage again before
they report a fault or change something.

* ``verify`` runs the checks in ``checks`` and ``uploads``, and looks again at each fault that they
  find. ``faults`` has the kinds of faults. ``images`` finds the images that a fault damages.
* ``repair`` repairs faults with data from the same storage or from another one. Damaged bytes
  are copied to another directory, ``quarantine``, before they are removed.
* ``gc`` deletes links and blobs that nothing needs, while registries run. It records each deletion
  before, looks again afterwards, and restores what is needed after all.
* ``usage`` computes the bytes of repositories, prefixes and tags. It counts each blob once.
* ``retention`` decides by rules which tags are removed. It needs no inventory: ``blobfs prune``
  lists the tags itself. ``storage/tagtrash.py`` keeps the removed tags, so that they can be
  restored.
"""
