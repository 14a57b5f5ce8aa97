"""A copy from one place to another: the plan, the transfer, and what ``sync`` deletes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from blobfs.concurrency import ThreadPool
from blobfs.digest import Digest
from blobfs.drivers.base import Closing
from blobfs.errors import AccessDenied, MountRefused, Unsupported
from blobfs.inventory.cluster import cluster_workers
from blobfs.inventory.inventory import Progress, Workers
from blobfs.inventory.rows import unpack
from blobfs.transfer.catalog import Catalog
from blobfs.transfer.copier import Copier, Crew, Feedback
from blobfs.transfer.mirroring import Surplus, delete, surplus
from blobfs.transfer.outcome import failures
from blobfs.transfer.places import Kind, Place, check_pair
from blobfs.transfer.planner import Planner
from blobfs.transfer.route import Route, close_all, ends_of, stop_all
from blobfs.transfer.selection import Selection

LOCAL_JOBS: Final = 4
REMOTE_JOBS: Final = 16

_END_S: Final = 10.0
"""The longest wait for transfers that were stopped."""

_SURVEYED: Final = 1000
_SURVEYED_IF_WHOLE: Final = 100
"""Links of a plan from which on the content of a target is learnt as a whole.

A whole place is mostly copied to one that has as much.
"""

_WANTED: Final = """
    SELECT target,
        (SELECT count(*) FROM tag WHERE tag.repository = repository.id AND state = 'wanted'),
        count(blob.id), CAST(total(blob.size) AS INTEGER)
    FROM repository
    LEFT JOIN (
        SELECT blob, min(repository) AS repository FROM link WHERE state = 'wanted' GROUP BY blob
    ) AS first ON first.repository = repository.id
    LEFT JOIN blob ON blob.id = first.blob AND NOT blob.there
    WHERE repository.id IN (SELECT repository FROM tag WHERE state = 'wanted'
        UNION SELECT repository FROM link WHERE state = 'wanted')
    GROUP BY repository.id ORDER BY target
"""

_LEFT: Final = """
    SELECT total(size) FROM blob WHERE NOT there
        AND EXISTS (SELECT 1 FROM link WHERE blob = blob.id AND state = 'wanted')
"""

_HAS_ARRIVED: Final = """
    SELECT EXISTS (SELECT 1 FROM blob WHERE there)
        OR EXISTS (SELECT 1 FROM manifest WHERE state = 'there')
"""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of what *selection* has of the route's source."""

    route: Route
    selection: Selection

    def __post_init__(self) -> None:
        """Raise MountRefused for places between which nothing can be copied."""
        check_pair(self.route.source, self.route.target)
        if self.selection.newer_than_s is not None and self.route.source.kind is not Kind.STORAGE:
            raise MountRefused(
                f"{self.route.source} has no times of tags; omit --newer-than, or select tags by"
                " --include"
            )

    @property
    def key(self) -> str:
        """16 digits that are the same for all names of the places, and for the same selection."""
        source, target = self.route.source, self.route.target
        name = f"{source.key} {source.part} {target.key} {target.part} {self.selection}"
        return sha256(name.encode()).hexdigest()[:16]

    @property
    def is_of_a_file(self) -> bool:
        """True if one blob is copied, from a file or to one."""
        return Kind.FILE in {self.route.source.kind, self.route.target.kind}

    @property
    def is_to_stdout(self) -> bool:
        """True if a blob or an archive goes to the standard output."""
        return self.route.target.is_stream

    @property
    def is_repeatable(self) -> bool:
        """True if a run can go on where another one was stopped."""
        ends = (self.route.source, self.route.target)
        return not self.is_of_a_file and not any(place.is_stream for place in ends)

    def open(
        self,
        state: Path | None,
        crew: Crew,
        progress: Progress,
        *,
        restart: bool = False,
        on_pause: Callable[[str], None] = lambda _: None,
    ) -> OpenCopy:
        """Open the catalog and the places, and complete the plan.

        *state* is the catalog's file, which is temporary if it is None. *on_pause* is called with
        the reason before a long pause. Raises MountRefused,
        NameInvalid, AccessDenied, StorageUnavailable.
        """
        catalog = Catalog.opened(state, self.key, restart=restart)
        copy = self._replacing() if catalog.is_resumed else self
        try:
            ends = ends_of(copy.route)
            ends.on_pause = on_pause
            if self.selection.part.is_everything and self.route.source.kind is not Kind.FILE:
                ends.source.survey(progress)
            planner = Planner(catalog, crew.threads, copy.route, self.selection, progress)
            planner.plan()
            least = _SURVEYED_IF_WHOLE if self.selection.part.is_everything else _SURVEYED
            if catalog.one("SELECT count(*) FROM link") >= least:
                ends.target.survey(progress)
        except BaseException:
            catalog.close()
            raise
        return OpenCopy(copy, catalog, planner, crew)

    def _replacing(self) -> Self:
        """Return the copy that may replace an archive, which the stopped run has completed."""
        options = replace(self.route.target_options, replaces=True)
        return replace(self, route=replace(self.route, target_options=options))


