"""The third step: unlinked blobs are set aside, looked for again, and then deleted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from blobfs.digest import Digest
from blobfs.drivers.location import Location
from blobfs.errors import DigestInvalid
from blobfs.inventory.inventory import Workers
from blobfs.inventory.rows import pack, unpack
from blobfs.logs import about
from blobfs.maintenance.gc.ledger import Freed, Ledger
from blobfs.maintenance.gc.no_links import problem_without_links
from blobfs.maintenance.gc.second_look import SecondLook, look
from blobfs.maintenance.gc.target import Target
from blobfs.maintenance.gc.views import Manifests

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Swept:
    """The outcome: what was *freed*, the blobs that are needed, and those *left* aside.

    *refusal* is the reason why no blob was deleted, or None.
    """

    freed: list[Freed] = field(default_factory=list)
    needed: set[bytes] = field(default_factory=set)
    left: set[bytes] = field(default_factory=set)
    refusal: str | None = None


class Sweep:
    """Deletes blobs in one batch. Each one is set aside first, so that it can be put back."""

    def __init__(
        self,
        storage: Location,
        target: Target,
        ledger: Ledger,
        manifests: Manifests,
        workers: Workers,
    ) -> None:
        self._storage = storage
        self._target = target
        self._ledger = ledger
        self._manifests = manifests
        self._workers = workers

    def put_back(self, earlier: Iterable[str]) -> Swept:
        """Put the blobs of interrupted batches back, since it is not known if they are needed."""
        return Swept(left=self._put_back(self._ledger.aside() | set(_digests(earlier))))

    def run(
        self, due: Collection[bytes], earlier: Iterable[str], settle: Callable[[], None]
    ) -> Swept:
        """Delete the blobs *due* that nothing needs, and finish the *earlier* interrupted batch.

        *earlier* are paths of data that were set aside. *settle* waits longer than a registry takes
        from its look at a blob to its link, and does what else must follow that wait.
        """
        aside = self._ledger.aside() | set(_digests(earlier))
        found = self._look(set(due)) if due else None
        swept = Swept()
        if found is not None:
            swept.refusal, swept.needed = found.unreadable, found.needed
            if found.unreadable is None:
                aside |= set(due) - found.needed
        self._ledger.set_aside(sorted(aside))
        try:
            for _ in self._target.map(self._set_aside, set(due) & aside):
                pass
            settle()
            if aside:
                self._finish(aside, swept)
        except BaseException:
            self._put_back(aside)
            raise
        return swept

    def _set_aside(self, digest: bytes) -> None:
        self._target.set_aside(unpack(digest))

    def _look(self, digests: set[bytes]) -> SecondLook:
        found = look(self._storage, digests, self._manifests, self._workers)
        if found.unreadable is None and not found.has_links:
            found.unreadable = problem_without_links(self._target.driver, self._ledger)
        return found

    def _finish(self, aside: set[bytes], swept: Swept) -> None:
        """Delete the blobs that nothing needs after all, and put the others back."""
        found = self._look(aside)
        needed = aside if found.unreadable is not None else found.needed
        swept.refusal = found.unreadable
        swept.needed |= needed
        swept.left = self._put_back(needed)
        sizes = dict(self._target.map(self._drop, aside - needed))
        swept.freed = self._ledger.deleted(sizes, time.time())

    def _drop(self, digest: bytes) -> int:
        return self._target.drop(unpack(digest))

    def _put_back(self, digests: Iterable[bytes]) -> set[bytes]:
        """Put blobs back; returns those that stay aside, because another size was stored."""
        back, left = [], set()
        for packed in sorted(digests):
            digest = unpack(packed)
            if self._target.put_back(digest):
                back.append(packed)
            else:
                left.add(packed)
                log.warning(
                    "gc: blob %s was stored again with another size; compare data and data.aside",
                    digest, extra=about(digest=digest),
                )  # fmt: skip
        self._ledger.back(back)
        return left


def _digests(paths_aside: Iterable[str]) -> Iterable[bytes]:
    for path in paths_aside:
        _, algorithm, _, encoded, _ = path.rsplit("/", 4)
        try:
            yield pack(Digest(algorithm, encoded))
        except DigestInvalid:
            continue
