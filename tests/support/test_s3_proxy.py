"""The proxy before S3: what passes through it unchanged, what it counts, and its faults."""

import http.client
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.s3_faults import (
    EXPIRED_TOKEN,
    SLOW_DOWN,
    Damage,
    Delay,
    Fault,
    Kind,
    Lose,
    Refuse,
    Request,
    always,
    at_random,
    nth,
)
from tests.support.s3_proxy import S3Proxy
from tests.support.services import free_port

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

BUCKET: Final = "bucket"
PART_SIZE: Final = 5 * 2**20
_START_S: Final = 30.0


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    port = free_port()
    moto_server = str(Path(sys.executable).with_name("moto_server"))
    command = [moto_server, "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_until_it_listens(process, port)
            with _client(f"http://127.0.0.1:{port}") as s3:
                s3.create_bucket(Bucket=BUCKET)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            pass
        try:
            pytest.fail(f"moto_server ended with {process.wait(0.05)}")
        except subprocess.TimeoutExpired:
            pass
    pytest.fail(f"moto_server does not listen after {_START_S:.0f} s")


@contextmanager
def _client(url: str) -> Iterator["S3Client"]:
    """One that tries once, and takes what it is given without a checksum."""
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            max_pool_connections=32,
            read_timeout=60,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    with closing(client):
        yield client


@pytest.fixture
def proxy(moto: str) -> Iterator[S3Proxy]:
    with S3Proxy.before(moto) as proxy:
        yield proxy


@pytest.fixture
def s3(proxy: S3Proxy) -> Iterator["S3Client"]:
    with _client(proxy.url) as client:
        yield client


def _get(s3: "S3Client", key: str) -> bytes:
    return s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()


def _is_there(s3: "S3Client", key: str) -> bool:
    return s3.list_objects_v2(Bucket=BUCKET, Prefix=key)["KeyCount"] == 1


def _refusal(ask: Callable[[], object]) -> tuple[int, str]:
    """The status and code of the error that S3 answers with."""
    with pytest.raises(ClientError) as caught:
        ask()
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


# What passes through, and what it is called


def test_object_is_made_read_copied_and_removed(proxy: S3Proxy, s3: "S3Client") -> None:
    s3.put_object(Bucket=BUCKET, Key="a", Body=b"0123456789")
    assert _get(s3, "a") == b"0123456789"
    found = s3.get_object(Bucket=BUCKET, Key="a", Range="bytes=2-4")["Body"].read()
    assert found == b"234"
    assert s3.head_object(Bucket=BUCKET, Key="a")["ContentLength"] == 10
    s3.copy_object(Bucket=BUCKET, Key="b", CopySource={"Bucket": BUCKET, "Key": "a"})
    assert _get(s3, "b") == b"0123456789"
    s3.delete_object(Bucket=BUCKET, Key="a")
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "b"}]})
    assert _refusal(lambda: _get(s3, "a")) == (404, "NoSuchKey")
    assert [(request.kind, request.status) for request in proxy.requests] == [
        (Kind.PUT, 200),
        (Kind.GET, 200),
        (Kind.GET, 206),
        (Kind.HEAD, 200),
        (Kind.COPY, 200),
        (Kind.GET, 200),
        (Kind.DELETE, 204),
        (Kind.DELETE_MANY, 200),
        (Kind.GET, 404),
    ]


def test_upload_in_parts_is_joined(proxy: S3Proxy, s3: "S3Client") -> None:
    first, last = os.urandom(PART_SIZE), os.urandom(10)
    s3.put_object(Bucket=BUCKET, Key="source", Body=first)
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="joined")["UploadId"]
    begun = s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert [(found["Key"], found["UploadId"]) for found in begun] == [("joined", upload)]
    s3.upload_part_copy(
        Bucket=BUCKET, Key="joined", UploadId=upload, PartNumber=1, CopySource=f"{BUCKET}/source"
    )
    s3.upload_part(Bucket=BUCKET, Key="joined", UploadId=upload, PartNumber=2, Body=last)
    parts = s3.list_parts(Bucket=BUCKET, Key="joined", UploadId=upload)["Parts"]
    s3.complete_multipart_upload(
        Bucket=BUCKET,
        Key="joined",
        UploadId=upload,
        MultipartUpload={
            "Parts": [{"ETag": part["ETag"], "PartNumber": part["PartNumber"]} for part in parts]
        },
    )
    assert _get(s3, "joined") == first + last
    other = s3.create_multipart_upload(Bucket=BUCKET, Key="other")["UploadId"]
    s3.abort_multipart_upload(Bucket=BUCKET, Key="other", UploadId=other)
    assert [request.kind for request in proxy.requests] == [
        Kind.PUT,
        Kind.CREATE_UPLOAD,
        Kind.LIST_UPLOADS,
        Kind.COPY_PART,
        Kind.PUT_PART,
        Kind.LIST_PARTS,
        Kind.COMPLETE_UPLOAD,
        Kind.GET,
        Kind.CREATE_UPLOAD,
        Kind.ABORT_UPLOAD,
    ]


