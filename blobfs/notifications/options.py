"""The options of notifications: endpoints, filters and retries.

Source of truth: distribution's ``configuration.Notifications``, and its documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from blobfs.digest import Descriptor
from blobfs.storage.events import Event


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An HTTP server that receives events; its ``repr`` has no secrets.

    A POST has the timeout *timeout_s*. A failed POST is repeated: at once until *threshold* have
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
        """True if the endpoint is to get the event."""
        media_type = event.target.media_type if isinstance(event.target, Descriptor) else ""
        return (
            event.action not in self.ignored_actions and media_type not in self.ignored_media_types
        )


@dataclass(frozen=True, slots=True)
class NotificationOptions:
    """The *endpoints*, and the content of events.

    *base_url* is the registry's URL, the base of the URLs of blobs and manifests.
    *include_references* adds the references of a manifest; *pulls* adds events for reads.
    """

    endpoints: tuple[Endpoint, ...] = ()
    include_references: bool = False
    pulls: bool = False
    base_url: str | None = None
