"""What a driver makes of an S3 that fails now and then, refuses, or breaks off."""

import random
import time
from collections.abc import Callable, Iterator

import pytest

from blobfs.concurrency import stop_check
from blobfs.drivers.base import FileReader
from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import MIN_PART, S3Options
from blobfs.errors import AccessDenied, DigestMismatch, Interrupted, StorageUnavailable
from tests.support.files import content_of, walk
from tests.support.mounts import eventually
from tests.support.s3_faults import (
    EXPIRED_TOKEN,
    SLOW_DOWN,
    Damage,
    Delay,
    Fault,
    Kind,
    Lose,
    always,
    at_random,
    no_faults,
    nth,
)
from tests.support.s3_prefixes import S3Place
from tests.support.s3_proxy import S3Proxy

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("no_waits")]

PART = MIN_PART  # the size of parts here
CONTENT = random.Random(1).randbytes(3 * PART + 10)
CHUNK = 2**20

each_lost_answer = pytest.mark.parametrize(
    "fault", [Lose(), Damage.CUT_ANSWER], ids=["told an error", "cut off"]
)


on_both = pytest.mark.parametrize("place", ["moto", "ceph"], indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> S3Place:
    """A place of the real server, but for tests of what servers do in different ways."""
    place: S3Place = request.getfixturevalue(f"{getattr(request, 'param', 'ceph')}_place")
    return place


@pytest.fixture
def proxy(place: S3Place) -> Iterator[S3Proxy]:
    place.proxy.forget()
    yield place.proxy
    place.proxy.faults = no_faults


@pytest.fixture
def options(place: S3Place, proxy: S3Proxy) -> S3Options:
    return place.options(endpoint=proxy.url)


@pytest.fixture
def store(place: S3Place, proxy: S3Proxy, options: S3Options) -> Iterator[S3Driver]:
    store = place.driver(options)
    yield store
    proxy.faults = no_faults
    place.take_down(store, options)


def _write(store: S3Driver, path: str, content: bytes) -> None:
    with store.create(path) as writer:
        for offset in range(0, len(content), CHUNK):
            writer.write(content[offset : offset + CHUNK])
            if offset % (3 * CHUNK) == 0:
                writer.flush()
        writer.commit()


def _read(reader: FileReader) -> bytes:
    return b"".join(reader.chunks(2**19))


@pytest.mark.parametrize(
    "fault",
    [SLOW_DOWN, Lose(), Damage.CUT_ANSWER, Damage.CUT_REQUEST],
    ids=["refused", "lost", "cut answer", "cut request"],
)
def test_streams_come_right_when_one_request_in_ten_fails(
    proxy: S3Proxy, store: S3Driver, fault: Fault
) -> None:
    proxy.faults = at_random(fault, rate=0.1, seed=2)
    paths = [f"/d/{number}" for number in range(2)]
    for path in paths:
        _write(store, path, CONTENT)
    store.move("/d/0", "/d/2")
    assert [info.path for info in walk(store, "/")] == ["/d", "/d/1", "/d/2"]
    for path in ("/d/1", "/d/2"):
        with store.open(path) as reader:
            assert _read(reader) == CONTENT
    assert sum(request.fault is not None for request in proxy.requests) >= 5


def chunks_of_content() -> Iterator[bytes]:
    for offset in range(0, len(CONTENT), CHUNK):
        yield CONTENT[offset : offset + CHUNK]


def test_large_immutable_file_is_sent_in_parts(proxy: S3Proxy, store: S3Driver) -> None:
    with proxy.counting() as counted:
        store.put_immutable("/d/a", chunks_of_content())
    assert (counted[Kind.PUT], counted[Kind.PUT_PART]) == (0, 4)
    assert content_of(store, "/d/a") == CONTENT


def test_nothing_is_left_of_an_immutable_file_whose_chunks_fail(
    place: S3Place, options: S3Options, store: S3Driver
) -> None:
    def chunks() -> Iterator[bytes]:
        yield from chunks_of_content()
        raise DigestMismatch("as the test has it")

    with pytest.raises(DigestMismatch):
        store.put_immutable("/d/a", chunks())
    assert (place.keys(options), place.uploads(options)) == ([], [])


@on_both
@each_lost_answer
def test_file_is_there_when_the_answer_to_its_completion_is_lost(
    proxy: S3Proxy, store: S3Driver, fault: Fault
) -> None:
    proxy.faults = nth(1, fault, only={Kind.COMPLETE_UPLOAD})
    _write(store, "/d/a", CONTENT)
    assert content_of(store, "/d/a") == CONTENT


@on_both
@each_lost_answer
def test_upload_whose_beginning_was_not_heard_of_can_be_removed(
    place: S3Place, proxy: S3Proxy, options: S3Options, store: S3Driver, fault: Fault
) -> None:
    proxy.faults = nth(1, fault, only={Kind.CREATE_UPLOAD})
    _write(store, "/d/a", CONTENT)
    assert content_of(store, "/d/a") == CONTENT
    assert place.uploads(options) == ["d/a"]
    store.delete("/d")
    assert (place.keys(options), place.uploads(options)) == ([], [])


@pytest.mark.parametrize("again", ["flush", "commit"])
def test_part_that_failed_is_sent_again(proxy: S3Proxy, store: S3Driver, again: str) -> None:
    writer = store.create("/d/a")
    proxy.faults = always(EXPIRED_TOKEN, only={Kind.PUT_PART})
    writer.write(CONTENT)
    with pytest.raises(AccessDenied):
        writer.flush()
    assert writer.size == len(CONTENT)
    proxy.faults = no_faults
    if again == "flush":
        writer.flush()
        assert store.stat_unfinished("/d/a", writer.token).size == len(CONTENT)
    writer.commit()
    assert content_of(store, "/d/a") == CONTENT


def test_write_that_is_taken_at_once_asks_nobody(proxy: S3Proxy, store: S3Driver) -> None:
    writer = store.create("/d/a")
    writer.write(CONTENT[: PART + 10])
    rest = CONTENT[PART + 10 : 2 * PART - 1]
    writer.flush()
    with proxy.counting() as asked:
        assert writer.can_write_nowait(len(rest))
        writer.write(rest)
        assert not writer.can_write_nowait(1)  # the part would be full
    assert not asked
    writer.cancel()


def test_write_that_failed_tells_by_its_size_how_much_is_kept(
    proxy: S3Proxy, store: S3Driver
) -> None:
    writer = store.create("/d/a")
    proxy.faults = always(EXPIRED_TOKEN, only={Kind.CREATE_UPLOAD})
    with pytest.raises(AccessDenied):
        writer.write(CONTENT)
    proxy.faults = no_faults
    writer.write(CONTENT[writer.size :])
    writer.commit()
    assert content_of(store, "/d/a") == CONTENT


def test_tail_that_was_not_kept_is_kept_by_the_next_flush(proxy: S3Proxy, store: S3Driver) -> None:
    writer = store.create("/d/a")
    writer.write(b"tail")
    proxy.faults = always(EXPIRED_TOKEN, only={Kind.PUT})
    with pytest.raises(AccessDenied):
        writer.flush()
    proxy.faults = no_faults
    writer.flush()
    assert store.stat_unfinished("/d/a", writer.token).size == 4
    writer.cancel()


def test_nothing_is_committed_half(proxy: S3Proxy, store: S3Driver) -> None:
    store.put_content("/d/a", b"old")
    writer = store.create("/d/a")
    writer.write(CONTENT)
    for kind in (Kind.PUT_PART, Kind.COMPLETE_UPLOAD):
        proxy.faults = always(EXPIRED_TOKEN, only={kind})
        with pytest.raises(AccessDenied):
            writer.commit()
        assert content_of(store, "/d/a") == b"old"
    proxy.faults = no_faults
    writer.write(b"and more")
    writer.commit()
    assert content_of(store, "/d/a") == CONTENT + b"and more"


@pytest.mark.parametrize("size", [10, PART + 10], ids=["small", "large"])
def test_what_followed_a_failed_commit_is_kept(proxy: S3Proxy, store: S3Driver, size: int) -> None:
    writer = store.create("/d/a")
    writer.write(CONTENT[:size])
    writer.flush()
    proxy.faults = always(EXPIRED_TOKEN, only={Kind.COMPLETE_UPLOAD})
    with pytest.raises(AccessDenied):
        writer.commit()
    proxy.faults = no_faults
    writer.write(CONTENT[size : size + 5])
    writer.close()
    with store.append("/d/a", writer.token) as resumed:
        assert resumed.size == size + 5
        resumed.commit()
    assert content_of(store, "/d/a") == CONTENT[: size + 5]


def test_commit_is_done_though_the_tail_cannot_be_removed(proxy: S3Proxy, store: S3Driver) -> None:
    writer = store.create("/d/a")
    writer.write(b"content")
    writer.flush()
    proxy.faults = always(EXPIRED_TOKEN, only={Kind.DELETE})
    writer.commit()
    proxy.faults = no_faults
    assert content_of(store, "/d/a") == b"content"
    assert [entry.name for entry in store.listdir("/d")] == ["a"]


@on_both
def test_cancel_that_failed_can_be_made_again(
    place: S3Place, proxy: S3Proxy, options: S3Options, store: S3Driver
) -> None:
    writer = store.create("/d/a")
    writer.write(CONTENT)
    writer.flush()
    proxy.faults = always(EXPIRED_TOKEN, only={Kind.ABORT_UPLOAD})
    with pytest.raises(AccessDenied):
        writer.cancel()
    proxy.faults = no_faults
    writer.cancel()
    assert (place.keys(options), place.uploads(options)) == ([], [])


@pytest.mark.parametrize("kind", [Kind.COPY_PART, Kind.COMPLETE_UPLOAD, Kind.CREATE_UPLOAD])
def test_move_that_fails_leaves_both_alone(place: S3Place, proxy: S3Proxy, kind: Kind) -> None:
    options = place.options(endpoint=proxy.url, copy_threshold=PART, copy_chunk_size=PART)
    store = place.driver(options)
    store.put_content("/d/a", CONTENT)
    store.put_content("/d/b", b"old")
    proxy.faults = always(EXPIRED_TOKEN, only={kind})
    with pytest.raises(AccessDenied):
        store.move("/d/a", "/d/b")
    proxy.faults = no_faults
    assert (content_of(store, "/d/a"), content_of(store, "/d/b")) == (CONTENT, b"old")
    assert place.uploads(options) == []
    place.take_down(store, options)


@on_both
def test_move_that_is_stopped_leaves_both_alone(place: S3Place, proxy: S3Proxy) -> None:
    """The parts that the server copies meanwhile are removed too, once they are there."""
    options = place.options(endpoint=proxy.url, copy_threshold=PART, copy_chunk_size=PART)
    store = place.driver(options)
    store.put_content("/d/a", CONTENT)
    proxy.forget()
    proxy.faults = always(Delay(1), only={Kind.COPY_PART})

    def stop_after_the_first() -> None:
        if proxy.requests and proxy.requests[-1].kind is Kind.COPY_PART:
            raise Interrupted("stopped by the test")

    outer = stop_check.set(stop_after_the_first)
    began = time.monotonic()
    with pytest.raises(Interrupted):
        store.move("/d/a", "/d/b")
    stop_check.reset(outer)
    assert time.monotonic() - began < 1
    copied = {r.query for r in proxy.requests if r.kind is Kind.COPY_PART}

    def aborted() -> list[int]:
        return [r.status for r in proxy.requests if r.kind is Kind.ABORT_UPLOAD]

    eventually(lambda: len(aborted()) == len(copied) + 1 and all(aborted()))
    assert [entry.name for entry in store.listdir("/d")] == ["a"]
    assert (content_of(store, "/d/a"), place.uploads(options)) == (CONTENT, [])
    place.take_down(store, options)


def test_reading_goes_on_where_answers_break_off(proxy: S3Proxy, store: S3Driver) -> None:
    store.put_content("/d/a", CONTENT)
    with store.open("/d/a") as reader:
        for number in (1, 2, 3):
            proxy.faults = nth(number, Damage.CUT_ANSWER, only={Kind.GET})
            assert reader.read_at(number, CHUNK) == CONTENT[number : number + CHUNK]


def test_reading_that_always_breaks_off_fails(proxy: S3Proxy, store: S3Driver) -> None:
    store.put_content("/d/a", CONTENT)
    proxy.faults = always(Damage.CUT_ANSWER, only={Kind.GET})
    with store.open("/d/a") as reader, pytest.raises(StorageUnavailable):
        reader.read_at(0, CHUNK)
    with pytest.raises(StorageUnavailable):
        content_of(store, "/d/a")


@pytest.mark.parametrize("fault", [SLOW_DOWN, Damage.CUT_ANSWER], ids=["refused", "cut off"])
def test_listing_that_always_fails_fails(proxy: S3Proxy, store: S3Driver, fault: Fault) -> None:
    store.put_content("/d/a", b"")
    proxy.faults = always(fault, only={Kind.LIST, Kind.LIST_UPLOADS})
    with pytest.raises(StorageUnavailable):
        store.listdir("/d")
    with pytest.raises(StorageUnavailable):
        next(walk(store, "/d"))
    with pytest.raises(StorageUnavailable):
        store.delete("/d")
    proxy.faults = no_faults
    assert [entry.name for entry in store.listdir("/d")] == ["a"]


def test_deletion_that_is_refused_leaves_the_files(proxy: S3Proxy, store: S3Driver) -> None:
    for path in ("/d/a", "/d/b"):
        store.put_content(path, b"kept")
    proxy.faults = always(EXPIRED_TOKEN, only={Kind.DELETE_MANY})
    with pytest.raises(AccessDenied):
        store.delete("/d")
    proxy.faults = no_faults
    assert [info.path for info in walk(store, "/d")] == ["/d/a", "/d/b"]


def test_server_that_comes_back_is_spoken_to_again(proxy: S3Proxy, store: S3Driver) -> None:
    writer = store.create("/d/a")
    writer.write(CONTENT[: PART + 1])
    with proxy.down():
        with pytest.raises(StorageUnavailable):
            writer.flush()
        with pytest.raises(StorageUnavailable):
            store.stat("/d")
    writer.commit()
    assert content_of(store, "/d/a") == CONTENT[: PART + 1]


def test_small_file_whose_bit_flipped_is_asked_for_again(proxy: S3Proxy, store: S3Driver) -> None:
    store.put_content("/d/link", b"sha256:0123")
    reads: list[Callable[[], bytes]] = [
        lambda: content_of(store, "/d/link"),
        lambda: store.read_at("/d/link", 0, 256),
    ]
    for read in reads:
        proxy.faults = nth(1, Damage.FLIP_BIT, only={Kind.GET})
        assert read() == b"sha256:0123"


def test_tail_whose_bit_flipped_is_asked_for_again(proxy: S3Proxy, store: S3Driver) -> None:
    content = CONTENT[: CHUNK + 4]
    with store.create("/d/a") as writer:
        writer.write(content)
    proxy.faults = nth(1, Damage.FLIP_BIT, only={Kind.GET})
    with store.append("/d/a", writer.token) as writer:
        writer.commit()
    assert content_of(store, "/d/a") == content
