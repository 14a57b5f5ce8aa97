"""An upload that passes between blobfs and a real registry, either way, and what either sees."""

import base64
import hashlib
import hmac
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import ContentMismatch, UploadUnknown
from blobfs.reference import Tag
from blobfs.storage.manifest import OCI_MANIFEST
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.blobwriter import BlobWriter
from tests.support.layout import APP, image
from tests.support.services import DockerRegistry, run
from tests.support.uploads import LARGE, UPLOADS, files_below, states

pytestmark = pytest.mark.registry

FIRST, SECOND, THIRD = LARGE[:700_001], LARGE[700_001:900_000], LARGE[900_000:]
DIGEST = Digest.of(LARGE)
SECRET = b"every registry of the tests has this"
HEADERS = {"Content-Type": "application/octet-stream", "Accept": OCI_MANIFEST}


class Answer(NamedTuple):
    status: int
    location: str
    body: bytes


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with DockerRegistry.serving(tmp_path / "storage") as registry:
        yield registry


@pytest.fixture
def driver(registry: DockerRegistry) -> Iterator[StorageDriver]:
    driver = BaseDriver(FilesystemDriver.below(registry.root))
    yield driver
    driver.close()


def ask(registry: DockerRegistry, method: str, url: str, body: bytes = b"") -> Answer:
    connection = http.client.HTTPConnection(registry.address, timeout=10)
    try:
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, body or None, HEADERS)
        response = connection.getresponse()
        return Answer(response.status, response.headers.get("Location", ""), response.read())
    finally:
        connection.close()


def pulled(registry: DockerRegistry, digest: Digest = DIGEST) -> bytes:
    answer = ask(registry, "GET", f"/v2/{APP}/blobs/{digest}")
    assert answer.status == http.client.OK, answer.body
    return answer.body


