"""One run of a collection: look again, take the inventory, plan, remove links, sweep."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blobfs.cache.base import DescriptorCache
from blobfs.drivers.location import Location
from blobfs.inventory.inventory import Inventory, Progress, Workers, threads
from blobfs.inventory.journal import Journal
from blobfs.maintenance.gc.directories import remove
from blobfs.maintenance.gc.ledger import Freed, Ledger
from blobfs.maintenance.gc.no_links import identity_of_repositories
from blobfs.maintenance.gc.plan import Approval, Plan
from blobfs.maintenance.gc.planfile import Key, PlanFile
from blobfs.maintenance.gc.rules import Rules
from blobfs.maintenance.gc.sweeping import Sweep
from blobfs.maintenance.gc.target import ChangedStorage
from blobfs.maintenance.gc.unlinking import Unlinking
from blobfs.maintenance.gc.views import Manifests, Views

_SHORT_S: Final = 60.0
"""The longest grace that a run waits for without being asked."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """Functions that show a person what goes on; *wait* waits for seconds."""

    progress: Progress = lambda _kind, _count: None
    wait: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a collection; times are in seconds.

    *workers* take the inventory, by default threads. What is looked at again is read by threads of
    this process, as another machine may remember older listings of a network's file system.
    """

    layers: bool = False
    untagged: bool = False
    age_s: float = 86400.0
    grace_s: float = 3600.0
    settle_s: float = 10.0
    workers: Workers | None = None

    def rules(self, now: float) -> Rules:
        """Return the rules of a pass that begins *now*."""
        before_ns = int((now - self.age_s) * 1e9)
        return Rules(before_ns, self.layers, self.untagged, self.grace_s)


@dataclass(slots=True)
class Outcome:
    """The result of a run: removed links by repository and kind, and what became of the blobs.

    *skipped* has the reason for each repository that was left alone, *refused* the entries of an
    approved plan that must stay, *lost* the blobs that are needed and that another program has
    deleted while they were set aside, *blocked* the reason why no blob was deleted. *due_at* is the
    time at which all other blobs may be deleted. The last two may be None.
    """

    links: Counter[tuple[str, str]] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    refused: list[Key] = field(default_factory=list)
    freed: list[Freed] = field(default_factory=list)
    left: set[bytes] = field(default_factory=set)
    lost: set[bytes] = field(default_factory=set)
    blocked: str | None = None
    due_at: float | None = None

    def merge(self, later: Outcome) -> None:
        """Add the outcome of a later pass of the same run."""
        self.links += later.links
        self.freed += later.freed
        self.lost |= later.lost
        self.skipped, self.refused, self.left = later.skipped, later.refused, later.left
        self.blocked, self.due_at = later.blocked, later.due_at


class Collection:
    """A collection in *storage*, with its journal in the file *state*.

    Used by one thread. Whatever stops a run, the next one with the same journal continues it.
    """

    def __init__(
        self,
        storage: str | Location,
        state: Path,
        options: Options,
        cache: DescriptorCache,
        feedback: Feedback | None = None,
    ) -> None:
        self._storage = Location.of(storage)
        self._state = state
        self._options = options
        self._feedback = feedback or Feedback()
        self._target = ChangedStorage(self._storage, cache)

    def look_again(self) -> None:
        """Restore the links that earlier runs have removed, and that are needed now."""
        with Journal.opened(self._state, self._storage.url) as journal:
            ledger = Ledger(journal)
            unlinking = self._unlinking(ledger, self._options.rules(time.time()))
            unlinking.look_again(ledger.repositories())

    @contextmanager
    def planned(self, approve: Approval | None = None) -> Iterator[Plan]:
        """Take the inventory, and plan what goes; only what *approve* returns true for."""
        rules = self._options.rules(time.time())
        with Inventory.taken(
            self._storage,
            state=self._state,
            workers=self._options.workers,
            progress=self._feedback.progress,
        ) as inventory:
            yield Plan.made(inventory, Ledger(inventory.journal), rules, approve)

    def run(self, approved: PlanFile | None = None, *, wait: bool = False) -> Outcome:
        """Delete what nothing needs, and what *approved* has if it is not None.

        A grace of at most a minute is waited for; with *wait* any other too. Raises the errors of
        ``Inventory.taken``.
        """
        outcome = self._run_once(approved)
        if outcome.due_at is not None:
            rest = max(outcome.due_at - time.time(), 0.0)
            if wait or rest <= _SHORT_S:
                self._feedback.wait(rest)
                outcome.merge(self._run_once(approved))
        return outcome

    def _run_once(self, approved: PlanFile | None) -> Outcome:
        began = time.time()
        self.look_again()
        with self.planned(None if approved is None else approved.approve) as plan:
            if plan.blocked is None:  # else it is not known what needs them
                plan.ledger.forget_removed(began - self._options.grace_s)
            outcome = self._delete(plan)
            if approved is None:
                for directory in plan.empty_directories():
                    remove(self._target.driver, directory, plan.rules.before_ns)
            else:
                outcome.refused = approved.refused(plan)
            return outcome

    def _delete(self, plan: Plan) -> Outcome:
        outcome = Outcome(skipped=dict(plan.skipped), blocked=plan.blocked)
        ledger = plan.ledger
        unlinking = self._unlinking(ledger, plan.rules)
        due = plan.due(time.time())
        if plan.blocked is None and plan.removes_all_links:
            ledger.note_emptied(identity_of_repositories(self._target.driver))
        outcome.links += unlinking.remove(plan.links())
        unlinked_at = time.time()
        changed = {repository for repository, _ in outcome.links}

        def settle(has_aside: bool) -> None:
            if changed or has_aside:
                self._feedback.wait(self._options.settle_s)
            outcome.links.subtract(unlinking.look_again(changed))

        manifests = Manifests(self._storage, ledger.journal)
        with threads(self._storage) as workers:
            sweep = Sweep(self._storage, self._target, ledger, manifests, workers)
            if plan.blocked is None:
                earlier = plan.set_aside_earlier()
                swept = sweep.run(due, plan.rules.before_ns, earlier, settle)
            else:
                swept = sweep.put_back(plan.set_aside_earlier())
                settle(False)
        outcome.skipped |= unlinking.skipped
        outcome.freed, outcome.left, outcome.lost = swept.freed, swept.left, swept.lost
        outcome.blocked = outcome.blocked or swept.refusal
        outcome.due_at = plan.last_due(time.time())
        if outcome.due_at is not None and changed:
            outcome.due_at = max(outcome.due_at, unlinked_at + self._options.grace_s)
        return outcome

    def _unlinking(self, ledger: Ledger, rules: Rules) -> Unlinking:
        views = Views(self._storage, ledger.journal, rules)
        return Unlinking(self._target, ledger, views, rules)
