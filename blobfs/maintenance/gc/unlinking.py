"""The first step: dead links are removed, and those that a push needs meanwhile restored."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Collection
from functools import partial

from blobfs.inventory.rows import LinkKind
from blobfs.logs import about
from blobfs.maintenance.gc.ledger import Ledger
from blobfs.maintenance.gc.plan import KINDS
from blobfs.maintenance.gc.rules import Rules, dead_links
from blobfs.maintenance.gc.target import Target
from blobfs.maintenance.gc.views import Views

log = logging.getLogger(__name__)

Key = tuple[int, str, bytes]
"""The kind, tag and packed digest of a link."""


class Unlinking:
    """Removes the links of a plan, one repository after the other.

    A registry checks a link and then stores the manifest that needs it. So each repository is read
    right before and right after the change, and again by ``look_again``. *skipped* has the reason
    for each repository that was left alone.
    """

    def __init__(self, target: Target, ledger: Ledger, views: Views, rules: Rules) -> None:
        self._target = target
        self._ledger = ledger
        self._views = views
        self._rules = rules
        self.skipped: dict[str, str] = {}

    def remove(self, repository: str, planned: Collection[Key]) -> Counter[str]:
        """Remove those *planned* links that are still dead; returns their number by kind.

        Raises StorageUnavailable, AccessDenied.
        """
        view = self._views.current(repository)
        if view.problems:
            self.skipped[repository] = view.problems[0]
        links = [link for link, _ in dead_links(view, self._rules) if link[:3] in planned]
        if not links:
            return Counter()
        self._ledger.remove(repository, links, time.time())
        deque(self._target.map(partial(self._target.unlink, repository), links), maxlen=0)
        self._target.clear(repository, links)
        restored = self.look_again(repository)
        removed = Counter(KINDS[LinkKind(link.kind)] for link in links)
        removed.subtract(restored)
        return +removed

    def look_again(self, repository: str) -> Counter[str]:
        """Restore the removed links that are needed now; returns their number by kind.

        A link is needed if the rules would not find it dead, if it existed.
        """
        removed = self._ledger.removed(repository)
        view = self._views.current(repository, removed)
        if view.problems:
            needed = removed
        else:
            dead = {link[:3] for link, _ in dead_links(view, self._rules)}
            needed = [link for link in removed if link[:3] not in dead]
        for link in needed:
            self._target.link(repository, link)
            log.info(
                "gc: repository %s needs %s again", repository, KINDS[LinkKind(link.kind)],
                extra=about(repository=repository),
            )  # fmt: skip
        self._ledger.restored(repository, needed)
        self._target.clear(repository, removed)
        return Counter(KINDS[LinkKind(link.kind)] for link in needed)
