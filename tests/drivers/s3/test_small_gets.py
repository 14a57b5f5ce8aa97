"""Small ranges, which obstore requests: with what boto3 has, and with the same results."""

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import create_server, socket
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import S3Options
from blobfs.drivers.s3.small_gets import LARGEST
from blobfs.errors import AccessDenied, FileChanged, PathNotFound
from tests.support.s3_faults import (
    EXPIRED_TOKEN,
    SLOW_DOWN,
    Damage,
    Delay,
    Fault,
    Kind,
    always,
    nth,
)
from tests.support.s3_prefixes import S3Place, keys_of
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server
from tests.support.services import run

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("no_waits")]

CONTENT = os.urandom(LARGEST + 1)
EVENT = "before-send.s3.GetObject"


@pytest.fixture
def proxy(place: S3Place) -> Iterator[S3Proxy]:
    yield place.proxy
    place.proxy.faults = lambda _: None


@pytest.fixture
def options(place: S3Place, proxy: S3Proxy) -> S3Options:
    return place.options(endpoint=proxy.url)


@contextmanager
def gets(proxy: S3Proxy, store: S3Driver) -> Iterator[list[str]]:
    """The GETs inside the block, in their order: each is that of obstore or of boto3."""
    of_boto3: list[None] = []
    made: list[str] = []

    def note(**_: object) -> None:
        of_boto3.append(None)

    events = store._bucket.client.meta.events
    events.register(EVENT, note)
    try:
        with proxy.counting() as counted:
            yield made
    finally:
        events.unregister(EVENT, note)
    made += ["obstore"] * (counted[Kind.GET] - len(of_boto3)) + ["boto3"] * len(of_boto3)


def test_small_range_is_requested_by_obstore(proxy: S3Proxy, store: S3Driver) -> None:
    store.put_content("/d/a", CONTENT)
    with store.open("/d/a") as reader, gets(proxy, store) as made:
        assert reader.read_at(1, LARGEST) == CONTENT[1 : LARGEST + 1]
        assert store.read_at("/d/a", LARGEST, 256) == CONTENT[LARGEST:]
        assert reader.read_at(0, LARGEST + 1) == CONTENT
    assert made == ["obstore", "obstore", "boto3"]


def test_error_that_s3_names_takes_one_request(proxy: S3Proxy, store: S3Driver) -> None:
    store.put_content("/d/a", b"content")
    with store.open("/d/a") as reader, gets(proxy, store) as made:
        with pytest.raises(PathNotFound):
            store.read_at("/d/a/missing", 0, 256)
        assert store.read_at("/d/a", 7, 256) == b""
        store.put_content("/d/a", b"another")
        with pytest.raises(FileChanged, match="PreconditionFailed"):
            reader.read_at(0, 3)
    assert made[:2] == ["obstore", "obstore"]
    assert set(made) == {"obstore"}


@pytest.mark.parametrize("fault", [SLOW_DOWN, Damage.CUT_ANSWER], ids=["refused", "cut off"])
def test_request_that_fails_is_repeated_by_boto3_and_so_are_the_next(
    proxy: S3Proxy, store: S3Driver, fault: Fault
) -> None:
    store.put_content("/d/a", b"content")
    proxy.faults = nth(1, fault, only={Kind.GET})
    with gets(proxy, store) as made:
        assert store.read_at("/d/a", 0, 3) == b"con"
        assert store.read_at("/d/a", 0, 3) == b"con"
    assert made == ["obstore", "boto3", "boto3"]


def test_signal_interrupts_a_request(proxy: S3Proxy, store: S3Driver) -> None:
    """No signal interrupts a call of obstore, so the main thread makes none."""
    proxy.faults = always(Delay(5), only={Kind.GET})

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    outer = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            store.read_at("/d/a", 0, 3)
    finally:
        signal.signal(signal.SIGALRM, outer)
    assert time.monotonic() - began < 4


def test_refusal_is_that_of_boto3(proxy: S3Proxy, store: S3Driver) -> None:
    proxy.faults = always(EXPIRED_TOKEN, only={Kind.GET})
    with gets(proxy, store) as made, pytest.raises(AccessDenied, match="GetObject: ExpiredToken"):
        store.read_at("/d/a", 0, 3)
    assert made == ["obstore", "boto3"]


@pytest.mark.parametrize("path", ["/d/%41", "/d/a b", "/d/~a", "/d/ä", "/.d/a"])
def test_key_that_obstore_might_change_is_requested_by_boto3(
    proxy: S3Proxy, store: S3Driver, path: str
) -> None:
    store.put_content(path, b"content")
    with gets(proxy, store) as made:
        assert store.read_at(path, 0, 3) == b"con"
    assert made == ["boto3"]


