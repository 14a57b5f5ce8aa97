"""What was done to a repository through us, told to whoever listens.

The acts are those that distribution tells of (``notifications/listener.go``). The store that did
one tells of it in the thread that did it, once it is durable and never before.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from blobfs.digest import Descriptor, Digest
from blobfs.errors import BlobfsError
from blobfs.logs import about
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.manifest import Manifest

log = logging.getLogger(__name__)


class Action(StrEnum):
    """What was done."""

    PUSH = "push"
    PULL = "pull"
    MOUNT = "mount"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Event:
    """One act on something of *repository*.

    *target* is a blob or a manifest; of one that was deleted only the digest is known, and of a
    tag its name. *tag* is what a manifest was tagged with, *origin* the repository that a blob
    was mounted from, *references* what a manifest refers to.
    """

    action: Action
    repository: RepositoryName
    target: Descriptor | Digest | Tag
    is_manifest: bool = False
    tag: Tag | None = None
    origin: RepositoryName | None = None
    references: tuple[Descriptor, ...] = ()


class Listener(Protocol):
    """Hears of what is done. Thread-safe."""

    @property
    def actions(self) -> Collection[Action]:
        """The acts that it is told of."""

    def handle(self, event: Event) -> None:
        """Take note of an act, which has succeeded; so this must not fail, nor take long."""


class _Nobody:
    @property
    def actions(self) -> Collection[Action]:
        return ()

    def handle(self, event: Event) -> None:
        """Nothing follows."""


NULL_LISTENER: Final[Listener] = _Nobody()
"""Hears nothing."""


class Events:
    """What a link set or a store of tags tells of: nothing, as of a tag's history."""

    repository: RepositoryName | None = None

    def pushed(self, digest: Digest, size: int) -> None:
        """Something was stored, and linked under *digest*."""

    def mounted(self, digest: Digest, size: int, origin: RepositoryName | None) -> None:
        """Something that *origin* has, or nobody knows who, was linked."""

    def pulled(self, digest: Digest, size: int, tag: Tag | None = None) -> None:
        """Somebody began to read something, which *tag* has led to."""

    def deleted(self, digest: Digest) -> None:
        """A link was removed."""

    def tagged(self, tag: Tag, digest: Digest) -> None:
        """A tag has come to stand for a manifest."""

    def untagged(self, tag: Tag) -> None:
        """A tag was removed."""


class _ToldEvents(Events):
    """Tells *listener* of what it hears."""

    def __init__(self, repository: RepositoryName, listener: Listener) -> None:
        self.repository: RepositoryName = repository
        self._listener = listener

    def _tell(self, event: Event) -> None:
        if event.action in self._listener.actions:
            self._listener.handle(event)


class BlobEvents(_ToldEvents):
    """Tells of a repository's layers."""

    def pushed(self, digest: Digest, size: int) -> None:
        self._tell(Event(Action.PUSH, self.repository, Descriptor(digest, size)))

    def mounted(self, digest: Digest, size: int, origin: RepositoryName | None) -> None:
        if origin in (None, self.repository):
            self.pushed(digest, size)
            return
        blob = Descriptor(digest, size)
        self._tell(Event(Action.MOUNT, self.repository, blob, origin=origin))

    def pulled(self, digest: Digest, size: int, tag: Tag | None = None) -> None:
        self._tell(Event(Action.PULL, self.repository, Descriptor(digest, size)))

    def deleted(self, digest: Digest) -> None:
        self._tell(Event(Action.DELETE, self.repository, digest))


class ManifestEvents(_ToldEvents):
    """Tells of a repository's manifests and tags; what a manifest is, is read in *blobs*."""

    def __init__(self, repository: RepositoryName, blobs: BlobStore, listener: Listener) -> None:
        super().__init__(repository, listener)
        self._blobs = blobs

    def pushed(self, digest: Digest, size: int) -> None:
        self._describe(Action.PUSH, digest)

    def mounted(self, digest: Digest, size: int, origin: RepositoryName | None) -> None:
        self._describe(Action.PUSH, digest)  # no registry mounts manifests

    def pulled(self, digest: Digest, size: int, tag: Tag | None = None) -> None:
        self._describe(Action.PULL, digest, tag)

    def tagged(self, tag: Tag, digest: Digest) -> None:
        self._describe(Action.PUSH, digest, tag)

    def deleted(self, digest: Digest) -> None:
        self._tell(Event(Action.DELETE, self.repository, digest, is_manifest=True))

    def untagged(self, tag: Tag) -> None:
        self._tell(Event(Action.DELETE, self.repository, tag))

    def _describe(self, action: Action, digest: Digest, tag: Tag | None = None) -> None:
        """Tell of a manifest with all that is in it."""
        if action not in self._listener.actions:  # so nobody needs it read
            return
        target: Descriptor | Digest = digest
        references: tuple[Descriptor, ...] = ()
        try:
            payload = self._blobs.get(digest)
            manifest = Manifest.parse(payload)
            target = Descriptor(digest, len(payload), manifest.media_type)
            references = manifest.references
        except BlobfsError as exc:  # it was done all the same
            fields = about(repository=self.repository, digest=digest)
            log.info("of manifest %s only the digest is told: %s", digest, exc, extra=fields)
        self._tell(Event(action, self.repository, target, True, tag, references=references))
