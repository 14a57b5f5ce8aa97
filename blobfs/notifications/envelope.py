"""Event envelopes in distribution's format.

Source of truth: distribution 2.8, ``notifications/event.go`` and ``bridge.go``. A mount has no HTTP
request and no login, so ``request`` has only the user agent, and ``actor`` is empty.
"""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final
from urllib.parse import urljoin

from blobfs.digest import Descriptor, Digest
from blobfs.reference import Tag
from blobfs.storage.events import Event
from blobfs.timestamps import format_time

CONTENT_TYPE: Final = "application/vnd.docker.distribution.events.v1+json"

USER_AGENT: Final = f"blobfs/{version('blobfs')}"


class EnvelopeWriter:
    """Serializes events with the current time, this machine and this mount. Thread-safe."""

    def __init__(self, base_url: str | None, *, include_references: bool) -> None:
        self._base_url = base_url
        self._include_references = include_references
        self._source = {"addr": socket.gethostname(), "instanceID": str(uuid.uuid4())}

    def write(self, event: Event) -> bytes:
        """Return the body of a POST for *event*."""
        document = {
            "id": str(uuid.uuid4()),
            "timestamp": format_time(datetime.now(UTC)),
            "action": event.action,
            "target": self._target(event),
            "request": {"useragent": USER_AGENT},
            "actor": {},
            "source": self._source,
        }
        return json.dumps({"events": [document]}, indent=3, ensure_ascii=False).encode()

    def _target(self, event: Event) -> dict[str, object]:
        match event.target:
            case Tag() as tag:
                return {"repository": event.repository, "tag": tag}
            case Digest() as digest:
                described = {
                    "digest": str(digest),
                    "repository": event.repository,
                    "tag": event.tag,
                }
                return _without_empty(described)
            case Descriptor() as descriptor:
                return self._content(event, descriptor)

    def _content(self, event: Event, descriptor: Descriptor) -> dict[str, object]:
        references = [_descriptor(reference) for reference in event.references]
        return _descriptor(descriptor) | _without_empty(
            {
                "length": descriptor.size,
                "repository": event.repository,
                "fromRepository": event.origin,
                "url": self._url(event, descriptor.digest),
                "tag": event.tag,
                "references": references if self._include_references else [],
            }
        )

    def _url(self, event: Event, digest: Digest) -> str | None:
        if self._base_url is None:
            return None
        kind = "manifests" if event.is_manifest else "blobs"
        return urljoin(self._base_url, f"v2/{event.repository}/{kind}/{digest}")


def _descriptor(descriptor: Descriptor) -> dict[str, object]:
    return _without_empty(
        {
            "mediaType": descriptor.media_type,
            "size": descriptor.size,
            "digest": str(descriptor.digest),
        }
    )


def _without_empty(document: Mapping[str, object]) -> dict[str, object]:
    """Drop empty values, as Go's ``omitempty`` does."""
    return {key: value for key, value in document.items() if value}