def test_requests_about_the_bucket_are_told_from_lists(proxy: S3Proxy, s3: "S3Client") -> None:
    s3.create_bucket(Bucket="another")
    s3.head_bucket(Bucket="another")
    s3.get_bucket_location(Bucket="another")
    s3.list_objects_v2(Bucket="another", Prefix="a/", Delimiter="/")
    s3.list_objects(Bucket="another")
    s3.delete_bucket(Bucket="another")
    kinds = [request.kind for request in proxy.requests]
    assert kinds == [Kind.BUCKET] * 3 + [Kind.LIST] * 2 + [Kind.BUCKET]


def test_request_is_recorded_as_it_came(proxy: S3Proxy, s3: "S3Client") -> None:
    s3.put_object(Bucket=BUCKET, Key="a b/ü", Body=b"0123456789")
    s3.get_object(Bucket=BUCKET, Key="a b/ü", Range="bytes=2-4")["Body"].read()
    put, get = proxy.requests
    assert (put.method, put.path, put.range, put.bytes) == ("PUT", "/bucket/a b/ü", None, 10)
    assert get == Request("GET", Kind.GET, "/bucket/a b/ü", get.query, "bytes=2-4", 206, 3)


@pytest.mark.parametrize("checksum", ["CRC32", "SHA256"])
def test_body_from_a_file_with_a_checksum_passes(s3: "S3Client", checksum: str) -> None:
    content = os.urandom(2**20 + 1)
    s3.put_object(
        Bucket=BUCKET,
        Key="checked",
        Body=io.BytesIO(content),
        ChecksumAlgorithm=checksum,  # type: ignore[arg-type]
    )
    assert _get(s3, "checked") == content


def test_64_mib_pass_unchanged_both_ways(proxy: S3Proxy, s3: "S3Client") -> None:
    content = os.urandom(2**16) * 2**10
    s3.put_object(Bucket=BUCKET, Key="large", Body=content)
    assert _get(s3, "large") == content
    assert [request.bytes for request in proxy.requests] == [64 * 2**20] * 2
    s3.delete_object(Bucket=BUCKET, Key="large")


# Counting


def test_only_requests_inside_the_block_are_counted(proxy: S3Proxy, s3: "S3Client") -> None:
    s3.put_object(Bucket=BUCKET, Key="a", Body=b"a")
    with proxy.counting() as outer:
        _get(s3, "a")
        with proxy.counting() as inner:
            _get(s3, "a")
            s3.head_object(Bucket=BUCKET, Key="a")
    s3.list_objects_v2(Bucket=BUCKET)
    assert inner == {Kind.GET: 1, Kind.HEAD: 1}
    assert outer == {Kind.GET: 2, Kind.HEAD: 1}


def test_forgotten_requests_are_not_told(proxy: S3Proxy, s3: "S3Client") -> None:
    s3.head_bucket(Bucket=BUCKET)
    proxy.forget()
    s3.list_objects_v2(Bucket=BUCKET)
    assert [request.kind for request in proxy.requests] == [Kind.LIST]


# Delays


def test_delay_is_added_to_each_request_and_shared_by_parallel_ones(
    proxy: S3Proxy, s3: "S3Client"
) -> None:
    s3.put_object(Bucket=BUCKET, Key="a", Body=b"a")
    proxy.delay_s = 0.5
    assert 0.5 <= _elapsed_s(lambda: _get(s3, "a")) < 2
    with ThreadPoolExecutor(16) as threads:
        elapsed_s = _elapsed_s(lambda: list(threads.map(_get, [s3] * 16, ["a"] * 16)))
    assert 0.5 <= elapsed_s < 4  # one after the other: 8 s


