"""Lost connections, lost answers, and errors of a registry that passes."""

import random
import time
from collections.abc import Iterator

import pytest

from blobfs.errors import DigestMismatch, StorageFull, StorageOverloaded, StorageUnavailable
from blobfs.reference import Tag
from blobfs.transfer.registry import RegistrySource, RegistryTarget
from tests.support.places import described
from tests.support.s3_faults import (
    Damage,
    Fault,
    Faults,
    Lose,
    Refuse,
    Request,
    at_random,
    no_faults,
)
from tests.support.s3_proxy import S3Proxy
from tests.support.services import DockerRegistry, inspect
from tests.transfer.registry.conftest import ANONYMOUS, copy, in_chunks

pytestmark = pytest.mark.registry

CONTENT = random.Random(8).randbytes(3 * 2**20)
BLOB = described(CONTENT)
LARGE = random.Random(9).randbytes(2**20) * 35
LARGE_BLOB = described(LARGE)


def on(method: str, fault: Fault, *numbers: int, path: str = "/blobs/") -> Faults:
    """*fault* for the requests of *method* with these numbers, from 1 on; for all without."""
    seen = 0

    def choose(request: Request) -> Fault | None:
        nonlocal seen
        if request.method != method or path not in request.path:
            return None
        seen += 1
        return fault if not numbers or seen in numbers else None

    return choose


def sent(proxy: S3Proxy, method: str) -> list[Request]:
    return [request for request in proxy.requests if request.method == method]


@pytest.fixture
def reading(proxy: S3Proxy, target: RegistryTarget) -> Iterator[RegistrySource]:
    """The repository "read" with a blob, behind the proxy."""
    target.put_blob("read", BLOB, [CONTENT])
    with RegistrySource(proxy.url.removeprefix("http://"), ANONYMOUS) as source:
        yield source


def test_blob_is_read_on_where_a_connection_was_lost(
    reading: RegistrySource, proxy: S3Proxy
) -> None:
    """[S22.13] A blob whose connection was lost is read on from there"""
    proxy.faults = on("GET", Damage.CUT_ANSWER, 1, 2)
    with reading.open("read", BLOB) as reader:
        assert b"".join(reader.chunks(100_000)) == CONTENT
    first, second, third = sent(proxy, "GET")[1:]
    assert first.range is None
    assert (second.range or "").removeprefix("bytes=").rstrip("-").isdigit()
    assert second.range != third.range
    assert first.bytes + second.bytes + third.bytes < BLOB.size + 300_000


def test_blob_that_is_always_cut_ends_after_some_attempts(
    reading: RegistrySource, proxy: S3Proxy
) -> None:
    proxy.faults = on("GET", Damage.CUT_ANSWER)
    with pytest.raises(StorageUnavailable), reading.open("read", BLOB) as reader:
        reader.read_at(0, BLOB.size)
    assert len(sent(proxy, "GET")) < 20


def test_changed_bit_of_a_manifest_is_noticed(
    reading: RegistrySource, target: RegistryTarget, proxy: S3Proxy, registry: DockerRegistry
) -> None:
    with RegistrySource(registry.address, ANONYMOUS) as source:
        digest = source.tagged("library/small", Tag("v1"))
        for blob in source.outline("library/small", digest).blobs:
            with source.open("library/small", blob) as reader:
                target.put_blob("read", blob, reader.chunks())
        target.put_manifest("read", digest, source.manifest("library/small", digest))
    proxy.faults = on("GET", Damage.FLIP_BIT, path="/manifests/")
    with pytest.raises(DigestMismatch):
        reading.manifest("read", digest)


def test_small_blob_begins_anew_after_a_cut(proxied: RegistryTarget, proxy: S3Proxy) -> None:
    proxy.faults = on("PUT", Damage.CUT_REQUEST, 1)
    proxied.put_blob("cut/small", BLOB, in_chunks(CONTENT))
    assert proxied.missing("cut/small", [BLOB]) == []
    assert len(sent(proxy, "POST")) == 2


def test_lost_answer_to_a_commit_is_no_second_upload(
    proxied: RegistryTarget, proxy: S3Proxy
) -> None:
    proxy.faults = on("PUT", Lose(), 1)
    proxied.put_blob("cut/answer", BLOB, in_chunks(CONTENT))
    assert proxied.missing("cut/answer", [BLOB]) == []
    assert [len(sent(proxy, method)) for method in ("POST", "PUT")] == [1, 1]


