"""The deletions of ``sync``: tags and repositories of the target that the source does not have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from blobfs.errors import MountRefused, NotFound
from blobfs.inventory.rows import unpack
from blobfs.reference import Tag
from blobfs.transfer.catalog import Catalog
from blobfs.transfer.places import Kind
from blobfs.transfer.planner import Planner
from blobfs.transfer.registry.referrers import referrers_tag
from blobfs.transfer.route import Route, ends_of
from blobfs.transfer.selection import Selection


class Surplus(NamedTuple):
    """A tag of the target that its *source* does not have; without a *tag* a whole repository.

    *tags* is the number of its tags, or 1 if it has none.
    """

    repository: str
    tag: Tag | None
    source: str
    tags: int = 1

    def __str__(self) -> str:
        return self.repository if self.tag is None else f"{self.repository}:{self.tag}"


def check_mirror(route: Route, selection: Selection) -> None:
    """Raise MountRefused if what is deleted would not be what the source lost."""
    if selection.part.target is not None or selection.newer_than_s is not None:
        raise MountRefused(
            "--delete needs all tags of a repository, so one tag and --newer-than cannot be given"
        )
    if Kind.FILE in {route.source.kind, route.target.kind}:
        raise MountRefused("--delete is for repositories, and not for a file")


def surplus(planner: Planner) -> Iterator[Surplus]:
    """Yield the tags and repositories of the target that the plan of *planner* does not have.

    Only those that its selection would copy. Raises AccessDenied, StorageUnavailable, Unsupported.
    """
    target = ends_of(planner.route).target
    named = planner.route.target.part.repository
    for repository in list(target.repositories()) if named is None else [named]:
        source = planner.naming.source_of(repository)
        if source is None or not planner.selection.wants_repository(source):
            continue
        tags = sorted(target.tags(repository))
        if _is_lost(planner.catalog, planner.selection, source):
            yield Surplus(repository, None, source, max(1, len(tags)))
            continue
        kept = _tags_of_referrers(planner.catalog, source)
        for tag in tags:
            is_selected = planner.selection.wants(source, tag) and tag not in kept
            if is_selected and not _has_tag(planner.catalog, source, tag):
                yield Surplus(repository, tag, source)


def _is_lost(catalog: Catalog, selection: Selection, source: str) -> bool:
    """True if the source does not have a repository, all of which is selected."""
    is_known = catalog.one("SELECT 1 FROM repository WHERE name = :name", name=source)
    return not is_known and not selection.include and not selection.exclude


def _has_tag(catalog: Catalog, source: str, tag: Tag) -> bool:
    return bool(
        catalog.one(
            "SELECT 1 FROM named_tag WHERE origin = :name AND name = :tag", name=source, tag=tag
        )
    )


def _tags_of_referrers(catalog: Catalog, source: str) -> set[Tag]:
    """The tags by which a registry without the API for referrers finds those that were copied."""
    subjects = catalog.rows(
        "SELECT DISTINCT subject FROM named_manifest WHERE origin = :name AND subject IS NOT NULL",
        name=source,
    )
    return {referrers_tag(unpack(subject)) for (subject,) in subjects}


def delete(route: Route, found: Surplus) -> bool:
    """Delete a tag or a repository of the target, unless the source has it now.

    Raises AccessDenied, StorageUnavailable, Unsupported.
    """
    ends = ends_of(replace(route, second_look=True))
    with suppress(NotFound):
        if found.tag is None:
            if any(True for _ in ends.source.tags(found.source)):
                return False
        else:
            ends.source.tagged(found.source, found.tag)
            return False
    if found.tag is None:
        ends.target.remove(found.repository)
    else:
        ends.target.untag(found.repository, found.tag)
    return True
