"""The proxy before S3: the names of requests, what it counts, and its faults."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

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
from tests.support.s3_servers import S3Server

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

BUCKET: Final = "bucket"
PART_SIZE: Final = 5 * 2**20


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


@pytest.fixture(scope="module")
def server(moto: S3Server) -> Iterator[S3Server]:
    """A server with the bucket ``BUCKET``."""
    with closing(moto.client()) as client:
        client.create_bucket(Bucket=BUCKET)
        yield moto
    moto.remove_bucket(BUCKET)


@pytest.fixture
def proxy(server: S3Server) -> Iterator[S3Proxy]:
    with S3Proxy.before(server.endpoint) as proxy:
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


@pytest.mark.parametrize("size", [1, 10])
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
