"""The check of a storage that has blobs and no link.

A directory of repositories that is not mounted, or not restored yet, looks like this. Then no blob
may be deleted. The exception is a storage whose last links the collection itself has removed.
"""

from __future__ import annotations

from blobfs import paths
from blobfs.drivers.base import StorageDriver, stat_or_none
from blobfs.maintenance.gc.ledger import Ledger


def identity_of_repositories(driver: StorageDriver) -> str:
    """Return a text that another directory of repositories does not have; ``""`` if it is missing.

    It is ``""`` too for a storage without directories.
    """
    info = stat_or_none(driver, paths.REPOSITORIES)
    return "" if info is None or info.identity is None else str(info.identity)


def problem_without_links(driver: StorageDriver, ledger: Ledger) -> str | None:
    """Return why no blob of a storage without links may be deleted.

    None if a run has removed the last links in the same directory.
    """
    if ledger.emptied() == identity_of_repositories(driver):
        return None
    return (
        f"no repository has a link, as if {paths.REPOSITORIES} was not mounted; mount or restore"
        f" it, or remove {paths.BLOBS} if all images were deleted"
    )
