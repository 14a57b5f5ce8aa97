"""The verification of a storage: all checks, a second look, and the images that a fault hurts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import AccessDenied, PathInvalid, PathNotFound
from blobfs.inventory.inventory import Inventory
from blobfs.inventory.rows import pack
from blobfs.inventory.scanning import hash_fault, opened, read_link_at, read_manifest
from blobfs.maintenance import images
from blobfs.maintenance.checks import CHECKS, orphans
from blobfs.maintenance.faults import Fault, FaultKind, Severity
from blobfs.maintenance.unlinking import LeftOverLinks
from blobfs.maintenance.uploads import open_uploads
from blobfs.storage.listing.presence import with_presence

_STALE_S: Final = 7 * 86400.0
"""The age of a stale upload; a registry purges its own after this time."""

_YOUNG_S: Final = 3600.0
"""What is younger may belong to a push that is under way: it is no orphan and no lost upload."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The faults of a storage, the worst first, and what was looked at."""

    faults: Sequence[Fault]
    counts: dict[str, int]

    @property
    def is_damaged(self) -> bool:
        """True if something that was pushed cannot be pulled."""
        return any(fault.severity is Severity.DAMAGE for fault in self.faults)


SETTLE_S: Final = 2.0
"""Time before the last look at a fault: a registry deletes a manifest first, and then its tags."""


def verify(
    inventory: Inventory, repositories: Sequence[str] = (), *, settle_s: float = 0
) -> Verification:
    """Check everything in *inventory*, or the *repositories* and the blobs that they need.

    A registry may have written between the looks of the inventory. So a fault is reported if a
    second look at the storage finds it too, and another one *settle_s* later.
    """
    db = inventory.journal.db
    now_ns = time.time_ns()
    young_ns = now_ns - int(_YOUNG_S * 1e9)
    found = chain.from_iterable(check(db) for check in CHECKS)
    found = chain(found, orphans(db, young_ns))
    found = chain(found, open_uploads(db, now_ns - int(_STALE_S * 1e9), young_ns))
    look = SecondLook(opened(inventory.storage))
    confirmed = [
        fault
        for fault in found
        if _concerns(inventory, fault, repositories) and look.confirms(fault)
    ]
    if confirmed and settle_s:
        time.sleep(settle_s)
        confirmed = list(filter(look.confirms, confirmed))
    faults = [_with_images(inventory, fault) for fault in confirmed]
    faults.sort(key=lambda fault: (_ORDER.index(fault.severity), fault.kind, fault.place))
    return Verification(faults, dict(db.execute(_COUNTS)))


_ORDER: Final = list(Severity)

_COUNTS: Final = """
SELECT 'repositories', count(*) FROM repository UNION ALL SELECT 'links', count(*) FROM link
UNION ALL SELECT 'blobs', count(*) FROM blob UNION ALL SELECT 'manifests', count(*) FROM manifest
"""
_LINKED: Final = """
SELECT 1 FROM link JOIN repository ON repository.id = repository
WHERE target = ? AND name = ? LIMIT 1
"""


def _concerns(inventory: Inventory, fault: Fault, repositories: Sequence[str]) -> bool:
    """True if the fault is in one of the *repositories*, or in a blob that one of them links."""
    if not repositories or fault.repository in repositories:
        return True
    if fault.repository or not fault.digest:
        return False
    digest = pack(Digest.parse(fault.digest))
    db = inventory.journal.db
    return any(db.execute(_LINKED, (digest, name)).fetchone() for name in repositories)


def _with_images(inventory: Inventory, fault: Fault) -> Fault:
    if fault.severity is not Severity.DAMAGE:
        return fault
    if fault.kind is FaultKind.TAG_DANGLING:
        return replace(fault, images=(fault.place,))
    if not fault.digest:  # a tag's link
        return fault
    digest = pack(Digest.parse(fault.digest))
    found = images.needing(inventory.journal.db, digest, fault.repository)
    return replace(fault, images=found)


class SecondLook:
    """Asks the storage again about a fault that an inventory shows."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = with_presence(driver)
        self._left_overs = LeftOverLinks(self._driver)

    def confirms(self, fault: Fault) -> bool:
        """True if the fault is still there; raises StorageUnavailable."""
        present = all(self._exists(path, or_directory=True) for path in fault.present)
        if not present or any(map(self._exists, fault.absent)):
            return False
        look = self._LOOKS.get(fault.kind)
        return look is None or look(self, fault)

    def _exists(self, path: str, *, or_directory: bool = False) -> bool:
        try:
            info = self._driver.stat(path)
        except PathNotFound:
            return False
        except (AccessDenied, PathInvalid):
            return True
        return or_directory or not info.is_dir

    def _is_invalid_link(self, fault: Fault) -> bool:
        return read_link_at(self._driver, fault.place).fault is not None

    def _is_elsewhere(self, fault: Fault) -> bool:
        target = read_link_at(self._driver, fault.place).digest
        return target not in {None, pack(Digest.parse(fault.digest))}

    def _is_left_over(self, fault: Fault) -> bool:
        return self._left_overs.missing_blob(fault.place) is not None

    def _is_invalid_manifest(self, fault: Fault) -> bool:
        return read_manifest(self._driver, Digest.parse(fault.digest)).fault is not None

    def _is_current(self, fault: Fault) -> bool:
        """True if the tag's current link still names the revision of the fault."""
        target = read_link_at(self._driver, fault.present[0]).digest
        return target == pack(Digest.parse(fault.digest))

    def _has_other_size(self, fault: Fault) -> bool:
        return self._size(fault.present[0]) not in {None, fault.size}

    def _is_empty_blob(self, fault: Fault) -> bool:
        return self._size(fault.present[0]) == 0

    def _size(self, path: str) -> int | None:
        try:
            return self._driver.stat(path).size
        except (PathNotFound, AccessDenied, PathInvalid):
            return None

    def _has_other_content(self, fault: Fault) -> bool:
        return hash_fault(self._driver, Digest.parse(fault.digest)) is not None

    def _is_empty(self, fault: Fault) -> bool:
        try:
            return next(self._driver.listdir(fault.place), None) is None
        except PathNotFound:
            return False

    _LOOKS: Final[Mapping[FaultKind, Callable[[SecondLook, Fault], bool]]] = {
        FaultKind.LINK_INVALID: _is_invalid_link,
        FaultKind.LINK_ELSEWHERE: _is_elsewhere,
        FaultKind.LINK_LEFT_OVER: _is_left_over,
        FaultKind.MANIFEST_INVALID: _is_invalid_manifest,
        FaultKind.TAG_DANGLING: _is_current,
        FaultKind.TAG_HISTORY: _is_current,
        FaultKind.BLOB_EMPTY: _is_empty_blob,
        FaultKind.BLOB_SIZE: _has_other_size,
        FaultKind.BLOB_CONTENT: _has_other_content,
        FaultKind.REPOSITORY_EMPTY: _is_empty,
    }
    """The looks that need more than the paths of a fault."""