@pytest.mark.parametrize("number", [1, 2])
def test_chunk_that_did_not_arrive_is_sent_again(
    proxied: RegistryTarget, proxy: S3Proxy, number: int
) -> None:
    proxy.faults = on("PATCH", Refuse(502, "none"), number)
    proxied.put_blob(f"cut/refused{number}", LARGE_BLOB, in_chunks(LARGE))
    assert proxied.missing(f"cut/refused{number}", [LARGE_BLOB]) == []
    assert [len(sent(proxy, method)) for method in ("POST", "PATCH", "PUT")] == [1, 3, 1]


@pytest.mark.parametrize("fault", [Damage.CUT_REQUEST, Lose()], ids=["cut", "lost answer"])
def test_registry_that_loses_an_upload_gets_it_anew_only_from_its_begin(
    proxied: RegistryTarget, proxy: S3Proxy, fault: Fault
) -> None:
    """docker-registry 2.8 knows an upload no more if its size is not that of its last answer."""
    proxy.faults = on("PATCH", fault, 1)
    proxied.put_blob("cut/first", LARGE_BLOB, in_chunks(LARGE))
    assert proxied.missing("cut/first", [LARGE_BLOB]) == []
    proxy.faults = on("PATCH", fault, 2)
    with pytest.raises(StorageUnavailable):
        proxied.put_blob("cut/second", LARGE_BLOB, in_chunks(LARGE))
    assert proxied.missing("cut/second", [LARGE_BLOB]) == [LARGE_BLOB]


def test_all_requests_wait_as_long_as_the_registry_says(
    proxied: RegistryTarget, proxy: S3Proxy
) -> None:
    """[S22.13] and wait as long as it asks for"""
    proxy.faults = on("HEAD", Refuse(429, "TOOMANYREQUESTS", b"", ("Retry-After: 1",)), 1)
    begin_s = time.monotonic()
    assert proxied.missing("limits", [BLOB]) == [BLOB]
    assert time.monotonic() - begin_s > 0.9


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (503, b"", StorageOverloaded),
        (502, b"<html>", StorageUnavailable),
        (
            500,
            b'{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":'
            b'{"DriverName":"filesystem","Enclosed":{"Op":"write","Path":"/x","Err":28}}}]}',
            StorageFull,
        ),
    ],
)
def test_error_that_stays_is_raised(
    proxied: RegistryTarget, proxy: S3Proxy, status: int, body: bytes, error: type[Exception]
) -> None:
    proxy.faults = on("POST", Refuse(status, "", body))
    with pytest.raises(error) as caught:
        proxied.put_blob("errors", BLOB, [CONTENT])
    assert type(caught.value) is error
    assert len(sent(proxy, "POST")) < 10


def test_page_that_is_cut_is_asked_for_again(reading: RegistrySource, proxy: S3Proxy) -> None:
    proxy.faults = on("GET", Damage.CUT_ANSWER, 1, path="/_catalog")
    assert "read" in list(reading.repositories())


@pytest.mark.parametrize("seed", [1, 2])
def test_image_arrives_whole_although_many_requests_fail(
    registry: DockerRegistry, proxied: RegistryTarget, proxy: S3Proxy, seed: int
) -> None:
    """[S22.13] Requests are repeated with growing delays while a registry is unavailable"""
    repository = f"often/failing{seed}"
    faults = (Damage.CUT_ANSWER, Damage.CUT_REQUEST, Refuse(503, "none"), Lose())
    proxy.faults = at_random(*faults, rate=0.15, seed=seed)
    with (
        S3Proxy.before(registry.url) as before,
        RegistrySource(before.url.removeprefix("http://"), ANONYMOUS) as source,
    ):
        before.faults = at_random(*faults, rate=0.15, seed=-seed)
        digest = source.tagged("library/multi", Tag("latest"))
        copy(source, "library/multi", digest, proxied, repository)
        proxied.tag(repository, Tag("latest"), digest, [])
    found = inspect(registry.address, "library/multi", "latest")
    proxy.faults = no_faults
    assert inspect(proxy.url.removeprefix("http://"), repository, "latest") == found
