"""Envelopes; what they have in common with a registry's is in test_like_a_registry.py."""

import json
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import pytest

from blobfs.digest import Descriptor, Digest
from blobfs.notifications.envelope import EnvelopeWriter
from blobfs.storage.events import Action, Event
from tests.support.notification_events import APP, push


def written(event: Event, base_url: str | None = None) -> dict[str, Any]:
    body = EnvelopeWriter(base_url, include_references=False).write(event)
    [document] = json.loads(body)["events"]
    return dict(document)


def test_there_is_no_request_and_no_actor() -> None:
    """[S15.1] `request`, which has the user agent only, as there is no HTTP, and `actor`, which is
    empty, as nobody logs in.
    """
    document = written(push("a"))
    assert document["request"] == {"useragent": f"blobfs/{version('blobfs')}"}
    assert document["actor"] == {}


def test_it_tells_when() -> None:
    moment = datetime.fromisoformat(written(push("a"))["timestamp"])
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)


def test_every_event_has_an_id_and_every_mount_one() -> None:
    writer = EnvelopeWriter(None, include_references=False)
    [one], [other] = (json.loads(writer.write(push("a")))["events"] for _ in range(2))
    assert one["id"] != other["id"]
    assert one["source"] == other["source"]
    assert one["source"] != written(push("a"))["source"]


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        (None, None),
        ("https://example.com", "https://example.com/v2/"),
        ("https://example.com/", "https://example.com/v2/"),
        ("https://example.com/below/", "https://example.com/below/v2/"),
        ("https://example.com/below", "https://example.com/v2/"),
    ],
)
def test_a_url_is_below_the_host_of_the_configuration(
    base_url: str | None, expected: str | None
) -> None:
    """[S15.1] `target.url` is there if the file has an `http.host`."""
    event = push("a")
    target = written(event, base_url)["target"]
    digest = target["digest"]
    assert target.get("url") == (expected and f"{expected}{APP}/blobs/{digest}")


def test_no_bytes_have_no_size() -> None:
    target = written(Event(Action.PUSH, APP, Descriptor(Digest.of(b""), 0)))["target"]
    assert target.keys() == {"mediaType", "digest", "repository"}
