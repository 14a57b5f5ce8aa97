"""Copies of images, blobs and whole registries between places.

``base`` has the contracts of a source and a target, and the modules beside it their kinds: a
registry's storage, an OCI image layout in a directory or an archive, a registry behind HTTP, and a
file with one blob. ``places`` parses their names and opens them.

A copy (``copying``) has a ``catalog``, which is a SQLite file: repositories, tags, manifests, links
of blobs, and blobs, each with its state, and what each manifest needs. A ``planner`` fills it by a
walk from the tags that the ``selection`` has. ``copier`` copies it in parts of consecutive
repositories. In each part it asks the target for the blobs, sends those that are missing, links
them in the other repositories, and stores manifests by level, children first and subjects before
their referrers, and then tags. So the target never has a broken image, and images appear while the
copy runs.

The main thread uses the catalog. ``source_tasks`` and ``target_tasks`` run in threads, or in
processes on other machines. They take a ``route``, which a process opens once, and batches of
items, and return a result for each.

What the source does not have any more, or the target does not accept, is looked at a second time,
as registries may write to both. A run that was stopped trusts the catalog only for the plan and for
what is done. Blobs whose state was not noted are asked for, so nothing is sent again.
"""
