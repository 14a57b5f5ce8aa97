"""What every driver does with directories that hold no files. Never edited for one of them."""

from blobfs.drivers.base import StorageDriver
from tests.support.files import MISSING, content_of, walk


def _emptied(driver: StorageDriver, *files: str) -> None:
    """Leave the directories of *files* without them, where the driver keeps such directories."""
    for file in files:
        driver.put_content(file, b"")
        driver.delete(file)


def _files(driver: StorageDriver) -> set[str]:
    return {info.path for info in walk(driver, "/") if not info.is_dir}


def test_prune_removes_an_emptied_directory(driver: StorageDriver) -> None:
    _emptied(driver, "/d/e/a")
    driver.prune("/d/e")
    assert driver.stat_many(["/d/e"]) == [None]


def test_prune_removes_the_emptied_directories_below(driver: StorageDriver) -> None:
    _emptied(driver, "/d/a", "/d/e/a", "/d/e/f/a", "/d/g/a")
    driver.prune("/d")
    assert list(driver.listdir("/")) == []


def test_prune_leaves_every_file(driver: StorageDriver) -> None:
    files = {"/d/a", "/d/e/f/a", "/d/g/h"}
    for file in files:
        driver.put_content(file, b"")
    driver.prune("/d")
    assert _files(driver) == files


def test_prune_of_a_directory_with_a_file_removes_the_emptied_ones_below(
    driver: StorageDriver,
) -> None:
    driver.put_content("/d/kept/a", b"")
    _emptied(driver, "/d/gone/e/a", "/d/kept/gone/a")
    driver.prune("/d")
    assert driver.stat_many(["/d/gone", "/d/kept/gone"]) == [None, None]
    assert _files(driver) == {"/d/kept/a"}


def test_prune_leaves_siblings_that_share_a_prefix(driver: StorageDriver) -> None:
    driver.put_content("/de/a", b"")
    _emptied(driver, "/d/a")
    driver.prune("/d")
    assert _files(driver) == {"/de/a"}


def test_prune_of_a_missing_directory_does_nothing(driver: StorageDriver) -> None:
    driver.put_content("/d/file", b"")
    for path in MISSING:
        driver.prune(path)
    assert _files(driver) == {"/d/file"}


def test_prune_of_a_file_leaves_it(driver: StorageDriver) -> None:
    driver.put_content("/d/a", b"content")
    driver.prune("/d/a")
    assert content_of(driver, "/d/a") == b"content"


def test_pruned_directory_can_be_filled_again(driver: StorageDriver) -> None:
    _emptied(driver, "/d/e/a")
    driver.prune("/d")
    driver.put_content("/d/e/a", b"content")
    assert content_of(driver, "/d/e/a") == b"content"


def test_prune_leaves_a_file_that_is_being_written(driver: StorageDriver) -> None:
    with driver.create("/d/a") as writer:
        driver.prune("/d")
        writer.write(b"content")
        writer.commit()
    assert content_of(driver, "/d/a") == b"content"
