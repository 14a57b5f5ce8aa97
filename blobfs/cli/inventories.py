"""Inventories of a command's storage, with progress on a terminal."""

from __future__ import annotations

from pathlib import Path

from blobfs.cli.opening import Counts
from blobfs.cli.storage import Storage
from blobfs.inventory.inventory import Depth, Inventory, Workers


def hash_blobs(inventory: Inventory, workers: Workers | None) -> None:
    """Hash the blobs of *inventory*; the bytes that were read are shown."""
    with Counts(step=100 * 2**20) as counts:
        inventory.hash_blobs(workers, counts.add)


def take_inventory(
    given: Storage,
    state: Path | None,
    workers: Workers | None,
    depth: Depth = Depth.REFERENCES,
) -> Inventory:
    """Take the inventory of *given*; the counts of what was read are shown."""
    with Counts() as counts:
        return Inventory.taken(
            given.location,
            state=state,
            workers=workers,
            depth=depth,
            progress=counts.add,
        )