@dataclass(frozen=True, slots=True)
class OpenCopy(Closing):
    """A copy with its complete plan. It owns the catalog, and closes it."""

    copy: Copy
    catalog: Catalog
    planner: Planner
    crew: Crew

    def close(self) -> None:
        self.catalog.close()

    @property
    def size(self) -> int:
        """The bytes of the blobs that the plan has left to copy, each once."""
        return int(self.catalog.one(_LEFT))

    @property
    def is_empty(self) -> bool:
        """True if nothing is selected."""
        return not self.catalog.one(
            "SELECT EXISTS (SELECT 1 FROM manifest) OR EXISTS (SELECT 1 FROM link)"
            " OR EXISTS (SELECT 1 FROM tag WHERE state <> 'unselected')"
            " OR EXISTS (SELECT 1 FROM repository WHERE state = 'failed')"
        )

    @property
    def blob(self) -> Digest:
        """The first blob of the plan, which is the only one if a file is copied."""
        return unpack(self.catalog.one("SELECT digest FROM blob ORDER BY id"))

    def run(self, feedback: Feedback, *, fail_fast: bool = False) -> None:
        """Copy everything; what failed is in the catalog.

        After a plan that was stopped before, what has changed since is copied by another plan.
        """
        ends_of(self.copy.route).on_bytes = feedback.add_bytes
        copier = Copier(self.planner, self.crew, feedback, fail_fast=fail_fast)
        with feedback.showing(self.size):
            copier.copy()
        if self.catalog.is_resumed:
            self.catalog.begin()
            self.planner.plan()
            with feedback.showing(self.size):
                copier.copy()

    def delete(
        self,
        deleted: Callable[[Surplus], None],
        *,
        at_most: int | None = None,
        dry_run: bool = False,
    ) -> list[str]:
        """Delete what the source does not have, after everything was copied.

        Nothing is deleted if that would be more than *at_most* tags. *deleted* is called with each.
        Returns the reasons why something was not deleted.
        """
        if next(failures(self.catalog), None) is not None:
            return ["nothing was deleted, as something could not be copied"]
        if not self.catalog.one("SELECT 1 FROM tag LIMIT 1"):
            return ["nothing was deleted, as the source has no images; is it mounted?"]
        lost = list(surplus(self.planner))
        count = sum(found.tags for found in lost)
        reasons = []
        if at_most is not None and count > at_most:
            reasons = [
                f"nothing was deleted, as {count} tags would go, and --max-delete is {at_most};"
                f" --dry-run lists them, and --max-delete {count} removes them"
            ]
        for found in lost if dry_run or not reasons else ():
            try:
                if dry_run or delete(self.copy.route, found):
                    deleted(found)
            except (AccessDenied, Unsupported) as exc:
                reasons.append(f"{found} was not deleted: {exc}")
        return reasons

    def finish(self) -> None:
        """Complete the target, unless nothing could be copied to it, and end the plan."""
        if self.catalog.one(_HAS_ARRIVED) or next(failures(self.catalog), None) is None:
            ends_of(self.copy.route).target.finish()
        self.catalog.end()

    def ask(self, feedback: Feedback) -> list[tuple[str, int, int, int]]:
        """Return the tags, blobs and bytes that the target lacks, by repository.

        A blob counts for the first repository that gets it. Nothing is changed, but the catalog
        has what cannot be copied.
        """
        Copier(self.planner, self.crew, feedback).ask()
        wanted = self.catalog.rows(_WANTED)
        for part in self.catalog.parts():
            self.catalog.conclude(part)
        return wanted


@contextmanager
def workers_for(
    route: Route, jobs: int | None = None, cluster: str | None = None
) -> Iterator[Crew]:
    """Yield *jobs* threads, by default as many as suit the places, and the workers of a *cluster*.

    At the end the ends of all routes are closed. After an error the transfers are stopped before.
    Raises MountRefused.
    """
    places = (route.source, route.target)
    is_local = all(place.root is not None or place.is_stream for place in places)
    count = jobs or (LOCAL_JOBS if is_local else REMOTE_JOBS)
    pool = ThreadPool("copy", count)
    with _cluster(places, cluster) as remote:
        try:
            yield Crew(Workers(pool, count), remote)
        except BaseException:
            stop_all()
            raise
        finally:
            pool.close()
            if pool.has_ended(_END_S):
                close_all()


def _cluster(
    places: Sequence[Place], address: str | None
) -> AbstractContextManager[Workers | None]:
    """Connect with the cluster at *address*, if it is given."""
    if address is None:
        return nullcontext()
    if not {place.kind for place in places} <= {Kind.STORAGE, Kind.REGISTRY}:
        raise MountRefused(
            "--cluster copies between storages and registries; a layout, an archive or a file has"
            " one writer, so omit --cluster"
        )
    storages = (place.location for place in places if place.location is not None)
    return cluster_workers(address, *storages)
