"""The small files of an upload, as others and hostile others have written them."""

import json
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobfs import paths
from blobfs.digest import ALGORITHMS, Digest, Digester
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import Corrupt, UploadUnknown
from blobfs.storage.uploads.metadata import UploadFiles, UploadRecord, is_file_name
from tests.support.files import content_of
from tests.support.layout import APP, EMPTY, Json, Layout, as_bytes
from tests.support.uploads import states

ID = "0b9eac3a-6a0e-4f4b-8b6d-2f6a7d3c1e55"
STARTED_AT = paths.upload_startedat(APP, ID)
RECORD = paths.upload_record(APP, ID)
FULL = UploadRecord("layer.tar", EMPTY, 7, Digest.of(b"blob"))

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(is_file_name)
digests = st.builds(Digest.of, st.binary(max_size=4), st.sampled_from(ALGORITHMS))
records = st.builds(
    UploadRecord,
    name=st.one_of(st.just(""), names),
    digest=st.none() | digests,
    size=st.none() | st.integers(0, 2**63),
    moved_to=st.none() | digests,
)


@pytest.fixture
def files(driver: StorageDriver) -> UploadFiles:
    return UploadFiles(driver, APP, ID)


def test_start_is_written_as_a_registry_writes_it(
    driver: StorageDriver, files: UploadFiles
) -> None:
    moment = datetime(2024, 2, 29, 14, 0, 1, 999_999, timezone(timedelta(hours=2)))
    files.begin(moment, UploadRecord())
    assert content_of(driver, STARTED_AT) == b"2024-02-29T12:00:01Z"


def test_upload_of_which_nothing_is_to_be_kept_has_no_record(
    driver: StorageDriver, files: UploadFiles
) -> None:
    files.begin(datetime.now(UTC), UploadRecord())
    assert [entry.name for entry in driver.listdir(paths.upload(APP, ID))] == ["startedat"]


@pytest.mark.parametrize(
    "content",
    [
        b"2024-02-29T12:00:01Z",
        b"2024-02-29T12:00:01+00:00",
        b"2024-02-29T14:00:01+02:00",
        b"2024-02-29T12:00:01.000000000Z",
        b"2024-02-29T12:00:01",
    ],
    ids=bytes.decode,
)
def test_start_is_read_as_others_write_it(
    layout: Layout, files: UploadFiles, content: bytes
) -> None:
    layout.put(STARTED_AT, content)
    assert files.started_at() == datetime(2024, 2, 29, 12, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(20),
        b"2024-02-",
        b"yesterday",
        b"\xff\xfe",
        b"2024-02-30T12:00:00Z",
        b"9" * 999,
        b"9999-12-31T23:59:59-01:00",
        b"0001-01-01T00:00:00+14:00",
        b"2016-12-31T23:59:60Z",
    ],
    ids=["empty", "zeros", "cut off", "words", "not ASCII", "no such day", "huge",
         "year 10000 in UTC", "year 0 in UTC", "leap second"],
)  # fmt: skip
def test_start_that_cannot_be_held_is_when_the_file_was_made(
    layout: Layout, files: UploadFiles, content: bytes
) -> None:
    layout.put(STARTED_AT, content)
    assert abs(files.started_at() - datetime.now(UTC)) < timedelta(minutes=1)


def test_start_may_be_in_the_future(layout: Layout, files: UploadFiles) -> None:
    layout.put(STARTED_AT, b"9999-12-31T23:59:59+23:59")
    assert files.started_at() == datetime(9999, 12, 31, 0, 0, 59, tzinfo=UTC)


@pytest.mark.parametrize("seconds", [-1, 10**14])
def test_start_is_a_time_whenever_its_file_was_made(seconds: int) -> None:
    """On a file system that keeps any time."""
    with TemporaryDirectory(dir="/dev/shm") as place:
        driver = FilesystemDriver.below(Path(place))
        layout = Layout(driver)
        layout.put(STARTED_AT, b"")
        os.utime(f"{place}{STARTED_AT}", (seconds, seconds))
        began = UploadFiles(driver, APP, ID).started_at()
        driver.close()
    assert began.year in {1970, 9999}


def test_start_always_has_a_time_zone(layout: Layout, files: UploadFiles) -> None:
    for content in (b"2024-02-29T12:00:01", b"2024-02-29", b""):
        layout.put(STARTED_AT, content)
        assert files.started_at().utcoffset() is not None


def test_upload_without_a_start_is_unknown(layout: Layout, files: UploadFiles) -> None:
    layout.put(paths.upload_data(APP, ID), b"content")
    with pytest.raises(UploadUnknown, match=ID):
        files.started_at()


def test_directory_in_place_of_the_start_is_corrupt(layout: Layout, files: UploadFiles) -> None:
    layout.put(f"{STARTED_AT}/below")
    with pytest.raises(Corrupt, match=STARTED_AT):
        files.started_at()


@given(records)
def test_record_is_read_as_it_was_written(record: UploadRecord) -> None:
    assert UploadRecord.of_json(record.to_json()) == record


