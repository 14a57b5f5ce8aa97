"""The check of a storage that has blobs and no link, or had none in an earlier run.

A directory of repositories that is not mounted, or not restored yet, looks like this. Then no blob
may be deleted. The exception is a storage whose last links the collection itself has removed.

A push into such a directory adds a link, and the others are still lost. So the journal remembers
the directory, until another one is in its place.
"""

from __future__ import annotations

from blobfs import paths
from blobfs.drivers.base import StorageDriver, stat_or_none
from blobfs.maintenance.gc.ledger import Ledger


def identity_of_repositories(driver: StorageDriver) -> str:
    """Return a text that another directory of repositories does not have; ``""`` if it is missing.

    It is ``""`` too for a storage without directories.
    """
    if driver.is_object_store:
        return ""
    info = stat_or_none(driver, paths.REPOSITORIES)
    return "" if info is None or info.identity is None else str(info.identity)


def problem_of_links(
    driver: StorageDriver, ledger: Ledger, *, has_links: bool, has_blobs: bool
) -> str | None:
    """Return why no blob may be deleted, by what a pass has found; None if links are not lost."""
    problem, repositories = None, identity_of_repositories(driver)
    if has_links:
        ledger.note_emptied(None)
        if ledger.lost() in ("", repositories):
            return (
                f"{paths.REPOSITORIES} had no link in an earlier run, as if it was not mounted;"
                " mount or restore it, and remove the journal"
                f" {ledger.journal.path} if all links are there now"
            )
    elif has_blobs:
        problem = problem_without_links(driver, ledger)
    ledger.note_lost(None if problem is None else repositories)
    return problem


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
