"""Answers that are not S3's, or not to what was asked: an error, never success or absence."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import md5

import pytest

from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import MIN_PART, S3Options
from blobfs.errors import BlobfsError, FileChanged, PathNotFound, StorageUnavailable
from tests.drivers.s3.test_s3_errors import each_call
from tests.support.s3_faults import Kind, Refuse, always, no_faults, nth
from tests.support.s3_prefixes import S3Place
from tests.support.s3_proxy import S3Proxy

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("no_waits")]

PLAIN = ("Content-Type: text/plain",)
HTML = ("Content-Type: text/html",)
FALSE = [
    Refuse(200, "", b"", ()),
    Refuse(200, "", b"<html><body>log in<br></body>", HTML),
    Refuse(200, "", b"<html><body>log in</body></html>", HTML),  # it is well-formed
    Refuse(200, "", b"<html><body>log in</body></html>", ()),
    Refuse(404, "", b"default backend - 404", PLAIN),
    Refuse(404, "", b"", ()),
]

ETAG = f'"{md5(b"content", usedforsecurity=False).hexdigest()}"'
"""That of ``/d/a``."""


@pytest.fixture
def proxy(moto_place: S3Place) -> Iterator[S3Proxy]:
    moto_place.proxy.forget()
    yield moto_place.proxy
    moto_place.proxy.faults = no_faults


@pytest.fixture
def options(moto_place: S3Place, proxy: S3Proxy) -> S3Options:
    return moto_place.options(endpoint=proxy.url, copy_threshold=MIN_PART)


@pytest.fixture
def store(moto_place: S3Place, proxy: S3Proxy, options: S3Options) -> Iterator[S3Driver]:
    store = moto_place.driver(options)
    store.put_content("/d/a", b"content")
    yield store
    proxy.faults = no_faults
    moto_place.take_down(store, options)


@each_call
def test_answer_that_is_not_of_s3_is_an_error(
    proxy: S3Proxy, store: S3Driver, call: Callable[[S3Driver], object]
) -> None:
    """[S13.14] An answer that is not one of S3 (an empty body, a log-in page, a 404 of a proxy),
    for another range, or of another length or version than was asked for, is made again, and then
    EIO.
    """
    for false in FALSE:
        proxy.faults = always(false)
        with pytest.raises(StorageUnavailable, match=r"not as S3 does|none of S3"):
            call(store)


def test_missing_object_is_missing_though_no_header_names_the_request(
    proxy: S3Proxy, store: S3Driver
) -> None:
    proxy.faults = always(Refuse(404, "", b"", ()), only={Kind.HEAD})
    assert store.stat_now("/d/a").size == len(b"content")
    with pytest.raises(PathNotFound):
        store.stat_now("/d/missing")


@pytest.mark.parametrize("path", ["/d/a", "/d/big"], ids=["copy", "copy in parts"])
def test_copy_that_is_not_confirmed_keeps_its_source(
    proxy: S3Proxy, store: S3Driver, path: str
) -> None:
    """[S13.14] An upload or a copy is complete when the object is there with its size."""
    store.put_content("/d/big", bytes(MIN_PART + 1))
    empty = Refuse(200, "", b"<CopyPartResult></CopyPartResult>")
    proxy.faults = always(empty, only={Kind.COPY, Kind.COPY_PART})
    with pytest.raises(StorageUnavailable):
        store.move(path, "/d/b")
    proxy.faults = no_faults
    assert store.stat_now(path).size > 0
    with pytest.raises(PathNotFound):
        store.stat_now("/d/b")


@pytest.mark.parametrize(
    "answer",
    [
        Refuse(200, "", b"", ()),
        Refuse(200, "InternalError"),
        Refuse(200, "", b"<CompleteMultipartUploadResult/>"),
    ],
    ids=["empty", "error inside", "untrue"],
)
def test_upload_whose_completion_did_nothing_is_not_committed(
    proxy: S3Proxy, store: S3Driver, answer: Refuse
) -> None:
    """[S13.14] An upload or a copy is complete when the object is there with its size."""
    writer = store.create("/d/b")
    writer.write(bytes(MIN_PART + 10))
    proxy.faults = always(answer, only={Kind.COMPLETE_UPLOAD})
    with pytest.raises(StorageUnavailable):
        writer.commit()
    proxy.faults = no_faults
    writer.commit()
    assert store.stat_now("/d/b").size == MIN_PART + 10


def _ranged(said: str, body: bytes, etag: str = ETAG) -> Refuse:
    date = "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT"
    return Refuse(206, "", body, (f"ETag: {etag}", date, f"Content-Range: {said}"))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_ranged("bytes 0-2/7", b"con"), StorageUnavailable),
        (_ranged("bytes 2-4/7", b"nt"), StorageUnavailable),
        (_ranged("bytes 2-5/7", b"nten"), StorageUnavailable),
        (_ranged("bytes x", b"nte"), StorageUnavailable),
        (_ranged("bytes 2-4/7", b"nte", '"1"'), FileChanged),
    ],
    ids=["another range", "short", "long", "nonsense", "another ETag"],
)
def test_part_of_another_range_or_object_is_not_taken(
    proxy: S3Proxy, store: S3Driver, answer: Refuse, error: type[BlobfsError]
) -> None:
    """[S13.14] For another range, or of another length or version than was asked for."""
    with store.open("/d/a") as reader:
        proxy.faults = always(answer, only={Kind.GET})
        with pytest.raises(error):
            reader.read_at(2, 3)
    proxy.faults = nth(1, answer, only={Kind.GET})
    if error is StorageUnavailable:
        assert store.read_at("/d/a", 2, 3) == b"nte"


def test_deletion_of_many_has_the_checksum_that_every_server_takes(
    store: S3Driver, proxy: S3Proxy
) -> None:
    sent: list[tuple[bytes, dict[str, str | bytes]]] = []

    def note(request: object, **_: object) -> None:
        sent.append((request.body, dict(request.headers)))  # type: ignore[attr-defined]

    store._bucket.client.meta.events.register("before-send.s3.DeleteObjects", note)
    store.delete("/d/a")
    [(body, headers)] = sent
    digest = b64encode(md5(body, usedforsecurity=False).digest()).decode()
    found = headers["Content-MD5"]
    assert (found if isinstance(found, str) else found.decode()) == digest
    assert not any("crc32" in name.lower() for name in headers)


def test_refused_list_of_uploads_hides_no_upload(proxy: S3Proxy, store: S3Driver) -> None:
    """[S13.15] Without the right to list multipart uploads an upload shows with the size that its
    objects have.
    """
    proxy.faults = always(Refuse(403, "AccessDenied"), only={Kind.LIST_UPLOADS, Kind.LIST_PARTS})
    assert store.stat_unfinished("/d/a").size == len(b"content")
    with pytest.raises(PathNotFound):
        store.stat_unfinished("/d/missing")


def test_keys_that_may_not_write_are_known_by_an_upload_that_is_not_there(
    proxy: S3Proxy, store: S3Driver
) -> None:
    """[S6.9] The mount asks for an upload that does not exist, and stores nothing."""
    refused = Refuse(403, "AccessDenied")
    assert store.write_refusal("/d/b") is None
    proxy.faults = always(refused, only={Kind.ABORT_UPLOAD, Kind.PUT_PART})
    assert "AccessDenied" in (store.write_refusal("/d/b") or "")
    proxy.faults = always(refused, only={Kind.ABORT_UPLOAD})
    with pytest.raises(StorageUnavailable):  # moto answers 500 to such a part
        store.write_refusal("/d/b")


def test_list_of_uploads_that_never_ends_is_an_error(proxy: S3Proxy, store: S3Driver) -> None:
    body = (
        b"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated></ListMultipartUploadsResult>"
    )
    proxy.faults = always(Refuse(200, "", body), only={Kind.LIST_UPLOADS})
    with pytest.raises(StorageUnavailable):
        list(store.unfinished("/"))
