"""The trash of a repository: tags that were removed, and can be brought back.

A file ``_trash/<time>-<tag>`` of JSON has a tag's current revision and its history. Registries and
mounts ignore the directory. The revision itself is not kept by it: a collection of untagged
manifests removes it, and the tag is lost then.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import (
    BlobfsError,
    Corrupt,
    DigestInvalid,
    Exists,
    ManifestUnknown,
    NameInvalid,
    NotAFile,
    PathNotFound,
    TagUnknown,
    TooLarge,
)
from blobfs.reference import Tag
from blobfs.storage.revisionstore import RevisionStore
from blobfs.storage.tagstore import TagStore

_LARGEST: Final = 16 * 2**20
"""Bytes of a file in the trash: a history of 200,000 revisions."""


@dataclass(frozen=True, slots=True)
class TrashedTag:
    """A removed tag: its revision at the time *removed*, in ns since the epoch, and its history."""

    tag: Tag
    digest: Digest
    removed_ns: int
    history: tuple[Digest, ...] = ()

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.removed_ns}-{self.tag}"

    def as_bytes(self) -> bytes:
        """Return the content of its file."""
        history = [str(digest) for digest in self.history]
        document = {"tag": self.tag, "digest": str(self.digest), "history": history}
        return json.dumps(document | {"removed": self.removed_ns}).encode("ascii")

    @classmethod
    def parse(cls, content: bytes) -> TrashedTag:
        """Parse the content of a file; raises Corrupt."""
        try:
            match json.loads(content):
                case {
                    "tag": str(tag),
                    "digest": str(digest),
                    "history": list(history),
                    "removed": int(removed),
                }:
                    past = tuple(Digest.parse(str(each)) for each in history)
                    return cls(Tag(tag), Digest.parse(digest), removed, past)
        except (ValueError, RecursionError, DigestInvalid, NameInvalid):
            pass
        raise Corrupt("is not a removed tag")


class TagTrash:
    """The removed tags of the repository of *tags*. Thread-safe."""

    def __init__(self, driver: StorageDriver, tags: TagStore, revisions: RevisionStore) -> None:
        self._driver = driver
        self._tags = tags
        self._revisions = revisions
        self._directory = paths.trash(tags.repository)

    def put(self, tag: Tag, digest: Digest) -> TrashedTag:
        """Remove *tag*, whose revision is *digest*, from the repository.

        It is in the trash before it is removed, so that a failure in between loses nothing. Raises
        TagUnknown, LinkInvalid, Exists if the tag has another revision by now, and TooLarge for a
        history that the trash cannot hold.
        """
        self._check(tag, digest)
        history = tuple(self._tags.history(tag).enumerate_all())
        trashed = TrashedTag(tag, digest, time.time_ns(), history)
        content = trashed.as_bytes()
        if len(content) > _LARGEST:
            raise TooLarge(
                f"the history of tag {tag} has {len(trashed.history)} revisions, too many for the"
                " trash; remove the tag by rm in a mount, which forgets its history"
            )
        try:
            self._driver.put_content(f"{self._directory}/{trashed.name}", content)
            self._check(tag, digest)
        except BaseException:
            with suppress(BlobfsError):  # the caller raises the cause
                self.discard(trashed)
            raise
        self._tags.untag(tag)  # after a failure the tag may be gone, so the trash keeps it
        return trashed

    def _check(self, tag: Tag, digest: Digest) -> None:
        current = self._tags.get_now(tag)
        if current != digest:
            raise Exists(f"tag {tag} has changed: it is {current} by now")

    def enumerate(self) -> Iterator[TrashedTag]:
        """Every removed tag, in the order of removal; damaged files are left out."""
        try:
            names = sorted(entry.name for entry in self._driver.listdir(self._directory))
        except PathNotFound:
            return
        for name in names:
            try:
                yield TrashedTag.parse(
                    self._driver.read_at(f"{self._directory}/{name}", 0, _LARGEST)
                )
            except (Corrupt, NotAFile, PathNotFound):
                continue

    def can_restore(self, trashed: TrashedTag) -> bool:
        """True if the revision is still there."""
        return self._revisions.has(trashed.digest)

    def restore(self, tag: Tag, *, replace: bool = False) -> TrashedTag:
        """Bring back the tag as it was removed last, with its history.

        Raises TagUnknown if it is not in the trash, ManifestUnknown if its revision is gone, and
        Exists if there is such a tag, unless *replace* is true.
        """
        found = [trashed for trashed in self.enumerate() if trashed.tag == tag]
        if not found:
            raise TagUnknown(tag)
        trashed = found[-1]
        if not self.can_restore(trashed):
            raise ManifestUnknown(trashed.digest)
        if not replace and self._tags.exists(tag):
            raise Exists(f"tag {tag} exists; remove it first, or replace it")
        self._tags.add_history(tag, trashed.history)
        self._tags.tag(tag, trashed.digest)
        self.discard(trashed)
        return trashed

    def discard(self, trashed: TrashedTag) -> None:
        """Remove a tag from the trash for good; a missing one is no error."""
        try:
            self._driver.delete(f"{self._directory}/{trashed.name}")
        except PathNotFound:
            pass
