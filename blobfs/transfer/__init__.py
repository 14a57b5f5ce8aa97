"""Copies of images, blobs and whole registries between places.

``base`` has the contracts of a source and a target, and the modules beside it their kinds: a
registry's storage, an OCI image layout in a directory or an archive, a registry behind HTTP, and a
file with one blob. ``copier`` copies what a ``catalog`` holds, in an order in which the target
never has a broken image: blobs, links, manifests (children first, subjects before their referrers),
tags.
"""
