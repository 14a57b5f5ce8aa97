"""The first step: dead links are removed, and those that a push needs meanwhile restored."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Final

from blobfs.inventory.rows import LinkKind
from blobfs.logs import about
from blobfs.maintenance.gc.ledger import Ledger
from blobfs.maintenance.gc.plan import KINDS
from blobfs.maintenance.gc.rules import Link, RepositoryView, Rules, dead_links
from blobfs.maintenance.gc.target import ChangedStorage
from blobfs.maintenance.gc.views import Views

log = logging.getLogger(__name__)

LinkKey = tuple[int, str, bytes]
"""The kind, tag and packed digest of a link."""

Removed = tuple[str, str]
"""A repository, and a kind of links."""

_BATCH: Final = 32
"""Repositories of a remote storage that are read at the same time."""


class Unlinking:
    """Removes the links of a plan, repository by repository.

    A registry checks a link and then stores the manifest that needs it. So each repository is read
    right before and right after the change, and again by ``look_again``. *skipped* has the reason
    for each repository that was left alone.
    """

    def __init__(self, target: ChangedStorage, ledger: Ledger, views: Views, rules: Rules) -> None:
        self._target = target
        self._ledger = ledger
        self._views = views
        self._rules = rules
        self._batch = 1 if target.driver.is_local else _BATCH
        self.skipped: dict[str, str] = {}

    def remove(self, plan: Iterable[tuple[str, set[LinkKey]]]) -> Counter[Removed]:
        """Remove those links of *plan* that are still dead; returns the number of each kind.

        *plan* has the links of each repository. Raises StorageUnavailable, AccessDenied.
        """
        removed: Counter[Removed] = Counter()
        repositories = iter(plan)
        while batch := dict(islice(repositories, self._batch)):
            for name, rows in self._target.map(self._views.read, batch):
                view = self._views.current(name, rows, self._rules)
                removed += self._remove(view, batch[name])
            removed.subtract(self.look_again(batch))
        return +removed

    def _remove(self, view: RepositoryView, planned: set[LinkKey]) -> Counter[Removed]:
        if view.problems:
            self.skipped[view.name] = view.problems[0]
        links = [link for link, _ in dead_links(view, self._rules) if link[:3] in planned]
        if not links:
            return Counter()
        self._ledger.remove(view.name, links, self._rules, time.time())
        deque(self._target.map(partial(self._target.unlink, view.name), links), maxlen=0)
        self._target.clear(view.name, links)
        return _counted(view.name, links)

    def look_again(self, repositories: Iterable[str]) -> Counter[Removed]:
        """Restore the removed links that are needed now; returns the number of each kind.

        A link is needed if the rules by which it was removed would not find it dead, if it existed.
        """
        restored: Counter[Removed] = Counter()
        for name, rows in self._target.map(self._views.read, repositories):
            removed = self._ledger.removed(name)
            rules = self._ledger.rules(name) or self._rules
            view = self._views.current(name, rows, rules, removed)
            dead = {link[:3] for link, _ in dead_links(view, rules)}
            needed = [link for link in removed if link[:3] not in dead]
            self._restore(name, needed)
            self._target.clear(name, removed)
            restored += _counted(name, needed)
        return restored

    def _restore(self, repository: str, links: Sequence[Link]) -> None:
        for link in links:
            self._target.link(repository, link)
            log.info(
                "gc: repository %s needs %s again", repository, KINDS[LinkKind(link.kind)],
                extra=about(repository=repository),
            )  # fmt: skip
        self._ledger.restored(repository, links)


def _counted(repository: str, links: Iterable[Link]) -> Counter[Removed]:
    return Counter((repository, KINDS[LinkKind(link.kind)]) for link in links)
