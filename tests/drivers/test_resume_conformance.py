"""What every driver keeps of a file for a later writer. Never edited for one of them."""

from blobfs.drivers.base import FileWriter, StorageDriver
from blobfs.drivers.resumable import uploads_of
from blobfs.errors import AppendOnly
from tests.support.files import MISSING, content_of, missing_path


def _written(driver: StorageDriver, content: bytes = b"0123456789") -> FileWriter:
    writer = driver.create("/d/a")
    writer.write(content)
    return writer


def _committed(driver: StorageDriver, writer: FileWriter) -> bytes:
    writer.commit()
    return content_of(driver, "/d/a")


def test_flush_leaves_what_was_written_to_a_later_append(driver: StorageDriver) -> None:
    writer = _written(driver)
    writer.flush()
    with driver.append("/d/a") as other:
        assert other.size == 10


def test_flush_is_followed_by_more(driver: StorageDriver) -> None:
    writer = _written(driver)
    writer.flush()
    writer.write(b"end")
    writer.flush()
    assert writer.size == 13
    assert _committed(driver, writer) == b"0123456789end"


def test_flush_without_a_write_does_no_harm(driver: StorageDriver) -> None:
    with driver.create("/d/a") as writer:
        writer.flush()
        assert _committed(driver, writer) == b""


def test_flushed_file_can_be_cancelled(driver: StorageDriver) -> None:
    writer = _written(driver)
    writer.flush()
    writer.cancel()
    assert driver.stat_many(["/d/a"]) == [None]


def test_unfinished_file_is_told_of_with_its_size(driver: StorageDriver) -> None:
    _written(driver).close()
    info = uploads_of(driver).stat_unfinished("/d/a")
    assert (info.path, info.size, info.is_dir) == ("/d/a", 10, False)


def test_finished_file_is_told_of_too(driver: StorageDriver) -> None:
    driver.put_content("/d/a", b"content")
    assert uploads_of(driver).stat_unfinished("/d/a") == driver.stat("/d/a")


def test_unfinished_file_that_is_missing_is_not_found(driver: StorageDriver) -> None:
    driver.put_content("/d/file", b"")
    for path in MISSING:
        assert missing_path(uploads_of(driver).stat_unfinished, path) == path


def test_telling_of_an_unfinished_file_changes_nothing(driver: StorageDriver) -> None:
    _written(driver).close()
    uploads_of(driver).stat_unfinished("/d/a")
    with driver.append("/d/a") as writer:
        assert _committed(driver, writer) == b"0123456789"


def test_writer_goes_on_by_its_token(driver: StorageDriver) -> None:
    with _written(driver) as first:
        first.flush()
        token = first.token
    assert uploads_of(driver).stat_unfinished("/d/a", token).size == 10
    with driver.append("/d/a", token) as writer:
        assert writer.size == 10
        writer.write(b"end")
        assert _committed(driver, writer) == b"0123456789end"


def test_going_back_to_its_size_changes_nothing(driver: StorageDriver) -> None:
    _written(driver).close()
    with driver.append("/d/a") as writer:
        writer.go_back(10)
        assert _committed(driver, writer) == b"0123456789"


def test_going_back_to_nothing_leaves_nothing(driver: StorageDriver) -> None:
    _written(driver).close()
    with driver.append("/d/a") as writer:
        writer.go_back(0)
        assert writer.size == 0
        writer.write(b"new")
        assert _committed(driver, writer) == b"new"


def test_what_was_gone_back_behind_does_not_come_back(driver: StorageDriver) -> None:
    _written(driver).close()
    with driver.append("/d/a") as writer:
        writer.go_back(0)
    with driver.append("/d/a") as writer:
        assert writer.size == 0
        writer.write(b"new")
    with driver.append("/d/a") as writer:
        assert _committed(driver, writer) == b"new"


def test_going_back_to_where_it_cannot_leaves_the_file_as_it_was(driver: StorageDriver) -> None:
    _written(driver).close()
    with driver.append("/d/a") as writer:
        expected = b"0123"
        try:
            writer.go_back(4)
        except AppendOnly:
            expected = b"0123456789"
        assert writer.size == len(expected)
        assert _committed(driver, writer) == expected


def test_commit_over_a_file_replaces_it(driver: StorageDriver) -> None:
    driver.put_content("/d/a", b"old")
    writer = _written(driver)
    writer.flush()
    writer.commit()
    assert content_of(driver, "/d/a") == b"0123456789"
