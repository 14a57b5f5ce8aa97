"""What every driver does to move and to delete, and refuses. Never edited for one of them."""

from collections.abc import Callable

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.errors import NotADirectory, NotAFile, PathNotFound
from tests.support.files import MISSING, content_of, missing_path, walk

Act = Callable[[StorageDriver, str], object]


def test_move_takes_the_content_along_and_leaves_no_source(driver: StorageDriver) -> None:
    driver.put_content("/d/a", b"content")
    driver.move("/d/a", "/e/b")
    assert content_of(driver, "/e/b") == b"content"
    assert missing_path(driver.stat, "/d/a") == "/d/a"


def test_move_of_what_a_writer_committed(driver: StorageDriver) -> None:
    with driver.create("/a") as writer:
        writer.write(b"content")
        writer.commit()
    driver.move("/a", "/b/c/d")
    assert content_of(driver, "/b/c/d") == b"content"


def test_move_replaces_the_target(driver: StorageDriver) -> None:
    driver.put_content("/a", b"new")
    driver.put_content("/b", b"old and longer")
    driver.move("/a", "/b")
    assert content_of(driver, "/b") == b"new"


def test_move_leaves_siblings_that_share_a_prefix(driver: StorageDriver) -> None:
    driver.put_content("/d/a", b"moved")
    driver.put_content("/d/ab", b"sibling")
    driver.move("/d/a", "/d/b")
    assert content_of(driver, "/d/ab") == b"sibling"


def test_move_onto_itself_changes_nothing(driver: StorageDriver) -> None:
    driver.put_content("/a", b"content")
    driver.move("/a", "/a")
    assert content_of(driver, "/a") == b"content"


def test_move_of_a_missing_file_tells_which_and_leaves_the_target(driver: StorageDriver) -> None:
    driver.put_content("/d/file", b"")
    driver.put_content("/target", b"kept")
    for source in MISSING:
        assert missing_path(driver.move, source, "/target") == source
    assert content_of(driver, "/target") == b"kept"


def test_move_of_a_missing_file_makes_no_directory(driver: StorageDriver) -> None:
    with pytest.raises(PathNotFound):
        driver.move("/nowhere", "/d/e/target")
    assert list(driver.listdir("/")) == []


@pytest.mark.parametrize("target", ["/file/below", "/file/far/below", "/source/below"])
def test_move_below_a_file_is_refused(driver_with_directories: StorageDriver, target: str) -> None:
    driver_with_directories.put_content("/source", b"source")
    driver_with_directories.put_content("/file", b"file")
    with pytest.raises(NotADirectory):
        driver_with_directories.move("/source", target)


@pytest.mark.parametrize("target", ["/file", "/new"], ids=["onto a file", "to nowhere"])
def test_refused_move_of_a_directory_leaves_both_alone(driver: StorageDriver, target: str) -> None:
    _assert_refused_move_leaves_both_alone(driver, "/d", target)


@pytest.mark.parametrize("target", ["/file/below", "/d"], ids=["below a file", "onto a directory"])
def test_refused_move_of_a_file_leaves_both_alone(
    driver_with_directories: StorageDriver, target: str
) -> None:
    _assert_refused_move_leaves_both_alone(driver_with_directories, "/source", target)


def _assert_refused_move_leaves_both_alone(driver: StorageDriver, source: str, target: str) -> None:
    contents = {"/source": b"source", "/file": b"file", "/d/a": b"in the directory"}
    for path, content in contents.items():
        driver.put_content(path, content)
    with pytest.raises((NotADirectory, NotAFile)):
        driver.move(source, target)
    files = [info.path for info in walk(driver, "/") if not info.is_dir]
    assert {path: content_of(driver, path) for path in files} == contents


def test_directory_is_not_a_file(driver: StorageDriver) -> None:
    driver.put_content("/d/a", b"")
    acts: list[Act] = [
        lambda driver, path: driver.open(path),
        content_of,
        lambda driver, path: driver.read_at(path, 0, 1),
        lambda driver, path: driver.append(path),
        lambda driver, path: driver.move(path, "/new"),
    ]
    for act in acts:
        with pytest.raises(NotAFile):
            act(driver, "/d")


@pytest.mark.parametrize(
    "act",
    [
        lambda driver, path: driver.put_content(path, b"content"),
        lambda driver, path: driver.create(path),
        lambda driver, path: driver.move("/file", path),
        lambda driver, path: driver.move(f"{path}/a", path),
    ],
    ids=["put_content", "create", "move to", "move up to"],
)
def test_directory_does_not_become_a_file(driver_with_directories: StorageDriver, act: Act) -> None:
    driver_with_directories.put_content("/d/a", b"")
    driver_with_directories.put_content("/file", b"")
    with pytest.raises(NotAFile):
        act(driver_with_directories, "/d")


