"""The same acts, by a real registry and by us, post the same bytes to one endpoint."""

import http.client
import json
import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from blobfs.config.registry_config import read_config
from blobfs.digest import Digest
from blobfs.notifications.broadcaster import Broadcaster
from blobfs.reference import Tag
from blobfs.storage.manifest import OCI_INDEX, OCI_MANIFEST
from blobfs.storage.registry import open_registry
from tests.support.layout import image, index
from tests.support.mounts import eventually
from tests.support.notification_endpoint import Post, Receiver
from tests.support.services import free_port, serving

pytestmark = pytest.mark.registry

CONFIG: Final = b"{}"
LAYER: Final = b"layer"
IMAGE: Final = image(Digest.of(CONFIG), Digest.of(LAYER))
INDEX: Final = index(Digest.of(IMAGE))
ACTS: Final = 10

OURS_ALONE: Final = [
    (rb'"(id|timestamp|addr|instanceID)": "[^"]*"', rb'"\1": ""'),
    (rb'"request": \{[^}]*\}', b'"request": {}'),
]
"""What is different each time, and what only a registry has."""


def compared(post: Post) -> tuple[str, bytes]:
    body = post.body
    for pattern, replacement in OURS_ALONE:
        body = re.sub(pattern, replacement, body)
    return post.headers["content-type"], body


def test_a_registry_posts_the_same(tmp_path: Path) -> None:
    """[S15.1] The body is byte for byte what docker-registry 2.8 posts."""
    address = f"127.0.0.1:{free_port()}"
    with Receiver.serving() as receiver:
        config = tmp_path / "config.yml"
        config.write_text(json.dumps(configuration(tmp_path / "storage", address, receiver.url)))
        with serving(("docker-registry", "serve", config), address, "/v2/", tmp_path / "log", {}):
            acts_of_a_registry(address)
            eventually(lambda: len(receiver.posts) == ACTS)
        theirs = [compared(post) for post in receiver.posts]
        receiver.posts.clear()
        acts_of_ours(tmp_path / "ours", config)
        ours = [compared(post) for post in receiver.posts]
    assert ours == theirs


def configuration(storage: Path, address: str, url: str) -> Mapping[str, object]:
    return {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
        "http": {"addr": address, "host": "https://registry.example.com/below/"},
        "notifications": {
            "events": {"includereferences": True, "pulls": True},
            "endpoints": [
                {"name": "a", "url": url, "timeout": "5s", "threshold": 3, "backoff": "100ms"}
            ],
        },
    }


def acts_of_a_registry(address: str) -> None:
    def request(method: str, path: str, body: bytes = b"", media_type: str = "") -> str:
        with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
            media_type = media_type or "application/octet-stream"
            headers = {"Content-Type": media_type, "Accept": media_type}
            connection.request(method, f"/v2/{path}", body, headers)
            response = connection.getresponse()
            assert response.status < 300, response.read()
            return response.headers.get("Location", "")

    for content in (CONFIG, LAYER):
        place = urlsplit(request("POST", "team/app/blobs/uploads/"))
        path = place.path.partition("/v2/")[2]
        request("PUT", f"{path}?{place.query}&digest={Digest.of(content)}", content)
    request("PUT", "team/app/manifests/v1", IMAGE, OCI_MANIFEST)
    request("PUT", f"team/app/manifests/{Digest.of(INDEX)}", INDEX, OCI_INDEX)
    request("POST", f"other/blobs/uploads/?mount={Digest.of(LAYER)}&from=team/app")
    request("GET", f"team/app/blobs/{Digest.of(LAYER)}")
    request("GET", f"team/app/manifests/{Digest.of(INDEX)}", media_type=OCI_INDEX)
    request("DELETE", f"team/app/manifests/{Digest.of(IMAGE)}")  # and its tag
    request("DELETE", f"team/app/blobs/{Digest.of(LAYER)}")


def acts_of_ours(storage: Path, config: Path) -> None:
    storage.mkdir()
    options = read_config(config).notifications
    with (
        Broadcaster.opened(options, storage / "queue.db") as broadcaster,
        open_registry(str(storage), listener=broadcaster) as registry,
    ):
        app = registry.repository("team/app")
        for content in (CONFIG, LAYER):
            with app.uploads.create() as writer:
                writer.write(content)
                writer.commit()
        for name, payload in (("v1", IMAGE), (str(Digest.of(INDEX)), INDEX)):
            with app.manifest_uploads.create(name=name) as upload:
                upload.write_at(0, payload)
                upload.commit()
        registry.repository("other").layers.mount(Digest.of(LAYER), app.layers)
        app.pulled(app.layers.stat(Digest.of(LAYER)))
        app.pulled(app.manifests.links.stat(Digest.of(INDEX)))
        app.manifests.links.delete(Digest.of(IMAGE))
        app.tags.untag(Tag("v1"))
        app.layers.delete(Digest.of(LAYER))