def test_delay_as_a_fault_is_for_the_chosen_request(proxy: S3Proxy, s3: "S3Client") -> None:
    proxy.faults = nth(2, Delay(0.5))
    assert _elapsed_s(lambda: s3.head_bucket(Bucket=BUCKET)) < 0.5
    assert _elapsed_s(lambda: s3.head_bucket(Bucket=BUCKET)) >= 0.5


def _elapsed_s(act: Callable[[], object]) -> float:
    start = time.monotonic()
    act()
    return time.monotonic() - start


# Faults


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [(SLOW_DOWN, 503, "SlowDown"), (EXPIRED_TOKEN, 403, "ExpiredToken")],
    ids=["slow down", "expired token"],
)
def test_refused_request_does_not_reach_s3(
    proxy: S3Proxy, s3: "S3Client", fault: Refuse, status: int, code: str
) -> None:
    proxy.faults = always(fault, only={Kind.PUT})
    large = b"a" * PART_SIZE
    assert _refusal(lambda: s3.put_object(Bucket=BUCKET, Key="refused", Body=large)) == (
        status,
        code,
    )
    assert not _is_there(s3, "refused")
    refused = proxy.requests[0]
    assert (refused.kind, refused.status, refused.fault) == (Kind.PUT, status, fault)


def test_refused_head_has_no_code(proxy: S3Proxy, s3: "S3Client") -> None:
    proxy.faults = always(SLOW_DOWN)
    assert _refusal(lambda: s3.head_object(Bucket=BUCKET, Key="a")) == (503, "503")


def test_lost_answer_is_an_error_though_the_work_is_done(proxy: S3Proxy, s3: "S3Client") -> None:
    proxy.faults = always(Lose(), only={Kind.PUT})
    lost = (500, "InternalError")
    assert _refusal(lambda: s3.put_object(Bucket=BUCKET, Key="lost", Body=b"a")) == lost
    assert _get(s3, "lost") == b"a"


def test_cut_answer_ends_in_its_middle(proxy: S3Proxy, s3: "S3Client") -> None:
    s3.put_object(Bucket=BUCKET, Key="a", Body=b"a" * PART_SIZE)
    proxy.faults = always(Damage.CUT_ANSWER, only={Kind.GET})
    with pytest.raises(BotoCoreError):
        _get(s3, "a")
    assert proxy.requests[-1].bytes == PART_SIZE // 2


def test_cut_answer_without_a_body_is_lost(proxy: S3Proxy, s3: "S3Client") -> None:
    s3.put_object(Bucket=BUCKET, Key="removed", Body=b"a")
    proxy.faults = always(Damage.CUT_ANSWER, only={Kind.DELETE})
    with pytest.raises(BotoCoreError):
        s3.delete_object(Bucket=BUCKET, Key="removed")
    assert proxy.requests[-1].status == 0
    assert not _is_there(s3, "removed")


