"""Uploads that a registry and a mount both know of, each begun by one and ended by the other."""

import base64
import errno
import hashlib
import hmac
import http.client
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.digest import Digest
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted
from tests.support.repositories import layer, layers, stored_uploads, upload
from tests.support.services import DockerRegistry

pytestmark = [pytest.mark.fuse, pytest.mark.registry]

CONTENT = random.Random(8).randbytes(3 * 2**20 + 17)
FIRST, REST = CONTENT[: 2**20 + 5], CONTENT[2**20 + 5 :]
DIGEST = Digest.of(CONTENT)

SECRET = b"every registry of the tests has this"


class Client:
    """What docker push does, step by step."""

    def __init__(self, registry: DockerRegistry, name: str) -> None:
        self._address = registry.address
        self._name = name

    def begin(self) -> str:
        """The place of a new upload."""
        return self._request("POST", f"/v2/{self._name}/blobs/uploads/", http.client.ACCEPTED)

    def add(self, place: str, content: bytes) -> str:
        """Where the upload goes on."""
        return self._request("PATCH", place, http.client.ACCEPTED, content)

    def end(self, place: str, digest: Digest, content: bytes = b"") -> None:
        mark = "&" if "?" in place else "?"
        self._request("PUT", f"{place}{mark}digest={digest}", http.client.CREATED, content)

    def place_of(self, upload_id: str, offset: int) -> str:
        """Where a registry would have one go on with an upload that it never saw."""
        document = {
            "Name": self._name,
            "UUID": upload_id,
            "Offset": offset,
            "StartedAt": "2024-02-29T12:00:00Z",
        }
        state = json.dumps(document).encode()
        signed = hmac.new(SECRET, state, hashlib.sha256).digest() + state
        token = base64.urlsafe_b64encode(signed).decode()
        return f"/v2/{self._name}/blobs/uploads/{upload_id}?_state={token}"

    def _request(self, method: str, place: str, expected: int, content: bytes = b"") -> str:
        connection = http.client.HTTPConnection(self._address, timeout=10)
        headers = {"Content-Type": "application/octet-stream"}
        try:
            connection.request(method, place, content, headers)
            response = connection.getresponse()
            assert response.status == expected, response.read()
            location = response.headers["Location"]
            return location.removeprefix(f"http://{self._address}")
        finally:
            connection.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with DockerRegistry.serving(tmp_path_factory.mktemp("served") / "storage") as registry:
        yield registry


@pytest.fixture(scope="module")
def mount(
    served: DockerRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MountedRegistry]:
    with mounted(served.root, tmp_path_factory.mktemp("mount"), "--create") as mount:
        yield mount


@pytest.fixture
def app(mount: MountedRegistry) -> Path:
    path = mount.path / f"app{len(os.listdir(mount.path))}"
    path.mkdir()
    return path


@pytest.fixture
def client(served: DockerRegistry, app: Path) -> Client:
    return Client(served, app.name)


def test_upload_of_a_registry_is_listed_under_its_uuid(
    mount: MountedRegistry, app: Path, client: Client
) -> None:
    """[S7.12] Uploads of registries and of other mounts are listed, the former under their uuid."""
    client.add(client.begin(), FIRST)
    [stored] = stored_uploads(mount, app)
    assert os.listdir(app / "_uploads") == [stored.name]
    assert (app / "_uploads" / stored.name).read_bytes() == FIRST


def test_upload_of_a_registry_is_gone_on_with_here(
    mount: MountedRegistry, app: Path, client: Client
) -> None:
    """[S7.12] Uploads of registries and of other mounts are listed, the former under their uuid,
    and can be gone on with.
    """
    client.add(client.begin(), FIRST)
    [stored] = stored_uploads(mount, app)
    file = upload(app, stored.name)
    with file.open("ab") as more:
        more.write(REST)
    assert os.getxattr(file, "user.blobfs.digest").decode() == str(DIGEST)
    assert layers(app) == {DIGEST.encoded: CONTENT}


def test_upload_begun_here_is_gone_on_with_over_http(
    mount: MountedRegistry, app: Path, client: Client
) -> None:
    """[S7.12] One begun here can be gone on with over HTTP."""
    with failing_with(errno.EBADMSG):
        upload(app, DIGEST).write_bytes(FIRST)
    [stored] = stored_uploads(mount, app)
    place = client.add(client.place_of(stored.name, len(FIRST)), REST)
    client.end(place, DIGEST)
    assert layer(app, DIGEST).read_bytes() == CONTENT
    assert stored_uploads(mount, app) == []


def test_upload_that_a_registry_commits_is_stale_for_who_has_it_open_here(
    mount: MountedRegistry, app: Path, client: Client
) -> None:
    """[S7.20] An upload that another mount or a registry has committed or removed is ESTALE for
    whoever has it open here.
    """
    place = client.add(client.begin(), CONTENT)
    [stored] = stored_uploads(mount, app)
    file = os.open(upload(app, stored.name), os.O_WRONLY)
    try:
        os.pwrite(file, CONTENT[:1], 0)  # which opens the data, and changes nothing
        client.end(place, DIGEST)
        with failing_with(errno.ESTALE):
            os.pwrite(file, b"late", 0)
    finally:
        with failing_with(errno.ESTALE):
            os.close(file)
    assert layer(app, DIGEST).read_bytes() == CONTENT
    eventually(lambda: os.listdir(app / "_uploads") == [])


def test_what_a_registry_is_uploading_is_left_alone(
    mount: MountedRegistry, app: Path, client: Client
) -> None:
    """[S7.12] What another writes meanwhile is not touched. While we list, upload, rename, and
    remove what is ours.
    """
    place = client.add(client.begin(), FIRST)
    [stored] = stored_uploads(mount, app)

    def files() -> dict[str, tuple[int, bytes]]:
        found = [path for path in stored.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}

    before = files()
    for name in ("layer.tar", str(Digest.of(b"ours"))):
        upload(app, name).write_bytes(b"ours")
    with failing_with(errno.EBADMSG):
        upload(app, Digest.of(b"another")).write_bytes(CONTENT)
    os.rename(upload(app, Digest.of(b"another")), upload(app, "renamed"))
    upload(app, "renamed").unlink()
    assert mount.control("uploads.json")
    assert files() == before
    client.end(client.add(place, REST), DIGEST)
    assert layers(app) == {
        DIGEST.encoded: CONTENT,
        Digest.of(b"ours").encoded: b"ours",
    }


def test_blob_that_was_committed_here_is_served(
    served: DockerRegistry, app: Path, client: Client
) -> None:
    """[S7.1] A close that returns 0 to whoever has the last descriptor means: verified, durable,
    linked.
    """
    upload(app, "layer.tar").write_bytes(CONTENT)
    connection = http.client.HTTPConnection(served.address, timeout=10)
    connection.request("GET", f"/v2/{app.name}/blobs/{DIGEST}")
    assert connection.getresponse().read() == CONTENT
    connection.close()
