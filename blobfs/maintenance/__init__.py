"""Maintenance of a storage: what it uses, what is wrong with it, and what can go.

Each module answers one question by SQL on an ``inventory``, and acts on the answer. An inventory is
no snapshot, and registries write to the storage at the same time. So everything that deletes notes
it durably, looks again before and after, and undoes what turns out to be needed.

* ``verify`` runs ``checks``, looks again, and names the ``images`` that each fault hurts.
* ``repair`` mends faults from the rest of the storage, or from another one.
* ``gc`` deletes what nothing refers to, beside running registries.
* ``retention`` says which tags go by rules; ``storage/tagtrash.py`` keeps them for a while.
* ``usage`` computes the bytes of repositories, prefixes and tags, each blob once.
"""
