"""Collection of garbage in a storage that registries use meanwhile.

Age is not enough to make a deletion safe: a registry that receives a blob that exists does not
write it again, it only links it. Nor is a look before the deletion: a registry looks at a blob, or
at a link, and then writes the link or the manifest that needs it. So each deletion is noted in the
journal, done so that it can be undone, and looked at again afterwards.

1. *Links* (``unlinking``). ``rules`` finds those that nothing in their repository needs. They are
   removed one repository at a time. A link that a new tag or manifest needs is restored, since its
   blob is still there: at once, after the settling time, and by later runs until the grace ends.
2. *Grace* (``ledger``). The journal knows since when a blob has no link. A push that had seen the
   link ends meanwhile.
3. *Sweep* (``sweeping``). Blobs whose grace has ended are set aside: renamed to ``data.aside``,
   which registries ignore. After the settling time ``second_look`` lists all links again. A blob
   that is needed is put back, and the others are deleted. A registry that receives a blob that is
   set aside stores it anew.

The settling time is longer than a registry takes between its look and its link. A link or
directory that cannot be read may refer to any blob, so then no blob is deleted. A repository whose
manifests cannot be read keeps all of its links.

``plan`` has what goes, from the tables of one pass. ``collector`` runs the steps.
"""