def url_of(writer: BlobWriter) -> str:
    """Where a registry takes the rest of an upload: what it would have answered itself."""
    state = {
        "Name": str(APP),
        "UUID": writer.id,
        "Offset": writer.size,
        "StartedAt": writer.started_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    content = json.dumps(state).encode()
    token = hmac.digest(SECRET, content, hashlib.sha256) + content
    return f"/v2/{APP}/blobs/uploads/{writer.id}?_state={base64.urlsafe_b64encode(token).decode()}"


def begin_there(registry: DockerRegistry, content: bytes) -> tuple[str, str]:
    """An upload with *content* by HTTP: its id, and where it can be gone on with."""
    begun = ask(registry, "POST", f"/v2/{APP}/blobs/uploads/")
    assert begun.status == http.client.ACCEPTED, begun.body
    patched = ask(registry, "PATCH", begun.location, content)
    assert patched.status == http.client.ACCEPTED, patched.body
    return urlsplit(patched.location).path.rpartition("/")[2], patched.location


def begin_here(repository: Repository, content: bytes, name: str = "layer.tar") -> BlobWriter:
    with repository.uploads.create(name=name, digest=DIGEST) as writer:
        writer.write(content)
    return writer


def spoil_the_start(registry: DockerRegistry, upload_id: str) -> None:
    """Change bytes that were hashed before: whoever reads them again gets another digest."""
    data = registry.root / paths.upload_data(APP, upload_id)[1:]
    with data.open("r+b") as file:
        file.write(bytes(1000))


def test_upload_begun_by_a_registry_is_completed_here(
    registry: DockerRegistry, repository: Repository
) -> None:
    upload_id, _ = begin_there(registry, FIRST)
    assert list(repository.uploads.enumerate()) == [upload_id]
    with repository.uploads.resume(upload_id) as writer:
        assert writer.size == len(FIRST)
        writer.write(SECOND + THIRD)
        writer.commit(DIGEST)
    assert pulled(registry) == LARGE


def test_hash_state_of_a_registry_is_not_believed(
    registry: DockerRegistry, repository: Repository
) -> None:
    """[S7.5] A registry syncs neither the bytes nor the hash state that it saves. A registry syncs
    neither the bytes nor the state, and tells of no later change.
    """
    upload_id, _ = begin_there(registry, LARGE)
    spoil_the_start(registry, upload_id)
    with pytest.raises(ContentMismatch):
        repository.uploads.resume(upload_id).commit(DIGEST)


def test_upload_of_a_registry_is_copied_as_it_may_have_it_open(
    registry: DockerRegistry, repository: Repository
) -> None:
    """[S7.20] It copies what another mount has open, and what a registry has begun, into the blob
    instead of moving it there.
    """
    upload_id, _ = begin_there(registry, LARGE)
    data = registry.root / paths.upload_data(APP, upload_id)[1:]
    with data.open("r+b") as open_elsewhere:
        repository.uploads.resume(upload_id).commit(DIGEST)
        open_elsewhere.write(b"late")
    assert pulled(registry) == LARGE


def test_registry_does_not_know_an_upload_that_was_completed_here(
    registry: DockerRegistry, driver: StorageDriver, repository: Repository
) -> None:
    upload_id, url = begin_there(registry, LARGE)
    repository.uploads.resume(upload_id).commit()
    assert ask(registry, "GET", url).status == http.client.NOT_FOUND
    assert files_below(driver, UPLOADS) == set()


def test_upload_begun_by_a_registry_is_cancelled_here(
    registry: DockerRegistry, driver: StorageDriver, repository: Repository
) -> None:
    upload_id, url = begin_there(registry, FIRST)
    repository.uploads.resume(upload_id).cancel()
    assert ask(registry, "GET", url).status == http.client.NOT_FOUND
    assert files_below(driver, UPLOADS) == set()


def test_upload_begun_here_is_completed_by_a_registry(
    registry: DockerRegistry, repository: Repository
) -> None:
    writer = begin_here(repository, FIRST)
    patched = ask(registry, "PATCH", url_of(writer), SECOND)
    assert patched.status == http.client.ACCEPTED, patched.body
    put = ask(registry, "PUT", f"{patched.location}&digest={DIGEST}", THIRD)
    assert put.status == http.client.CREATED, put.body
    assert repository.layers.stat(DIGEST).size == len(LARGE)
    assert pulled(registry) == LARGE


def test_registry_goes_on_from_our_hash_state_without_reading(
    registry: DockerRegistry, repository: Repository
) -> None:
    writer = begin_here(repository, FIRST)
    spoil_the_start(registry, writer.id)
    put = ask(registry, "PUT", f"{url_of(writer)}&digest={DIGEST}", SECOND + THIRD)
    assert put.status == http.client.CREATED, put.body


def test_registry_without_our_hash_state_would_read_all(
    registry: DockerRegistry, driver: StorageDriver, repository: Repository
) -> None:
    writer = begin_here(repository, FIRST)
    spoil_the_start(registry, writer.id)
    driver.delete(paths.upload_hashstates(APP, writer.id, "sha256"))
    put = ask(registry, "PUT", f"{url_of(writer)}&digest={DIGEST}", SECOND + THIRD)
    assert put.status == http.client.BAD_REQUEST
    assert b"DIGEST_INVALID" in put.body


def test_upload_goes_back_and_forth(
    registry: DockerRegistry, driver: StorageDriver, repository: Repository
) -> None:
    writer = begin_here(repository, FIRST)
    assert ask(registry, "PATCH", url_of(writer), SECOND).status == http.client.ACCEPTED
    writer = repository.uploads.resume(writer.id)
    assert (writer.size, writer.record.name) == (len(FIRST + SECOND), "layer.tar")
    writer.write(THIRD)
    with pytest.raises(ContentMismatch):
        writer.commit(Digest.of(b"another"))  # which hashes all that the registry added
    writer.suspend()
    assert states(driver, writer.id) == {str(len(LARGE))}
    put = ask(registry, "PUT", f"{url_of(writer)}&digest={DIGEST}")
    assert put.status == http.client.CREATED, put.body
    assert pulled(registry) == LARGE


def test_registry_removes_our_record_with_the_upload(
    registry: DockerRegistry, driver: StorageDriver, repository: Repository
) -> None:
    writer = begin_here(repository, LARGE)
    assert f"{writer.id}/blobfs.json" in files_below(driver, UPLOADS)
    put = ask(registry, "PUT", f"{url_of(writer)}&digest={DIGEST}")
    assert put.status == http.client.CREATED, put.body
    assert files_below(driver, UPLOADS) == set()


def test_registry_cancels_an_upload_begun_here(
    registry: DockerRegistry, driver: StorageDriver, repository: Repository
) -> None:
    writer = begin_here(repository, FIRST)
    assert ask(registry, "DELETE", url_of(writer)).status == http.client.NO_CONTENT
    # It saves a last hash state once the rest is gone.
    assert files_below(driver, UPLOADS) <= {f"{writer.id}/hashstates/sha256/0"}
    with pytest.raises(UploadUnknown):
        repository.uploads.resume(writer.id)


def test_registry_tells_how_far_an_upload_begun_here_has_come(
    registry: DockerRegistry, repository: Repository
) -> None:
    writer = begin_here(repository, FIRST)
    assert ask(registry, "GET", url_of(writer)).status == http.client.NO_CONTENT


def test_registry_pulls_a_blob_by_the_sha512_that_it_was_declared_as(
    registry: DockerRegistry, repository: Repository
) -> None:
    alias = Digest.of(LARGE, "sha512")
    with repository.uploads.create(digest=alias) as writer:
        writer.write(LARGE)
        writer.commit()
    assert pulled(registry, alias) == LARGE


def test_registry_serves_an_image_that_was_put_here(
    registry: DockerRegistry, repository: Repository
) -> None:
    for content in (b"{}", LARGE):
        with repository.uploads.create() as writer:
            writer.write(content)
            writer.commit()
    payload = image(Digest.of(b"{}"), DIGEST)
    digest = repository.manifests.put(payload).digest
    repository.tags.tag(Tag("v1"), digest)
    for reference in ("v1", digest):
        answer = ask(registry, "GET", f"/v2/{APP}/manifests/{reference}")
        assert (answer.status, answer.body) == (http.client.OK, payload)


def test_garbage_collection_leaves_an_upload_begun_here(
    registry: DockerRegistry, repository: Repository
) -> None:
    repository.layers.put(b"some blob, which it needs to begin")
    writer = begin_here(repository, FIRST)
    config = registry.root.with_name(registry.root.name + ".yml")
    run("docker-registry", "garbage-collect", config)
    resumed = repository.uploads.resume(writer.id)
    resumed.write(SECOND + THIRD)
    assert resumed.commit().digest == DIGEST
