"""The third step: unlinked blobs are set aside, looked for again, and then deleted."""

from __future__ import annotations

import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.location import Location
from blobfs.errors import DigestInvalid
from blobfs.inventory.inventory import Workers
from blobfs.inventory.rows import pack, unpack
from blobfs.logs import about
from blobfs.maintenance.gc.ledger import Freed, Ledger
from blobfs.maintenance.gc.mount_points import problem_of, unmounted
from blobfs.maintenance.gc.no_links import problem_without_links
from blobfs.maintenance.gc.second_look import NeededBlobs, look
from blobfs.maintenance.gc.target import ChangedStorage, PutBack
from blobfs.maintenance.gc.views import Manifests

log = logging.getLogger(__name__)


class Aside(NamedTuple):
    """A blob that was set aside, and the path of its bytes."""

    digest: bytes
    path: str


@dataclass(slots=True)
class Swept:
    """The outcome: what was *freed*, and the blobs that were *left* aside.

    *lost* has blobs that are needed, and that another program has deleted meanwhile. *refusal* is
    the reason why no blob was deleted, or None.
    """

    freed: list[Freed] = field(default_factory=list)
    left: set[bytes] = field(default_factory=set)
    lost: set[bytes] = field(default_factory=set)
    refusal: str | None = None


class Sweep:
    """Deletes blobs in one batch. Each one is set aside first, so that it can be put back.

    Another collection, with another journal, may work at the same time. So each batch has names of
    its own for the data: it never deletes data that were set aside later than its own.
    """

    def __init__(
        self,
        storage: Location,
        target: ChangedStorage,
        ledger: Ledger,
        manifests: Manifests,
        workers: Workers,
    ) -> None:
        self._storage = storage
        self._target = target
        self._ledger = ledger
        self._manifests = manifests
        self._workers = workers
        self._name = secrets.token_hex(8)

    def put_back(self, earlier: Iterable[str]) -> Swept:
        """Put the blobs of interrupted batches back, since it is not known if they are needed."""
        swept = Swept()
        self._put_back(_asides(earlier), swept)
        return swept

    def run(
        self,
        due: Collection[bytes],
        before_ns: int,
        earlier: Iterable[str],
        settle: Callable[[bool], None],
    ) -> Swept:
        """Delete the blobs *due* that nothing needs, and finish *earlier* interrupted batches.

        A blob that was stored again since *before_ns* stays. *earlier* are paths of data that were
        set aside. *settle* does what must follow the wait, and waits itself if its argument is
        true: longer than a registry takes from its look at a blob to its link.
        """
        swept = Swept()
        found = self._look(set(due)) if due else NeededBlobs()
        swept.refusal = found.unreadable
        chosen = set(due) - found.needed if found.unreadable is None else set()
        aside = list(_asides(earlier))
        begun = [Aside(each, paths.blob_aside(unpack(each), self._name)) for each in sorted(chosen)]
        set_aside = partial(self._set_aside, before_ns)
        try:
            aside += [each for each, is_done in self._target.map(set_aside, begun) if is_done]
            settle(bool(aside))
            if aside:
                self._finish(aside, swept)
        except BaseException:
            self._put_back({*aside, *begun}, swept)
            raise
        return swept

    def _set_aside(self, before_ns: int, aside: Aside) -> bool:
        return self._target.set_aside(unpack(aside.digest), aside.path, before_ns)

    def _look(self, digests: set[bytes]) -> NeededBlobs:
        found = look(self._storage, digests, self._manifests, self._workers)
        if found.unreadable is None and not found.has_links:
            found.unreadable = problem_without_links(self._target.driver, self._ledger)
        missing = unmounted(self._storage, self._target.driver, self._ledger)
        found.unreadable = problem_of(missing, self._ledger) or found.unreadable
        return found

    def _finish(self, aside: Collection[Aside], swept: Swept) -> None:
        """Delete the blobs that nothing needs after all, and put the others back."""
        digests = {each.digest for each in aside}
        found = self._look(digests)
        needed = digests if found.unreadable is not None else found.needed
        swept.refusal = swept.refusal or found.unreadable
        swept.lost = self._put_back((each for each in aside if each.digest in needed), swept)
        for digest in sorted(swept.lost):
            log.error(
                "gc: blob %s is needed, and was deleted by another program; push it again",
                unpack(digest), extra=about(digest=unpack(digest)),
            )  # fmt: skip
        dropped = [each for each in aside if each.digest not in needed]
        sizes: dict[bytes, int | None] = {}
        for each, size in self._target.map(self._drop, dropped):
            sizes[each.digest] = sizes.get(each.digest) if size is None else size
        swept.freed = self._ledger.deleted(sizes, time.time())

    def _drop(self, aside: Aside) -> int | None:
        return self._target.drop(unpack(aside.digest), aside.path)

    def _put_back(self, asides: Iterable[Aside], swept: Swept) -> set[bytes]:
        """Put blobs back, and return those that are gone.

        Those of which another size was stored stay aside; they are added to ``swept.left``.
        """
        results = defaultdict[bytes, set[PutBack]](set)
        by_digest = defaultdict[bytes, list[str]](list)
        for packed, path in sorted(asides):
            by_digest[packed].append(path)
        for packed, found_paths in by_digest.items():
            digest = unpack(packed)
            for path in self._target.best_first(digest, found_paths):
                results[packed].add(self._target.put_back(digest, path))
        for packed, found in results.items():
            if PutBack.DIFFERS in found:
                swept.left.add(packed)
                log.warning(
                    "gc: blob %s was stored again with another size; compare data and data.aside.*",
                    unpack(packed), extra=about(digest=unpack(packed)),
                )  # fmt: skip
        self._ledger.back(results.keys() - swept.left)
        return {packed for packed, found in results.items() if found == {PutBack.GONE}}


def _asides(earlier: Iterable[str]) -> Iterator[Aside]:
    for path in earlier:
        _, algorithm, _, encoded, _ = path.rsplit("/", 4)
        try:
            yield Aside(pack(Digest(algorithm, encoded)), path)
        except DigestInvalid:
            continue
