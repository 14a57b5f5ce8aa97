"""Events: changes and pulls in a repository that are sent to a listener.

The actions are those of distribution (``notifications/listener.go``). A store sends an event from
the thread that made the change, after the change is durable, never before.
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
    """The kind of an event."""

    PUSH = "push"
    PULL = "pull"
    MOUNT = "mount"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Event:
    """One action on a blob, a manifest or a tag of *repository*.

    *target* is a descriptor, the digest of a deleted blob or manifest, or a removed tag. *tag* is
    the manifest's tag, *origin* the repository that a blob was mounted from, *references* the
    descriptors in a manifest.
    """

    action: Action
    repository: RepositoryName
    target: Descriptor | Digest | Tag
    is_manifest: bool = False
    tag: Tag | None = None
    origin: RepositoryName | None = None
    references: tuple[Descriptor, ...] = ()


class Listener(Protocol):
    """Receiver of events. Thread-safe."""

    @property
    def actions(self) -> Collection[Action]:
        """The actions whose events it receives."""

    def handle(self, event: Event) -> None:
        """Receive an event of a completed action. It must not raise, and must not block."""


class _NullListener:
    @property
    def actions(self) -> Collection[Action]:
        return ()

    def handle(self, event: Event) -> None:
        """Do nothing."""


NULL_LISTENER: Final[Listener] = _NullListener()
"""The listener that receives no event."""


class Events:
    """Sender of no events, for link sets such as a tag's history; the base of the others."""

    repository: RepositoryName | None = None

    def pushed(self, digest: Digest, size: int) -> None:
        """Report content that was stored and linked under *digest*."""

    def mounted(self, digest: Digest, size: int, origin: RepositoryName | None) -> None:
        """Report content of the repository *origin* that was linked; None if that is unknown."""

    def pulled(self, digest: Digest, size: int, tag: Tag | None = None) -> None:
        """Report the start of a read, by *tag* if it was used."""

    def deleted(self, digest: Digest) -> None:
        """Report a removed link."""

    def tagged(self, tag: Tag, digest: Digest) -> None:
        """Report a tag that was set to a manifest."""

    def untagged(self, tag: Tag) -> None:
        """Report a removed tag."""


class _SentEvents(Events):
    """Sender of the events of *repository* to *listener*."""

    def __init__(self, repository: RepositoryName, listener: Listener) -> None:
        self.repository: RepositoryName = repository
        self._listener = listener

    def _send(self, event: Event) -> None:
        if event.action in self._listener.actions:
            self._listener.handle(event)


class BlobEvents(_SentEvents):
    """Sender of the events of a repository's layers."""

    def pushed(self, digest: Digest, size: int) -> None:
        self._send(Event(Action.PUSH, self.repository, Descriptor(digest, size)))

    def mounted(self, digest: Digest, size: int, origin: RepositoryName | None) -> None:
        if origin in (None, self.repository):
            self.pushed(digest, size)
            return
        blob = Descriptor(digest, size)
        self._send(Event(Action.MOUNT, self.repository, blob, origin=origin))

    def pulled(self, digest: Digest, size: int, tag: Tag | None = None) -> None:
        self._send(Event(Action.PULL, self.repository, Descriptor(digest, size)))

    def deleted(self, digest: Digest) -> None:
        self._send(Event(Action.DELETE, self.repository, digest))


class ManifestEvents(_SentEvents):
    """Sender of the events of a repository's manifests and tags; it reads manifests in *blobs*."""

    def __init__(self, repository: RepositoryName, blobs: BlobStore, listener: Listener) -> None:
        super().__init__(repository, listener)
        self._blobs = blobs

    def pushed(self, digest: Digest, size: int) -> None:
        self._send_manifest(Action.PUSH, digest)

    def mounted(self, digest: Digest, size: int, origin: RepositoryName | None) -> None:
        self._send_manifest(Action.PUSH, digest)  # no registry mounts manifests

    def pulled(self, digest: Digest, size: int, tag: Tag | None = None) -> None:
        self._send_manifest(Action.PULL, digest, tag)

    def tagged(self, tag: Tag, digest: Digest) -> None:
        self._send_manifest(Action.PUSH, digest, tag)

    def deleted(self, digest: Digest) -> None:
        self._send(Event(Action.DELETE, self.repository, digest, is_manifest=True))

    def untagged(self, tag: Tag) -> None:
        self._send(Event(Action.DELETE, self.repository, tag))

    def _send_manifest(self, action: Action, digest: Digest, tag: Tag | None = None) -> None:
        """Send an event with the media type and the references of a manifest."""
        if action not in self._listener.actions:  # then the manifest need not be read
            return
        target: Descriptor | Digest = digest
        references: tuple[Descriptor, ...] = ()
        try:
            payload = self._blobs.get(digest)
            manifest = Manifest.parse(payload)
            target = Descriptor(digest, len(payload), manifest.media_type)
            references = manifest.references
        except BlobfsError as exc:  # the action succeeded, so it is reported
            fields = about(repository=self.repository, digest=digest)
            log.info("the event of manifest %s has only its digest: %s", digest, exc, extra=fields)
        self._send(Event(action, self.repository, target, True, tag, references=references))
