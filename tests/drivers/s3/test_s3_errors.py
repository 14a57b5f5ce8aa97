"""What a driver says of an S3 that cannot be used: in one sentence, without secrets."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import S3Options
from blobfs.errors import AccessDenied, BlobfsError, MountRefused, StorageUnavailable
from tests.support.files import content_of, walk
from tests.support.s3_faults import EXPIRED_TOKEN, always, no_faults
from tests.support.s3_prefixes import S3Place, keys_of
from tests.support.s3_servers import S3Server
from tests.support.services import free_port

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("no_waits")]

CALLS: dict[str, Callable[[S3Driver], object]] = {
    "stat": lambda store: store.stat("/d/a"),
    "listdir": lambda store: store.listdir("/d"),
    "walk": lambda store: list(walk(store, "/d")),
    "get_content": lambda store: content_of(store, "/d/a"),
    "open_of_size": lambda store: store.open("/d/a", 1).read_at(0, 1),
    "put_content": lambda store: store.put_content("/d/a", b"content"),
    "create": lambda store: store.create("/d/a").flush(),
    "append": lambda store: store.append("/d/a"),
    "move": lambda store: store.move("/d/a", "/d/b"),
    "delete": lambda store: store.delete("/d/a"),
    "unfinished": lambda store: list(store.unfinished("/")),
}

each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


@contextmanager
def _store(
    place: S3Place, user: S3Server | None = None, endpoint: str | None = None
) -> Iterator[S3Driver]:
    store = place.driver(place.options(endpoint), user)
    yield store
    store.close()


@pytest.fixture(scope="module")
def nobody() -> str:
    """An endpoint where nothing listens."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def other(ceph_place: S3Place) -> S3Server:
    """For a user who may do nothing with the bucket."""
    assert ceph_place.server.other is not None
    return ceph_place.server.other


def _said(server: S3Server, caught: pytest.ExceptionInfo[BlobfsError]) -> str:
    """What the error says, having looked at its form."""
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 300
    assert "None" not in said
    assert server.secret_key not in said
    return said


@each_call
def test_missing_bucket_is_told_of(place: S3Place, call: Callable[[S3Driver], object]) -> None:
    options = place.options(bucket="blobfs-nowhere")
    store = place.driver(options)
    with pytest.raises(StorageUnavailable) as caught:
        call(store)
    assert "NoSuchBucket" in _said(place.server, caught)
    store.close()


@each_call
def test_refused_user_is_told_of(
    ceph_place: S3Place, other: S3Server, call: Callable[[S3Driver], object]
) -> None:
    with _store(ceph_place, other) as store:
        with pytest.raises(AccessDenied) as caught:
            call(store)
        _said(other, caught)


@each_call
def test_expired_token_is_told_of(ceph_place: S3Place, call: Callable[[S3Driver], object]) -> None:
    proxy = ceph_place.proxy
    proxy.faults = always(EXPIRED_TOKEN)
    with _store(ceph_place, endpoint=proxy.url) as store:
        with pytest.raises(AccessDenied) as caught:
            call(store)
        _said(ceph_place.server, caught)
    proxy.faults = no_faults


@pytest.mark.parametrize("name", [None, "nobody"], ids=["secret", "user"])
def test_wrong_key_is_told_of(ceph_place: S3Place, name: str | None) -> None:
    server = ceph_place.server
    wrong = replace(server, access_key=name or server.access_key, secret_key="HUSHHUSH")
    with _store(ceph_place, wrong) as store:
        with pytest.raises(AccessDenied) as caught:
            store.put_content("/d/a", b"content")
        _said(wrong, caught)


def test_user_without_keys_is_told_so(ceph_place: S3Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with _store(ceph_place, replace(ceph_place.server, access_key="", secret_key="")) as store:
        with pytest.raises(AccessDenied, match="credentials"):
            content_of(store, "/d/a")
        with pytest.raises(AccessDenied, match="credentials"):
            store.put_content("/d/a", b"content")


class _Page(BaseHTTPRequestHandler):
    """What a server that is no S3 answers."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        page = b"<!doctype html>\n<html><body><p>Welcome!</body></html>\n" * 100
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def no_s3() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("call", [CALLS["listdir"], CALLS["create"], CALLS["unfinished"]])
def test_server_that_is_no_s3_is_told_of(
    ceph_place: S3Place, no_s3: str, call: Callable[[S3Driver], object]
) -> None:
    with _store(ceph_place, endpoint=no_s3) as store:
        with pytest.raises(StorageUnavailable) as caught:
            call(store)
        _said(ceph_place.server, caught)


@each_call
def test_server_that_is_not_there_is_told_of(
    ceph_place: S3Place, nobody: str, call: Callable[[S3Driver], object]
) -> None:
    with _store(ceph_place, endpoint=nobody) as store:
        with pytest.raises(StorageUnavailable) as caught:
            call(store)
        assert nobody in _said(ceph_place.server, caught)


def test_bucket_that_answers_is_reached(ceph_place: S3Place) -> None:
    with keys_of(ceph_place.server):
        store = S3Driver.reached(ceph_place.options())
    assert list(store.listdir("/")) == []
    store.close()


def test_missing_bucket_is_not_reached(ceph_place: S3Place) -> None:
    _assert_not_reached(
        ceph_place.server, ceph_place.options(bucket="blobfs-nowhere"), "create the bucket"
    )


def test_server_that_is_not_there_is_not_reached(ceph_place: S3Place, nobody: str) -> None:
    _assert_not_reached(
        ceph_place.server, ceph_place.options(nobody), "cannot be reached; check regionendpoint"
    )


def test_bucket_of_somebody_else_is_not_reached(ceph_place: S3Place, other: S3Server) -> None:
    _assert_not_reached(other, ceph_place.options(), "set AWS_ACCESS_KEY_ID")


def _assert_not_reached(user: S3Server, options: S3Options, says: str) -> None:
    with keys_of(user), pytest.raises(MountRefused, match=says) as caught:
        S3Driver.reached(options)
    _said(user, caught)
