"""Streams in parts: around their bounds, gone on with, left by a registry, broken off."""

import random
from itertools import pairwise

import pytest

from blobfs.drivers.base import FileWriter
from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import MIN_PART, S3Options
from blobfs.drivers.s3.writer import MultipartWriter
from blobfs.errors import AppendOnly, StorageUnavailable
from tests.support.files import content_of
from tests.support.s3_prefixes import S3Place

pytestmark = pytest.mark.s3

PART = MIN_PART  # the size of parts here
CONTENT = random.Random(1).randbytes(4 * PART)
CHUNK = 2**20

each_size = pytest.mark.parametrize(
    "size",
    [PART - 1, PART, PART + 1],
    ids=["almost one part", "one part", "little more"],
)


on_both = pytest.mark.parametrize("place", ["moto", "ceph"], indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> S3Place:
    """A place of the real server, but for tests of what servers do in different ways."""
    place: S3Place = request.getfixturevalue(f"{getattr(request, 'param', 'ceph')}_place")
    return place


def _write(writer: FileWriter, start: int, end: int) -> None:
    for offset in range(start, end, CHUNK):
        writer.write(CONTENT[offset : min(offset + CHUNK, end)])


def _assert_committed(store: S3Driver, writer: FileWriter, size: int) -> None:
    writer.commit()
    assert store.stat("/d/a").size == size
    assert content_of(store, "/d/a") == CONTENT[:size]


def _new_upload(place: S3Place, options: S3Options, parts: dict[int, bytes]) -> str:
    """One that boto3 made, as a registry does."""
    key = options.key("/d/a")
    upload = place.client.create_multipart_upload(Bucket=place.bucket, Key=key)["UploadId"]
    for number, part in parts.items():
        place.client.upload_part(
            Bucket=place.bucket, Key=key, UploadId=upload, PartNumber=number, Body=part
        )
    return upload


@each_size
def test_stream_around_the_bounds_of_parts_reads_back(store: S3Driver, size: int) -> None:
    writer = store.create("/d/a")
    _write(writer, 0, size)
    assert writer.size == size
    _assert_committed(store, writer, size)


@on_both
@each_size
def test_stream_goes_on_from_around_the_bounds_of_parts(store: S3Driver, size: int) -> None:
    with store.create("/d/a") as writer:
        _write(writer, 0, size)
        writer.flush()
        token = writer.token
    assert store.stat_unfinished("/d/a", token).size == size
    with store.append("/d/a", token) as writer:
        assert (writer.size, writer.token) == (size, token)
        _write(writer, size, size + 10)
    with store.append("/d/a") as writer:
        assert writer.size == size + 10
        _write(writer, size + 10, size + PART)
        _assert_committed(store, writer, size + PART)


@each_size
def test_committed_file_can_be_gone_on_with(store: S3Driver, size: int) -> None:
    with store.create("/d/a") as writer:
        _write(writer, 0, size)
        writer.commit()
    with store.append("/d/a") as writer:
        assert writer.size == size
        _write(writer, size, size + PART)
        _assert_committed(store, writer, size + PART)


def test_flush_inside_a_part_is_followed_by_more(store: S3Driver) -> None:
    writer = store.create("/d/a")
    bounds = [0, 10, PART - 1, PART, PART + 10, 2 * PART + 5]
    for start, end in pairwise(bounds):
        _write(writer, start, end)
        writer.flush()
        assert store.stat_unfinished("/d/a", writer.token).size == end
    _assert_committed(store, writer, bounds[-1])


@pytest.mark.parametrize("flushed", [PART - 10, PART, PART + 10])
def test_what_was_flushed_outlives_a_writer_that_broke_off(store: S3Driver, flushed: int) -> None:
    abandoned = store.create("/d/a")
    _write(abandoned, 0, flushed)
    abandoned.flush()
    _write(abandoned, flushed, 3 * PART)  # which may arrive, or not
    with store.append("/d/a", abandoned.token) as writer:
        assert flushed <= writer.size <= 3 * PART
        _write(writer, writer.size, len(CONTENT))
        _assert_committed(store, writer, len(CONTENT))


def test_going_back_to_what_was_flushed_drops_whole_parts(store: S3Driver) -> None:
    first = store.create("/d/a")
    _write(first, 0, PART + 10)
    first.flush()
    first.write(bytes(PART - 10))  # which fills the part
    first.flush()
    with store.append("/d/a", first.token) as writer:
        writer.go_back(PART + 10)
        _write(writer, PART + 10, PART + 20)
    with store.append("/d/a", first.token) as writer:
        assert writer.size == PART + 20
        _write(writer, PART + 20, 2 * PART + 10)
        _assert_committed(store, writer, 2 * PART + 10)


@pytest.mark.parametrize("size", [PART, 2 * PART], ids=["one part", "two parts"])
def test_going_back_to_the_end_of_a_part_lasts(store: S3Driver, size: int) -> None:
    with store.create("/d/a") as writer:
        writer.write(CONTENT[:size] + bytes(3 * PART - size))
        token = writer.token
    with store.append("/d/a", token) as writer:
        writer.go_back(size)
    assert store.stat_unfinished("/d/a", token).size == size
    with store.append("/d/a", token) as writer:
        assert writer.size == size
        _write(writer, size, len(CONTENT))
        _assert_committed(store, writer, len(CONTENT))


@on_both
def test_end_before_what_was_gone_back_behind_may_have_to_wait(
    place: S3Place, store: S3Driver
) -> None:
    """Ceph completes nothing but all the parts that it has, and no part can be removed."""
    with store.create("/d/a") as writer:
        writer.write(CONTENT[:PART] + bytes(2 * PART))
        token = writer.token
    with store.append("/d/a", token) as writer:
        writer.go_back(PART)
        _write(writer, PART, PART + 10)
        if place.server.other is not None:  # it is Ceph
            with pytest.raises(StorageUnavailable, match="InvalidPart"):
                writer.commit()
            _write(writer, PART + 10, 3 * PART)
        _assert_committed(store, writer, writer.size)


def test_going_back_into_a_part_is_refused(store: S3Driver) -> None:
    with store.create("/d/a") as writer:
        _write(writer, 0, 2 * PART)
        with pytest.raises(AppendOnly):
            writer.go_back(PART + 1)
        _assert_committed(store, writer, 2 * PART)


@on_both
def test_parts_behind_a_missing_one_do_not_count(
    place: S3Place, options: S3Options, store: S3Driver
) -> None:
    token = _new_upload(place, options, {1: CONTENT[:PART], 3: bytes(PART)})
    assert store.stat_unfinished("/d/a", token).size == PART
    with store.append("/d/a", token) as writer:
        assert writer.size == PART
        _write(writer, PART, 2 * PART)
    with store.append("/d/a", token) as writer:
        assert writer.size == 2 * PART
        _write(writer, 2 * PART, len(CONTENT))
        _assert_committed(store, writer, len(CONTENT))


@on_both
@pytest.mark.parametrize(
    "sizes",
    [[1024], [PART, 1024], [2 * PART, PART, 1024], [PART, PART]],
    ids=["a small part", "and a whole one", "and larger ones", "only whole ones"],
)
def test_what_a_registry_left_is_gone_on_with(
    place: S3Place, options: S3Options, store: S3Driver, sizes: list[int]
) -> None:
    ends = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    parts = {number: CONTENT[start:end] for number, (start, end) in enumerate(pairwise(ends), 1)}
    _new_upload(place, options, parts)
    with store.append("/d/a") as writer:
        assert writer.size == ends[-1]
        _write(writer, ends[-1], ends[-1] + 10)
    with store.append("/d/a") as writer:
        assert writer.size == ends[-1] + 10
        _write(writer, ends[-1] + 10, len(CONTENT))
        _assert_committed(store, writer, len(CONTENT))
    assert place.uploads(options) == []


def test_parts_of_another_size_are_gone_on_with(place: S3Place, options: S3Options) -> None:
    larger = place.driver(place.options(chunk_size=PART + CHUNK, root=options.root))
    with larger.create("/d/a") as writer:
        _write(writer, 0, PART + CHUNK - 1)
    store = place.driver(options)
    with store.append("/d/a") as writer:
        assert writer.size == PART + CHUNK - 1
        _write(writer, writer.size, len(CONTENT))
        _assert_committed(store, writer, len(CONTENT))
    larger.close()
    place.take_down(store, options)


@on_both
def test_copy_in_parts_moves_the_content(place: S3Place) -> None:
    options = place.options(copy_threshold=PART, copy_chunk_size=PART)
    store = place.driver(options)
    store.put_content("/d/a", CONTENT[: 2 * PART + 10])
    store.move("/d/a", "/d/b")
    assert content_of(store, "/d/b") == CONTENT[: 2 * PART + 10]
    assert store.stat_many(["/d/a"]) == [None]
    place.take_down(store, options)


def test_part_that_another_writer_has_sent_anew_is_disturbed(store: S3Driver) -> None:
    """[S13.16] Of an upload in parts that somebody else has written too, a hash state counts only
    for the parts that it was saved for. A hash state of what was there before does not count.
    """
    first = store.create("/d/a")
    _write(first, 0, 2 * PART)
    first.flush()
    second = store.append("/d/a", first.token)
    assert second.undisturbed_size == 2 * PART
    _write(second, 2 * PART, 3 * PART + 10)
    second.close()
    first.write(bytes(PART))  # another third part
    first.flush()
    resumed = store.append("/d/a", first.token)
    assert resumed.undisturbed_size in (0, 3 * PART)  # of the one who flushed last, or of nobody
    resumed.cancel()


def test_part_that_another_writer_has_sent_and_not_flushed_is_disturbed(store: S3Driver) -> None:
    """[S13.16] All others are hashed anew, or the upload goes back to where it is certain."""
    first = store.create("/d/a")
    _write(first, 0, 2 * PART)
    first.flush()
    second = store.append("/d/a", first.token)
    _write(second, 2 * PART, 3 * PART)
    second.close()
    first.write(bytes(PART + 10))
    assert isinstance(first, MultipartWriter)
    first._await_first()
    resumed = store.append("/d/a", first.token)
    assert resumed.undisturbed_size < 3 * PART
    resumed.cancel()