def test_record_with_the_longest_name_is_read_whole(
    files: UploadFiles,
) -> None:
    record = UploadRecord("\x01" * 255, Digest.of(b"", "sha512"), 2**63, Digest.of(b"", "sha512"))
    files.put_record(record)
    assert files.record() == record


def test_hostile_reason_is_one_line_that_can_be_encoded() -> None:
    content = json.dumps({"reason": "a\n\x1b\ud800" + "x" * 10_000}).encode()
    reason = UploadRecord.of_json(content).reason
    assert reason == "a???" + "x" * 496
    reason.encode()


def test_name_that_is_not_utf_8_is_kept(files: UploadFiles) -> None:
    record = UploadRecord(b"caf\xe9".decode("utf-8", "surrogateescape"))
    files.put_record(record)
    assert files.record() == record


def test_record_leaves_out_what_is_not_known() -> None:
    assert json.loads(UploadRecord("a").to_json()) == {"name": "a"}


def test_upload_without_a_record_has_an_empty_one(files: UploadFiles) -> None:
    assert files.record() == UploadRecord()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"7", b'"name"', b"\xff", bytes(30), b"[" * 4000, b" " * 5000],
    ids=[
        "empty",
        "cut off",
        "null",
        "list",
        "number",
        "text",
        "not UTF-8",
        "zeros",
        "deep",
        "long",
    ],
)
def test_record_that_is_none_is_empty(layout: Layout, files: UploadFiles, content: bytes) -> None:
    layout.put(RECORD, content)
    assert files.record() == UploadRecord()


def test_directory_in_place_of_a_record_is_an_empty_one(layout: Layout, files: UploadFiles) -> None:
    layout.put(f"{RECORD}/below")
    assert files.record() == UploadRecord()


HOSTILE: dict[str, Json] = {
    "another directory": "../../../etc/passwd",
    "slash": "a/b",
    "root": "/",
    "this directory": ".",
    "directory above": "..",
    "NUL": "a\0b",
    "longer than a name": "a" * 256,
    "longer than a name in bytes": "é" * 128,
    "lone surrogate": "\ud800",
    "number": 7,
    "list": ["a"],
    "null": None,
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_name_that_no_file_can_have_is_left_out(
    layout: Layout, files: UploadFiles, name: Json
) -> None:
    layout.put(RECORD, as_bytes({"name": name, "size": 7, "digest": str(EMPTY)}))
    assert files.record() == UploadRecord("", EMPTY, 7)


@pytest.mark.parametrize("size", [-1, 1.5, "7", True, None, [7]], ids=repr)
def test_size_that_is_none_is_left_out(layout: Layout, files: UploadFiles, size: Json) -> None:
    layout.put(RECORD, as_bytes({"name": "a", "size": size}))
    assert files.record() == UploadRecord("a")


@pytest.mark.parametrize("key", ["digest", "blob"])
@pytest.mark.parametrize(
    "digest", ["", "sha256:", "md5:00", EMPTY.encoded, f"{EMPTY}\n", 7, None, {}], ids=repr
)
def test_digest_that_is_none_is_left_out(
    layout: Layout, files: UploadFiles, key: str, digest: Json
) -> None:
    layout.put(RECORD, as_bytes({"name": "a", key: digest}))
    assert files.record() == UploadRecord("a")


def test_what_a_later_version_adds_to_a_record_does_no_harm(
    layout: Layout, files: UploadFiles
) -> None:
    layout.put(RECORD, FULL.to_json()[:-1] + b', "later": {"x": [1]}}')
    assert files.record() == FULL


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_state_is_loaded_as_it_was_saved(files: UploadFiles, algorithm: str) -> None:
    digester = Digester(algorithm)
    digester.update(b"content")
    files.save_state(digester)
    assert files.load_state(algorithm, 7).digest() == digester.digest()


def test_latest_state_that_fits_is_loaded(files: UploadFiles) -> None:
    digester = Digester()
    for data in (b"a", b"b" * 9, b"c" * 90):
        digester.update(data)
        files.save_state(digester)
    loaded = {size: files.load_state("sha256", size).size for size in (0, 1, 9, 10, 99, 100, 1000)}
    assert loaded == {0: 0, 1: 1, 9: 1, 10: 10, 99: 10, 100: 100, 1000: 100}


def test_states_are_dropped_on_either_side_of_a_size(
    driver: StorageDriver, files: UploadFiles
) -> None:
    for algorithm in ("sha256", "sha512"):
        digester = Digester(algorithm)
        for _ in range(5):
            digester.update(b"a")
            files.save_state(digester)
    files.drop_states_above(4)
    files.drop_states_below("sha256", 2)
    assert states(driver, ID, "sha256") == {"2", "3", "4"}
    assert states(driver, ID, "sha512") == {"1", "2", "3", "4"}


def test_removing_a_missing_upload_is_no_error(files: UploadFiles) -> None:
    files.remove()
    files.drop_states_above(0)
