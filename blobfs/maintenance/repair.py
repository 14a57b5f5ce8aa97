"""Repairs of faults: what can be mended from the rest of the storage, or from another one.

Each repair is one small change that loses nothing: a link is written from the digest that its path
or a manifest has, a link without a blob is removed, and damaged bytes are moved to a directory
before they are replaced. Every repair looks at the storage again before it changes it, and looks
for what a registry has written meanwhile before it removes anything for good.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

from blobfs import paths
from blobfs.cache.base import DescriptorCache
from blobfs.cache.memory import NoCache
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver, stat_or_none
from blobfs.errors import Exists
from blobfs.inventory.scanning import read_manifest
from blobfs.maintenance.faults import Fault, FaultKind
from blobfs.maintenance.quarantine import Copy
from blobfs.maintenance.unlinking import LeftOverLinks
from blobfs.storage.linkfiles import write_link
from blobfs.storage.listing.presence import with_presence


class RepairKind(StrEnum):
    """A kind of repair, as ``--repair`` names it."""

    RELINK = "relink"
    """Write the link of a stored blob that a path, a tag or a manifest of the repository names."""

    UNLINK = "unlink"
    """Remove a link whose blob is gone and that no manifest needs, and empty repositories."""

    QUARANTINE = "quarantine"
    """Move the bytes of a damaged blob to the directory of ``--quarantine``."""

    FETCH = "fetch"
    """Copy a missing blob from the storage of ``--repair-from``, and verify it."""


_KINDS: Final = {
    FaultKind.BLOB_UNLINKED: RepairKind.RELINK,
    FaultKind.LINK_INVALID: RepairKind.RELINK,
    FaultKind.LINK_ELSEWHERE: RepairKind.RELINK,
    FaultKind.TAG_DANGLING: RepairKind.RELINK,
    FaultKind.TAG_HISTORY: RepairKind.RELINK,
    FaultKind.LINK_LEFT_OVER: RepairKind.UNLINK,
    FaultKind.REPOSITORY_EMPTY: RepairKind.UNLINK,
    FaultKind.BLOB_EMPTY: RepairKind.QUARANTINE,
    FaultKind.BLOB_SIZE: RepairKind.QUARANTINE,
    FaultKind.BLOB_CONTENT: RepairKind.QUARANTINE,
    FaultKind.MANIFEST_INVALID: RepairKind.QUARANTINE,
    FaultKind.BLOB_MISSING: RepairKind.FETCH,
    FaultKind.CHILD_MISSING: RepairKind.FETCH,
    FaultKind.MANIFEST_MISSING: RepairKind.FETCH,
}

_DAMAGED: Final = "data.damaged"
"""The name of a blob's data during a repair, beside ``data``; registries ignore it."""

_YOUNG_S: Final = 3600.0
"""An empty directory that is younger may be one that a registry is about to fill."""


@dataclass(frozen=True, slots=True)
class Repair:
    """One change of the storage; *text* says in the imperative what it does.

    *make* makes it, and returns False if it turned out that nothing is wrong.
    """

    kind: RepairKind
    text: str
    fault: Fault
    make: Callable[[], bool]


