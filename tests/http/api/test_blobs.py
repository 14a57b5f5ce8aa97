"""Blobs over HTTP: what is sent when, and what becomes of those that fail or are not taken."""

import http.client
import logging
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from blobfs import open_registry, paths
from blobfs.digest import OCTET_STREAM, Digest
from blobfs.drivers.base import FileReader
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.wrapper import DriverWrapper
from blobfs.errors import AccessDenied, Stale, StorageUnavailable
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.events import Action, Event
from blobfs.storage.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_MANIFEST
from blobfs.storage.registry import Registry
from tests.support.api_server import ask, serving
from tests.support.layout import APP, Json, Layout, as_bytes, descriptor, image, manifest
from tests.support.services import run

LARGE = os.urandom(2**20) * 24  # more than sockets hold


def blob_path(digest: Digest) -> str:
    return f"/v2/{APP}/blobs/{digest}"


@pytest.fixture
def address(tmp_path: Path, layout: Layout) -> Iterator[str]:
    layout.layer(b"one, so that it is a registry")
    with open_registry(str(tmp_path)) as registry, serving(registry) as address:
        yield address


@contextmanager
def stalled(address: str, path: str) -> Iterator[socket.socket]:
    """A client that has asked, has read the head of the answer, and reads no more."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        assert client.recv(16).startswith(b"HTTP/1.1 200")
        yield client


def open_files(of: str) -> int:
    """How often this process has open a file whose path ends so."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").endswith(of)
        except FileNotFoundError:
            pass
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "not within 10 s"
        time.sleep(0.005)


def test_large_blob_comes_whole(address: str, layout: Layout) -> None:
    digest = layout.layer(LARGE)
    assert Digest.of(ask(address, blob_path(digest)).body) == digest


def test_large_blob_is_never_held_as_a_whole(address: str, layout: Layout) -> None:
    """[S16.8] A client has 256 KiB of memory, and what the kernel holds for its connection, however
    large the blob.
    """
    path = blob_path(layout.layer(LARGE))
    tracemalloc.start()
    try:
        run("curl", "-sSf", "-o", "/dev/null", f"http://{address}{path}")
        assert tracemalloc.get_traced_memory()[1] < len(LARGE) / 4
    finally:
        tracemalloc.stop()


def test_any_range_of_a_large_blob_is_that_of_its_bytes(address: str, layout: Layout) -> None:
    path = blob_path(layout.layer(LARGE))
    start, end = 2**19 - 1, 3 * 2**19 + 7
    assert ask(address, path, Range=f"bytes={start}-{end}").body == LARGE[start : end + 1]


def test_empty_blob_has_no_range(address: str, layout: Layout) -> None:
    answer = ask(address, blob_path(layout.layer(b"")), Range="bytes=0-")
    assert (answer.status, answer.body) == (200, b"")


def test_blob_has_the_media_type_of_a_manifest(address: str, layout: Layout) -> None:
    """[S16.4] A blob's `Content-Type` is what a manifest of the repository says of it, as in 3."""
    digest = layout.layer(b"layer")
    path = blob_path(digest)
    assert ask(address, path).headers["content-type"] == OCTET_STREAM
    layout.revision(image(layout.layer(b"{}"), digest))
    assert ask(address, path, "HEAD").headers["content-type"] == "application/x-part"


def test_blob_of_another_repository_is_unknown(address: str, layout: Layout) -> None:
    """[S16.5] A blob is found only through the repository's link, as in 1."""
    digest = layout.blob(b"linked nowhere")
    answer = ask(address, blob_path(digest))
    assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")


