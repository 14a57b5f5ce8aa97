"""Faults of a storage: their kinds, and what each one means for an image."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple


class Severity(StrEnum):
    """The consequence of a fault."""

    DAMAGE = "damage"
    """Something that was pushed cannot be pulled."""

    RISK = "risk"
    """Programs may stop at it, or data may be lost later."""

    LEFTOVER = "left-over"
    """It takes space or names, and hurts nothing."""


class _Meaning(NamedTuple):
    severity: Severity
    text: str


class FaultKind(StrEnum):
    """A kind of fault, by the name that reports and ``--repair`` use."""

    BLOB_MISSING = "blob-missing"
    BLOB_UNLINKED = "blob-unlinked"
    BLOB_EMPTY = "blob-empty"
    BLOB_SIZE = "blob-size"
    BLOB_CONTENT = "blob-content"
    BLOB_ORPHAN = "blob-orphan"
    BLOB_ASIDE = "blob-aside"
    LINK_INVALID = "link-invalid"
    LINK_ELSEWHERE = "link-elsewhere"
    LINK_LEFT_OVER = "link-left-over"
    MANIFEST_MISSING = "manifest-missing"
    MANIFEST_INVALID = "manifest-invalid"
    CHILD_MISSING = "child-missing"
    SUBJECT_MISSING = "subject-missing"
    TAG_DANGLING = "tag-dangling"
    TAG_UNSET = "tag-unset"
    TAG_HISTORY = "tag-history"
    UPLOAD_STALE = "upload-stale"
    UPLOAD_DAMAGED = "upload-damaged"
    REPOSITORY_NAME = "repository-name"
    REPOSITORY_EMPTY = "repository-empty"
    UNREADABLE = "unreadable"
    STRAY = "stray"

    @property
    def severity(self) -> Severity:
        """The consequence of such a fault."""
        return _MEANINGS[self].severity

    @property
    def text(self) -> str:
        """One sentence that says what is wrong."""
        return _MEANINGS[self].text


_DAMAGE, _RISK, _LEFTOVER = Severity.DAMAGE, Severity.RISK, Severity.LEFTOVER

_MEANINGS: Final = {
    FaultKind.BLOB_MISSING: _Meaning(_DAMAGE, "a manifest needs the blob, and it is not stored"),
    FaultKind.BLOB_UNLINKED: _Meaning(
        _DAMAGE, "a manifest needs the blob, and its repository has no link to it"
    ),
    FaultKind.BLOB_EMPTY: _Meaning(_DAMAGE, "the blob has no bytes, and its digest is of some"),
    FaultKind.BLOB_SIZE: _Meaning(_DAMAGE, "the blob has another size than its manifests say"),
    FaultKind.BLOB_CONTENT: _Meaning(_DAMAGE, "the blob's bytes do not have its digest"),
    FaultKind.BLOB_ORPHAN: _Meaning(_LEFTOVER, "no repository links the blob"),
    FaultKind.BLOB_ASIDE: _Meaning(_RISK, "a stopped collection or repair has set the blob aside"),
    FaultKind.LINK_INVALID: _Meaning(_DAMAGE, "the link does not hold one digest"),
    FaultKind.LINK_ELSEWHERE: _Meaning(_DAMAGE, "the link holds another digest than its path"),
    FaultKind.LINK_LEFT_OVER: _Meaning(
        _LEFTOVER, "the link's blob is gone, and no manifest needs it"
    ),
    FaultKind.MANIFEST_MISSING: _Meaning(_DAMAGE, "the manifest is linked, and it is not stored"),
    FaultKind.MANIFEST_INVALID: _Meaning(_DAMAGE, "the manifest cannot be read"),
    FaultKind.CHILD_MISSING: _Meaning(_DAMAGE, "an index names a manifest that is missing"),
    FaultKind.SUBJECT_MISSING: _Meaning(
        _LEFTOVER, "a referrer names a subject that the repository does not have"
    ),
    FaultKind.TAG_DANGLING: _Meaning(_DAMAGE, "the tag names a revision that is missing"),
    FaultKind.TAG_UNSET: _Meaning(_LEFTOVER, "the tag has a history and no current revision"),
    FaultKind.TAG_HISTORY: _Meaning(_RISK, "the tag's history does not have its revision"),
    FaultKind.UPLOAD_STALE: _Meaning(_LEFTOVER, "the upload began long ago"),
    FaultKind.UPLOAD_DAMAGED: _Meaning(_LEFTOVER, "the upload cannot be continued"),
    FaultKind.REPOSITORY_NAME: _Meaning(_RISK, "no repository can have this name"),
    FaultKind.REPOSITORY_EMPTY: _Meaning(_LEFTOVER, "the directory has no files"),
    FaultKind.UNREADABLE: _Meaning(_RISK, "access is denied"),
    FaultKind.STRAY: _Meaning(_RISK, "a registry does not store such a path"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    *place* is the object: a path, a digest, or ``repository:tag``. *link* is the path of the link
    that should hold *digest*, if that is what is wrong. *images* are the images that
    cannot be pulled, as ``repository:tag (platform)``. A second look finds the fault if all paths
    *present* exist and all paths *absent* do not, and if what they hold is still wrong. *size* is
    that of the blob by its manifests, if it has another.
    """

    kind: FaultKind
    place: str
    detail: str = ""
    repository: str = ""
    digest: str = ""
    link: str = ""
    images: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    size: int = 0

    @property
    def severity(self) -> Severity:
        """The consequence of the fault."""
        return self.kind.severity