@pytest.mark.parametrize(
    "variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AWS_SESSION_TOKEN", "AWS_REQUEST_PAYER"]
)
def test_environment_that_boto3_does_not_take_is_not_taken(
    proxy: S3Proxy, store: S3Driver, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    store.put_content("/d/a", b"content")
    with gets(proxy, store) as made:
        assert store.read_at("/d/a", 0, 3) == b"con"
    assert made == ["obstore"]


@pytest.mark.parametrize("variable", ["https_proxy", "AWS_PROXY_URL"])
def test_proxy_leaves_all_to_boto3(
    place: S3Place, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    options = place.options(endpoint=proxy.url)
    with closing(place.driver(options)) as store:
        store.put_content("/d/a", b"content")
        with gets(proxy, store) as made:
            assert store.read_at("/d/a", 0, 3) == b"con"
        place.take_down(store, options)
    assert made == ["boto3"]


def test_credentials_that_were_refreshed_are_used(
    ceph_place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 calls the program again when the end of the last credentials is near."""
    keys, config = tmp_path / "keys", tmp_path / "config"
    config.write_text(f"[profile refreshed]\ncredential_process = cat {keys}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    owner, other = ceph_place.server, ceph_place.server.other
    assert other is not None
    _write_keys(keys, owner)
    options = ceph_place.options(ceph_place.proxy.url, profile="refreshed")
    with closing(S3Driver(options)) as store:
        store.put_content("/d/a", b"content")
        with gets(ceph_place.proxy, store) as made:
            assert store.read_at("/d/a", 0, 3) == b"con"
            _write_keys(keys, other)
            with pytest.raises(AccessDenied):
                store.read_at("/d/a", 0, 3)
        assert made == ["obstore", "obstore", "boto3"]
        _write_keys(keys, owner)
        store.delete("/d/a")


def _write_keys(file: Path, user: S3Server) -> None:
    expiration = datetime.now(UTC) + timedelta(minutes=1)
    document = {
        "Version": 1,
        "AccessKeyId": user.access_key,
        "SecretAccessKey": user.secret_key,
        "Expiration": expiration.isoformat(),
    }
    file.write_text(json.dumps(document))


FORKING = """
import os, signal, sys
from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import S3Options
read = lambda: S3Driver(S3Options.parse(sys.argv[1])).read_at("/d/a", 0, 3)
assert read() == b"con"
child = os.fork()
signal.alarm(20)
if not child:
    os._exit(read() != b"con")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_child_of_a_process_that_used_obstore_reads(
    ceph_place: S3Place, ceph_store: S3Driver
) -> None:
    """It has none of the threads of obstore."""
    ceph_store.put_content("/d/a", b"content")
    url = ceph_place.server.storage_url(ceph_place.bucket, ceph_store._bucket.options.root)
    environment = os.environ | ceph_place.server.environment()
    subprocess.run([sys.executable, "-c", FORKING, url], env=environment, check=True, timeout=60)


@pytest.fixture(scope="module")
def tls(
    ceph_place: S3Place, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The URL of a server that passes TLS on to the proxy, and its certificate."""
    directory = tmp_path_factory.mktemp("certificate")
    key, certificate = directory / "key", directory / "certificate"
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=s3"),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with create_server(("127.0.0.1", 0)) as listener:
        upstream = ceph_place.proxy.url
        threading.Thread(target=_serve_tls, args=[listener, context, upstream], daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", certificate


def _serve_tls(listener: socket, context: ssl.SSLContext, upstream: str) -> None:
    """Answer one request on each connection."""
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        with plain, socket() as server:
            try:
                with context.wrap_socket(plain, server_side=True) as client:
                    server.connect(("127.0.0.1", urlsplit(upstream).port or 0))
                    server.sendall(
                        client.recv(2**16).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
                    )
                    while received := server.recv(2**16):
                        client.sendall(received)
            except OSError:  # a client that does not trust the certificate
                pass


@pytest.mark.parametrize(
    ("changes", "expected"), [({"verify_tls": False}, "obstore"), ({"ca_bundle": ""}, "boto3")]
)
def test_certificate_is_trusted_as_by_boto3(
    ceph_place: S3Place,
    ceph_store: S3Driver,
    tls: tuple[str, Path],
    changes: dict[str, object],
    expected: str,
) -> None:
    url, certificate = tls
    ceph_store.put_content("/d/a", b"content")
    root = ceph_store._bucket.options.root
    if "ca_bundle" in changes:
        changes = {"ca_bundle": str(certificate)}
    with keys_of(ceph_place.server):
        driver = S3Driver(ceph_place.options(url, root=root, **changes))
    with closing(driver) as store, gets(ceph_place.proxy, store) as made:
        assert store.read_at("/d/a", 0, 3) == b"con"
    assert made == [expected]