def test_dangling_link_is_unknown_and_warned_of(
    address: str, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    """[S16.6] A link without its blob is BLOB_UNKNOWN, as it is to a registry, and a warning."""
    digest = layout.link(paths.layers(APP), Digest.of(b"gone"))
    layout.revision(image(digest))
    answer = ask(address, blob_path(digest))
    assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")
    assert "names a blob that is not there" in caplog.text


def test_layer_that_a_garbage_collection_has_removed_is_unknown(
    address: str, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    """[S4.5] A link in `_layers` whose blob is missing and that no manifest of the repository names
    is what a registry's garbage collection has left.
    [S16.6] A warning unless a garbage collection has left it (4). No manifest names it, so nothing
    is warned of.
    """
    digest = layout.link(paths.layers(APP), Digest.of(b"gone"))
    layout.revision(image(layout.layer(b"{}")))
    answer = ask(address, blob_path(digest))
    assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")
    assert caplog.text == ""


@pytest.mark.parametrize("link", [b"", b"\xff", b"sha256:abc", b"x" * 300])
def test_malformed_link_is_an_error_without_a_reason(
    address: str, layout: Layout, link: bytes
) -> None:
    """[S16.6] What is broken otherwise, or a bug of ours, is 500, UNKNOWN."""
    digest = layout.link(paths.layers(APP), Digest.of(b"a"), link)
    answer = ask(address, blob_path(digest))
    assert (answer.status, answer.body) == (
        500,
        b'{"errors":[{"code":"UNKNOWN","message":"unknown error"}]}\n',
    )


def test_blob_that_is_cut_while_it_is_sent_breaks_the_connection(
    address: str, layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """[S16.7] A blob that turns out to be gone, short or unreadable after its first bytes were sent
    ends the connection before its `Content-Length`, never as if it were whole.
    """
    digest = layout.layer(LARGE)
    with stalled(address, blob_path(digest)) as client:
        os.truncate(tmp_path / paths.blob_data(digest)[1:], 2**20)
        received = sum(map(len, iter(lambda: client.recv(2**20), b"")))
    assert received < len(LARGE)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "ends before its" in caplog.text


def test_client_that_goes_leaves_nothing_open(address: str, layout: Layout) -> None:
    """[S16.8] One that reads slowly, leaves, or waits for a storage that hangs holds up no other
    and not the mount.
    """
    digest = layout.layer(LARGE)
    with stalled(address, blob_path(digest)):
        wait_until(lambda: open_files(f"{digest.encoded}/data") == 1)
    wait_until(lambda: open_files(f"{digest.encoded}/data") == 0)


def test_clients_that_take_nothing_hold_up_nobody(address: str, layout: Layout) -> None:
    """[S16.8] One that reads slowly, leaves, or waits for a storage that hangs holds up no other
    and not the mount.
    """
    path = blob_path(layout.layer(LARGE))
    with ExitStack() as clients:
        for _ in range(30):  # more than there are threads
            clients.enter_context(stalled(address, path))
        assert ask(address, path).status == 200


@contextmanager
def pulling(address: str, path: str, clients: int) -> Iterator[list[bytes]]:
    """So many clients that read no more than the status, which is given for each."""
    with ExitStack() as stack:
        host, _, port = address.partition(":")
        request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
        statuses = []
        for _ in range(clients):
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            client.sendall(request)
            statuses.append(client.recv(12).removeprefix(b"HTTP/1.1 "))
        yield statuses


def test_as_many_pulls_as_connections_leave_room_for_other_pages(
    address: str, layout: Layout
) -> None:
    """[S17.4] Answers of the registry API hold at most 48 of them."""
    with pulling(address, blob_path(layout.layer(LARGE)), 64) as statuses:
        began = time.monotonic()
        assert ask(address, "/healthz").status == 200
        assert time.monotonic() - began < 1
    assert statuses == [b"200"] * 48 + [b"429"] * 16


def test_one_pull_too_many_is_to_be_tried_again(address: str, layout: Layout) -> None:
    """[S16.8] While 48 are being answered, the next is 429, TOOMANYREQUESTS, to be tried again
    after a second.
    """
    path = blob_path(layout.layer(LARGE))
    with pulling(address, path, 48):
        answer = ask(address, path)
        assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")
        assert answer.headers["retry-after"] == "1"
    wait_until(lambda: ask(address, path, "HEAD").status == 200)


class Troubled(DriverWrapper):
    """A driver whose files are opened and read as a test has it."""

    def __init__(self) -> None:
        super().__init__(InMemoryDriver())
        self.before_open: Callable[[], object] = lambda: None
        self.asked = threading.Event()

    def open(self, path: str, size: int | None = None) -> FileReader:
        if size is not None:
            self.asked.set()
            self.before_open()
        return super().open(path, size)


def test_storage_that_hangs_for_one_holds_up_no_other() -> None:
    """[S16.8] One that reads slowly, leaves, or waits for a storage that hangs holds up no other
    and not the mount.
    """
    driver, released = Troubled(), threading.Event()
    digest = Layout(driver).layer(b"layer")
    with serving(Registry(driver)) as address, closing(http.client.HTTPConnection(address)) as slow:
        driver.before_open = lambda: released.wait(20)
        slow.request("GET", blob_path(digest))
        assert driver.asked.wait(10)
        assert ask(address, "/v2/_catalog").status == 200
        released.set()
        assert slow.getresponse().read() == b"layer"


def test_end_does_not_wait_for_a_storage_that_hangs() -> None:
    driver, released = Troubled(), threading.Event()
    digest = Layout(driver).layer(b"layer")
    driver.before_open = lambda: released.wait(20)
    with ExitStack() as client:
        with serving(Registry(driver)) as address:
            slow = client.enter_context(closing(http.client.HTTPConnection(address)))
            slow.request("GET", blob_path(digest))
            assert driver.asked.wait(10)
            began = time.monotonic()
        assert time.monotonic() - began < 5
    released.set()


@pytest.mark.parametrize(
    ("trouble", "status", "code"),
    [
        (StorageUnavailable("it is down: secret"), 503, "UNAVAILABLE"),
        (AccessDenied("the keys are refused: secret"), 500, "UNKNOWN"),
    ],
)
def test_storage_that_fails_is_an_error_without_a_reason(
    trouble: Exception, status: int, code: str
) -> None:
    """[S16.6] A storage that does not answer 503, UNAVAILABLE; the reason is in the log only."""

    def fail() -> None:
        raise trouble

    driver = Troubled()
    digest = Layout(driver).layer(b"layer")
    with serving(Registry(driver)) as address:
        driver.before_open = fail
        answer = ask(address, blob_path(digest))
    assert (answer.status, answer.code) == (status, code)
    assert b"secret" not in answer.body


def test_bug_is_an_error_of_the_specification_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """[S16.2] What is wrong with a request is told in the specification's JSON, by its code."""

    def fail() -> None:
        raise RuntimeError("a bug")

    driver = Troubled()
    digest = Layout(driver).layer(b"layer")
    with serving(Registry(driver)) as address:
        driver.before_open = fail
        answer = ask(address, blob_path(digest))
    assert (answer.status, answer.code) == (500, "UNKNOWN")
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (record.levelname, bool(record.exc_info)) == ("ERROR", True)


def test_manifest_that_is_gone_while_it_is_read_is_unknown() -> None:
    """[S16.2] What is wrong with a request is told in the specification's JSON, by its code."""

    class Vanishing(DriverWrapper):
        def open(self, path: str, size: int | None = None) -> FileReader:
            raise Stale(path)

    driver = InMemoryDriver()
    digest = Layout(driver).revision(image(Layout(driver).layer(b"{}")))
    with serving(Registry(Vanishing(driver))) as address:
        answer = ask(address, f"/v2/{APP}/manifests/{digest}", Accept=OCI_MANIFEST)
    assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")


def test_blob_stored_anew_is_sent_as_it_is_now() -> None:
    """What was remembered of it is looked up again, as by the kernel."""
    driver = Troubled()
    layout = Layout(driver)
    digest = layout.layer(b"lay")
    with serving(Registry(driver)) as address:
        driver.before_open = lambda: layout.put(paths.blob_data(digest), b"layer")
        assert ask(address, blob_path(digest)).body == b"layer"


class Hearing:
    """Hears of pulls."""

    actions = (Action.PULL,)

    def __init__(self) -> None:
        self.heard: list[tuple[bool, Tag | None]] = []

    def handle(self, event: Event) -> None:
        self.heard.append((event.is_manifest, event.tag))


def test_pulls_are_told(tmp_path: Path, layout: Layout) -> None:
    """[S16.13] Blobs and manifests that are asked for are told as pulls (15)."""
    listener, digest = Hearing(), layout.layer(b"{}")
    layout.tag(layout.revision(image(digest)))
    with open_registry(str(tmp_path), listener=listener) as registry, serving(registry) as address:
        ask(address, f"/v2/{APP}/manifests/latest", Accept=OCI_MANIFEST)
        ask(address, blob_path(digest))
        ask(address, blob_path(Digest.of(b"unknown")))
    assert listener.heard == [(True, "latest"), (False, None)]


def test_docker_list_comes_as_its_default_image_to_who_takes_no_list(
    address: str, layout: Layout
) -> None:
    """[S16.9] Any other client gets its image for linux/amd64."""
    child = layout.revision(manifest(DOCKER_MANIFEST, layout.layer(b"{}"), layout.layer(b"a")))
    platform: Json = {"architecture": "amd64", "os": "linux"}
    children = [descriptor(layout.layer(b"arm")), descriptor(child) | {"platform": platform}]
    document: Json = {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": children}
    index = layout.revision(as_bytes(document))
    layout.tag(index)
    path = f"/v2/{APP}/manifests/latest"
    answer = ask(address, path, Accept=DOCKER_MANIFEST)
    assert answer.headers["docker-content-digest"] == str(child)
    assert ask(address, path).headers["docker-content-digest"] == str(index)
    assert ask(address, path, Accept=DOCKER_LIST).headers["docker-content-digest"] == str(index)
    by_digest = ask(address, f"/v2/{APP}/manifests/{index}")
    assert by_digest.headers["content-type"] == DOCKER_LIST


@pytest.mark.parametrize(
    "path",
    [
        "/v2/../../etc/passwd/blobs/sha256:" + "a" * 64,
        "/v2/%2e%2e/%2e%2e/manifests/latest",
        "/v2/a%00b/tags/list",
        "/v2/a%0d%0aX:y/tags/list",
        "/v2/%ff%fe/tags/list",
        "/v2/_layers/tags/list",
        "/v2/a/_uploads/tags/list",
        f"/v2/{'a' * 3000}/tags/list",
        f"/v2/{APP}/manifests/{'a' * 129}",
        f"/v2/{APP}/manifests/..",
        f"/v2/{APP}/manifests/%2e%2e%2fv1",
        f"/v2/{APP}/blobs/sha256:{'A' * 64}",
        f"/v2/{APP}/blobs/md5:{'a' * 32}",
        f"/v2/{APP}/tags/list?n={'9' * 5000}",
        f"/v2/{APP}/tags/list?n=%d9%a3",
        "/v2//",
        "/v2/blobs/",
        "/v2/%20/tags/list",
    ],
    ids=lambda path: path[:40],
)
def test_hostile_request_is_refused(
    address: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """[S16.2] None of them reaches the storage."""
    assert ask(address, path).status in (400, 404)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_blob_is_answered_under_the_digest_that_was_asked_for(address: str, layout: Layout) -> None:
    """[S16.14] A blob that is asked for by `sha512` has that digest in `Docker-Content-Digest` and
    `ETag`. With the media type that a manifest has for it.
    """
    name = Digest.of(b"aliased", "sha512")
    layout.link(paths.layers(APP), name, str(layout.layer(b"aliased")).encode())
    document: Json = {"schemaVersion": 2, "config": descriptor(name), "layers": []}
    layout.revision(as_bytes(document))
    answer = ask(address, blob_path(name))
    assert answer.body == b"aliased"
    assert answer.headers["docker-content-digest"] == str(name)
    assert answer.headers["etag"] == f'"{name}"'
    assert answer.headers["content-type"] == "application/x-part"
    assert ask(address, blob_path(name), If_None_Match=f'"{name}"').status == 304


def test_blob_of_other_bytes_is_not_served_by_its_alias(address: str, layout: Layout) -> None:
    """[S4.6] The first lookup reads the whole blob, and other bytes are EIO."""
    wrong = Digest.of(b"what the name says", "sha512")
    layout.link(paths.layers(APP), wrong, str(layout.layer(b"another blob")).encode())
    assert ask(address, blob_path(wrong)).status == 500


def test_repository_may_be_called_like_the_page_of_uploads(address: str, layout: Layout) -> None:
    """[S16.1] Status, headers and body are those of docker-registry 2.8 on the same storage."""
    name = RepositoryName("x/blobs/uploads")
    digest = layout.layer(b"found", name)
    assert ask(address, f"/v2/{name}/blobs/{digest}").body == b"found"
    assert ask(address, "/v2/x/blobs/uploads/some").code == "BLOB_UPLOAD_UNKNOWN"
