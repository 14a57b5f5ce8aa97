"""Garbage collection: deletes the links and blobs that nothing needs, while registries run.

The problem is a push during a collection. A registry looks for a blob or a link first, and writes
the link or the manifest that needs it later. If the blob exists, the registry does not write it
again, so the age of a blob does not show that nobody needs it. A check before the deletion does not
help either: the registry may have looked before, and may write after the deletion. So each deletion
is recorded first, can be undone, and is followed by a second look. The record is in the journal for
a link, and in the name of the data for a blob.

Two times bound a push. The settling time (``--settle``) is longer than a registry takes from its
look at a blob to its link. The grace (``--grace``) is longer than a whole push takes.

1. *Remove links* (``unlinking``). ``rules`` finds the links that nothing in their repository needs.
   They are removed, one repository after the other. The blob of such a link still exists. So the
   link is restored if a new tag or manifest needs it. This is checked right after the removal,
   after the settling time, and by each run until the grace has ended.
2. *Wait* (``ledger``). The grace of a blob begins when its last link is removed, or when a run
   first finds it without a link. The journal has this time. A push that looked at the link before
   its removal ends during the grace.
3. *Delete blobs* (``sweeping``). Each blob without a link whose grace has ended is set aside: its
   ``data`` is renamed to ``data.aside.RUN``, a name that registries ignore. No other run uses it,
   so two runs with different journals never delete data that the other has set aside later. After
   the settling time ``second_look`` lists all links and reads new manifests. A blob that is needed
   gets its name back, and the others are deleted. A registry that receives such a blob meanwhile
   stores it again.

A directory, an alias's link or an upload's record that cannot be read may name any blob, so then no
blob is deleted. If a link or a manifest of a repository cannot be read, all links of the repository
stay.

``plan`` computes what can be deleted, as tables in the journal of a pass. ``collector`` runs
the steps.
"""