@pytest.mark.parametrize("path", ["/file/below", "/file/far/below"])
@pytest.mark.parametrize(
    "act",
    [
        lambda driver, path: driver.put_content(path, b"content"),
        lambda driver, path: driver.create(path),
    ],
    ids=["put_content", "create"],
)
def test_file_is_not_a_directory(
    driver_with_directories: StorageDriver, act: Act, path: str
) -> None:
    driver_with_directories.put_content("/file", b"")
    with pytest.raises(NotADirectory):
        act(driver_with_directories, path)


@pytest.mark.parametrize("path", ["/d", "/d/a/below"])
@pytest.mark.parametrize(
    "act",
    [
        lambda driver, path: driver.put_content(path, b"content"),
        lambda driver, path: driver.create(path),
    ],
    ids=["put_content", "create"],
)
def test_refused_change_leaves_what_is_there(
    driver_with_directories: StorageDriver, act: Act, path: str
) -> None:
    driver_with_directories.put_content("/d/a", b"kept")
    with pytest.raises((NotAFile, NotADirectory)):
        act(driver_with_directories, path)
    assert {info.path for info in walk(driver_with_directories, "/")} == {"/d", "/d/a"}


def test_deleted_file_is_gone_and_no_longer_listed(driver: StorageDriver) -> None:
    driver.put_content("/d/a", b"")
    driver.put_content("/d/b", b"")
    driver.delete("/d/a")
    assert missing_path(content_of, driver, "/d/a") == "/d/a"
    assert [entry.name for entry in driver.listdir("/d")] == ["b"]


def test_deleted_file_can_be_made_again(driver: StorageDriver) -> None:
    driver.put_content("/a", b"old")
    driver.delete("/a")
    driver.put_content("/a", b"new")
    assert content_of(driver, "/a") == b"new"


def test_delete_of_a_missing_path_tells_which(driver: StorageDriver) -> None:
    driver.put_content("/d/file", b"")
    for path in MISSING:
        assert missing_path(driver.delete, path) == path


def test_delete_removes_a_directory_and_all_below_it(driver: StorageDriver) -> None:
    for path in ("/d/a", "/d/b", "/d/e/f/c"):
        driver.put_content(path, b"")
    driver.delete("/d")
    assert driver.stat_many(["/d", "/d/a", "/d/b", "/d/e", "/d/e/f/c"]) == [None] * 5


def test_delete_of_a_directory_leaves_the_one_above(driver: StorageDriver) -> None:
    driver.put_content("/d/e/a", b"")
    driver.put_content("/d/f", b"kept")
    driver.delete("/d/e")
    assert content_of(driver, "/d/f") == b"kept"


@pytest.mark.parametrize("deleted", ["/d/a", "/d/e"], ids=["file", "directory"])
def test_delete_leaves_siblings_that_share_a_prefix(driver: StorageDriver, deleted: str) -> None:
    for path in ("/d/a", "/d/ab", "/d/a-b", "/d/e/f", "/d/ee", "/d/e-e/f"):
        driver.put_content(path, b"")
    driver.delete(deleted)
    files = {info.path for info in walk(driver, "/") if not info.is_dir}
    expected = {"/d/a", "/d/ab", "/d/a-b", "/d/e/f", "/d/ee", "/d/e-e/f"} - {deleted, "/d/e/f"}
    assert files == expected | ({"/d/e/f"} if deleted == "/d/a" else set())


def test_deleted_directory_can_become_a_file(driver: StorageDriver) -> None:
    driver.put_content("/d/e/a", b"")
    driver.delete("/d")
    driver.put_content("/d", b"file")
    assert content_of(driver, "/d") == b"file"


def test_deleted_file_can_become_a_directory(driver: StorageDriver) -> None:
    driver.put_content("/d", b"file")
    driver.delete("/d")
    driver.put_content("/d/a", b"below")
    assert content_of(driver, "/d/a") == b"below"


def test_delete_of_a_file_being_written_is_not_undone_by_its_writer(driver: StorageDriver) -> None:
    with driver.create("/a") as writer:
        writer.write(b"content")
        writer.flush()
        driver.delete("/a")
    with pytest.raises(PathNotFound):
        driver.stat("/a")