class Repairer:
    """Plans repairs of faults, and makes them.

    *still_has* is the second look of a verification. *quarantine* is the directory for damaged
    bytes, *source* the driver of another registry's storage; without one of them the repairs that
    need it are not planned. What is removed is cleared in *cache*, which registries share.
    """

    def __init__(
        self,
        driver: StorageDriver,
        still_has: Callable[[Fault], bool],
        quarantine: Path | None = None,
        source: StorageDriver | None = None,
        cache: DescriptorCache | None = None,
    ) -> None:
        self._driver = with_presence(driver)
        self._cache = cache or NoCache()
        self._left_overs = LeftOverLinks(self._driver, self._cache)
        self._still_has = still_has
        self._quarantine = quarantine
        self._source = source

    def plan(self, faults: Iterable[Fault], kinds: Collection[RepairKind]) -> list[Repair]:
        """Return the repairs of *kinds* that *faults* need, each once."""
        repairs: dict[str, Repair] = {}
        for fault in faults:
            kind = _KINDS.get(fault.kind)
            if kind is None or kind not in kinds:
                continue
            planned = self._planned(kind, fault)
            if planned is not None:
                text, call = planned
                repairs.setdefault(text, Repair(kind, text, fault, call))
        return list(repairs.values())

    def _planned(self, kind: RepairKind, fault: Fault) -> tuple[str, Callable[[], bool]] | None:
        if kind is RepairKind.UNLINK:
            is_link = fault.kind is FaultKind.LINK_LEFT_OVER
            call = self._left_overs.remove if is_link else self._remove_directory
            return f"remove {fault.place}", partial(call, fault.place)
        if not fault.digest:
            return None  # the current link of a tag, whose content nothing else tells
        digest = Digest.parse(fault.digest)
        if kind is RepairKind.RELINK and self._may_link(fault, digest):
            return f"write {digest} to {fault.link}", partial(self._link, fault.link, digest)
        if kind is RepairKind.QUARANTINE and self._quarantine is not None:
            text = f"move {digest} to {self._quarantine}, if its bytes are wrong"
            return text, partial(self._set_aside, digest, self._quarantine)
        source = self._source
        if kind is RepairKind.FETCH and source is not None and _is_stored(source, digest):
            return f"copy {digest} from the other storage", partial(self._fetch, digest, source)
        return None

    def _may_link(self, fault: Fault, digest: Digest) -> bool:
        if fault.kind is FaultKind.TAG_DANGLING:  # a tag may hold anything
            return read_manifest(self._driver, digest).fault is None
        return _is_stored(self._driver, digest)

    def make(self, repair: Repair) -> bool:
        """Make a repair; False if the fault is gone, or turned out to be none.

        Raises the errors of the storage, and DigestMismatch if the other storage is damaged too.
        """
        return self._still_has(repair.fault) and repair.make()

    def _link(self, path: str, digest: Digest) -> bool:
        write_link(self._driver, path, digest)
        return True

    def _remove_directory(self, path: str) -> bool:
        """Remove an empty directory; False if it is young."""
        age_s = time.time() - self._driver.stat(path).mtime_ns / 1e9
        if age_s < _YOUNG_S:
            return False
        self._driver.prune(path)
        return True

    def _set_aside(self, digest: Digest, quarantine: Path) -> bool:
        """Move a damaged blob to the quarantine.

        It is copied, set aside, and removed only if it still has the bytes that were copied. So a
        good blob that is stored meanwhile stays.
        """
        path = paths.blob_data(digest)
        aside = path.removesuffix("data") + _DAMAGED
        if self._hashed(path, digest.algorithm) == digest:
            return False  # the manifests are wrong
        if stat_or_none(self._driver, aside) is not None:
            raise Exists(f"{aside} is there, of a stopped repair; move it away")
        with self._driver.open(path) as reader:
            copy = Copy.made(reader, quarantine, digest)
        self._driver.move(path, aside)
        try:
            is_copied = self._hashed(aside, digest.algorithm) == copy.digest != digest
        except BaseException:
            self._put_back(aside, path)
            raise
        if is_copied:
            self._driver.delete(aside)
        else:
            self._put_back(aside, path)
            copy.remove()
        self._cache.clear(digest)
        return is_copied

    def _put_back(self, aside: str, path: str) -> None:
        """Undo the move; a blob that was stored again meanwhile stays, and both remain."""
        if stat_or_none(self._driver, path) is None:
            self._driver.move(aside, path)

    def _hashed(self, path: str, algorithm: str) -> Digest:
        with self._driver.open(path) as reader:
            return Digest.of_chunks(reader.chunks(), algorithm)

    def _fetch(self, digest: Digest, source: StorageDriver) -> bool:
        path = paths.blob_data(digest)
        with source.open(path) as reader:
            self._driver.put_immutable(path, digest.verified(reader.chunks()))
        return True


def _is_stored(driver: StorageDriver, digest: Digest) -> bool:
    [info] = driver.stat_many([paths.blob_data(digest)])
    return info is not None and not info.is_dir
