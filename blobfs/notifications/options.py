"""Who is notified, of what, and how patiently.

Source of truth: distribution's ``configuration.Notifications``, and its documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from blobfs.digest import Descriptor
from blobfs.storage.events import Event


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An HTTP server that events are posted to; what is secret of it is never shown.

    A POST may take *timeout_s*. One that fails is made again, at once until *threshold* have
    failed in a row, then every *backoff_s*.
    """

    name: str
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout_s: float = 1.0
    threshold: int = 10
    backoff_s: float = 1.0
    ignored_media_types: frozenset[str] = frozenset()
    ignored_actions: frozenset[str] = frozenset()

    def wants(self, event: Event) -> bool:
        """Whether the event is to be posted here."""
        media_type = event.target.media_type if isinstance(event.target, Descriptor) else ""
        return (
            event.action not in self.ignored_actions and media_type not in self.ignored_media_types
        )


@dataclass(frozen=True, slots=True)
class NotificationOptions:
    """The *endpoints*, and what every event tells them.

    *base_url* is where the registry is reached, for the URLs of blobs and manifests.
    *include_references* adds what a manifest refers to; *pulls* tells of reads as well.
    """

    endpoints: tuple[Endpoint, ...] = ()
    include_references: bool = False
    pulls: bool = False
    base_url: str | None = None