def test_cut_request_makes_no_object(proxy: S3Proxy, s3: "S3Client") -> None:
    proxy.faults = always(Damage.CUT_REQUEST, only={Kind.PUT})
    with pytest.raises(BotoCoreError):
        s3.put_object(Bucket=BUCKET, Key="cut", Body=b"a" * PART_SIZE)
    assert (proxy.requests[-1].status, proxy.requests[-1].bytes) == (0, PART_SIZE // 2)
    assert not _is_there(s3, "cut")


@pytest.mark.parametrize("size", [1, 2, 10, PART_SIZE])
def test_flipped_bit_is_one_and_in_the_middle(proxy: S3Proxy, s3: "S3Client", size: int) -> None:
    content = os.urandom(size)
    s3.put_object(Bucket=BUCKET, Key="a", Body=content)
    proxy.faults = always(Damage.FLIP_BIT)
    found = _get(s3, "a")
    differing = [at for at in range(size) if found[at] != content[at]]
    assert differing == [size // 2]
    assert (found[size // 2] ^ content[size // 2]).bit_count() == 1


def test_only_what_a_get_gives_is_flipped(proxy: S3Proxy, s3: "S3Client") -> None:
    proxy.faults = always(Damage.FLIP_BIT)
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="none/")["KeyCount"] == 0
    assert _refusal(lambda: _get(s3, "none/a")) == (404, "NoSuchKey")


def test_nobody_is_served_while_it_is_down(proxy: S3Proxy, s3: "S3Client") -> None:
    s3.head_bucket(Bucket=BUCKET)
    for _ in range(3):
        with proxy.down(), pytest.raises(BotoCoreError, match="Could not connect"):
            s3.head_bucket(Bucket=BUCKET)
        s3.head_bucket(Bucket=BUCKET)


def test_s3_that_is_not_there_closes_the_connection() -> None:
    with (
        S3Proxy.before(f"http://127.0.0.1:{free_port()}") as proxy,
        _client(proxy.url) as s3,
        pytest.raises(BotoCoreError),
    ):
        s3.head_bucket(Bucket=BUCKET)


def test_faults_at_random_are_the_same_for_a_seed() -> None:
    get = Request("GET", Kind.GET, "/bucket/a", "", None)
    faults: list[Fault] = [SLOW_DOWN, Lose(), Delay(1)]

    def chosen(seed: int) -> list[Fault | None]:
        choose = at_random(*faults, rate=0.25, seed=seed, only={"GET"})
        assert choose(get._replace(kind=Kind.PUT)) is None
        return [choose(get) for _ in range(1000)]

    assert chosen(1) == chosen(1) != chosen(2)
    assert 150 < sum(fault is not None for fault in chosen(1)) < 350
    assert set(chosen(1)) == {None, *faults}


# Connections


class _Upstream(BaseHTTPRequestHandler):
    """What moto does not do: it keeps connections, sends chunks, refuses expectations."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        match self.path:
            case "/bucket/chunked":
                self._begin(200, {"Transfer-Encoding": "chunked"})
                self.wfile.write(b"5;x=y\r\n01234\r\n5\r\n56789\r\n0\r\nTrailer: a\r\n\r\n")
            case "/bucket/closed":
                self._begin(200, {"Connection": "close"})
                self.wfile.write(b"0123456789")
            case "/bucket/unchanged":
                self._begin(304, {"Content-Length": "10"})
            case _:  # who asks: the same connection, the same port
                port = str(self.client_address[1]).encode()
                self._begin(200, {"Content-Length": str(len(port))})
                self.wfile.write(port)

    def do_HEAD(self) -> None:
        self._begin(200, {"Content-Length": "10"})

    def do_DELETE(self) -> None:
        self._begin(204, {})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self._begin(200, {"Content-Length": str(len(content))})
        self.wfile.write(content)

    def handle_expect_100(self) -> bool:
        if self.path != "/bucket/unwanted":
            return super().handle_expect_100()
        self._begin(412, {"Content-Length": "0"})
        return False

    def _begin(self, status: int, fields: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Upstream) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def _connection(proxy: S3Proxy) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=30)) as connection:
        yield connection


def _ask(connection: http.client.HTTPConnection, method: str, key: str) -> tuple[int, bytes]:
    connection.request(method, f"/{BUCKET}/{key}")
    response = connection.getresponse()
    return response.status, response.read()


def test_connection_is_kept_after_every_sort_of_answer(upstream: str) -> None:
    with S3Proxy.before(upstream) as proxy, _connection(proxy) as connection:
        connection.auto_open = 0
        connection.connect()
        _, port = _ask(connection, "GET", "port")
        assert _ask(connection, "GET", "chunked") == (200, b"0123456789")
        assert _ask(connection, "HEAD", "a") == (200, b"")
        assert _ask(connection, "DELETE", "a") == (204, b"")
        assert _ask(connection, "GET", "unchanged") == (304, b"")
        assert _ask(connection, "GET", "port") == (200, port)
        proxy.faults = always(SLOW_DOWN)
        assert _ask(connection, "GET", "port")[0] == 503
        proxy.faults = always(Lose())
        assert _ask(connection, "GET", "chunked")[0] == 500
        proxy.faults = always(Damage.FLIP_BIT)
        assert _ask(connection, "GET", "chunked") == (200, b"0133456789")
        assert proxy.requests[1].bytes == 10


def test_answer_without_a_length_ends_with_the_connection(upstream: str) -> None:
    with S3Proxy.before(upstream) as proxy, _connection(proxy) as connection:
        assert _ask(connection, "GET", "closed") == (200, b"0123456789")
        assert _ask(connection, "GET", "chunked") == (200, b"0123456789")


def test_cut_answer_in_chunks_lacks_its_end(upstream: str) -> None:
    with S3Proxy.before(upstream) as proxy, _connection(proxy) as connection:
        proxy.faults = always(Damage.CUT_ANSWER)
        with pytest.raises(http.client.IncompleteRead):
            _ask(connection, "GET", "chunked")
        assert proxy.requests[0].bytes == 2


@pytest.mark.parametrize(
    ("key", "status", "fault"),
    [("wanted", 200, None), ("unwanted", 412, None), ("wanted", 503, SLOW_DOWN)],
    ids=["goes on", "refused by S3", "refused by the proxy"],
)
def test_body_is_sent_only_when_it_is_expected(
    upstream: str, key: str, status: int, fault: Fault | None
) -> None:
    head = f"PUT /bucket/{key} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
    with S3Proxy.before(upstream) as proxy:
        proxy.faults = lambda _: fault
        address = urlsplit(proxy.url)
        with (
            socket.create_connection((address.hostname, address.port), timeout=30) as client,
            client.makefile("rb") as answers,
        ):
            client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            if status == 200:
                assert answers.readline() == b"HTTP/1.1 100 Continue\r\n"
                assert answers.readline() == b"\r\n"
                client.sendall(b"abc")
                assert int(answers.readline().split()[1]) == 200
            else:
                answer = answers.read()  # to the end: the connection is closed
                assert int(answer.split()[1]) == status
                assert b"\r\nConnection: close\r\n" in answer


def test_connection_that_s3_closed_is_closed_before_it_is_used_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with S3Proxy.before(f"http://127.0.0.1:{port}") as proxy, _connection(proxy) as connection:
            connection.connect()
            listener.accept()[0].close()
            assert connection.sock.recv(1) == b""


def test_answer_before_the_end_of_the_body_reaches_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            with listener.accept()[0] as server:
                server.recv(2**16)
                server.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        port = listener.getsockname()[1]
        with (
            S3Proxy.before(f"http://127.0.0.1:{port}") as proxy,
            _connection(proxy) as connection,
            ThreadPoolExecutor() as threads,
        ):
            threads.submit(refuse)
            connection.request("PUT", "/bucket/a", body=b"a" * 8 * PART_SIZE)
            assert connection.getresponse().status == 403


@pytest.mark.parametrize("linger_s", [0, 10], ids=["reset", "closed"])
def test_client_that_leaves_inside_a_body_takes_s3s_connection_along(linger_s: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with S3Proxy.before(f"http://127.0.0.1:{port}") as proxy:
            address = urlsplit(proxy.url)
            with socket.create_connection((address.hostname, address.port)) as client:
                client.sendall(b"PUT /bucket/a HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234")
                server = listener.accept()[0]
                while proxy.requests == [] or proxy.requests[0].bytes < 5:
                    pass
                client.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, linger_s)
                )
            server.settimeout(30)
            with server, server.makefile("rb") as received:
                assert received.read().endswith(b"01234")


def test_open_connections_and_delays_end_with_the_proxy(moto: str) -> None:
    before = threading.active_count()
    with S3Proxy.before(moto) as proxy, _connection(proxy) as idle, _connection(proxy) as waiting:
        has_come = threading.Event()

        def choose(_: Request) -> Fault:
            has_come.set()
            return Delay(3600)

        proxy.faults = choose
        idle.connect()
        waiting.request("GET", "/bucket/a")
        assert has_come.wait(30)
    assert threading.active_count() == before


def test_proxy_in_its_own_process_serves_and_ends_with_a_signal(upstream: str) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.support.s3_proxy",
        "--upstream",
        upstream,
        "--delay-ms",
        "300",
    ]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            netloc = urlsplit(process.stdout.readline().strip()).netloc
            with closing(http.client.HTTPConnection(netloc, timeout=30)) as connection:
                assert _elapsed_s(lambda: _ask(connection, "GET", "port")) >= 0.3
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
        finally:
            process.kill()
