"""A storage's directory that is removed, restored or replaced while a driver holds it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import BlobfsError, PathNotFound, StorageUnavailable
from tests.support.files import content_of, walk

Act = Callable[[StorageDriver], object]
Loss = Callable[[Path], object]

READS: dict[str, Act] = {
    "stat": lambda driver: driver.stat("/d/missing"),
    "stat_many": lambda driver: driver.stat_many(["/d/missing"]),
    "listdir": lambda driver: list(driver.listdir("/d")),
    "listdir of the root": lambda driver: list(driver.listdir("/")),
    "walk": lambda driver: list(walk(driver, "/d")),
    "open": lambda driver: driver.open("/d/missing"),
    "read_at": lambda driver: driver.read_at("/d/missing", 0, 1),
    "stat of the root": lambda driver: driver.stat("/"),
}
CHANGES: dict[str, Act] = {
    "put_content": lambda driver: driver.put_content("/d/new", b""),
    "create": lambda driver: driver.create("/d/new"),
    "append": lambda driver: driver.append("/d/a"),
    "move": lambda driver: driver.move("/d/a", "/d/b"),
    "delete": lambda driver: driver.delete("/d/a"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d/a").write_bytes(b"old")
    return root


@pytest.fixture
def driver(root: Path) -> Iterator[StorageDriver]:
    driver = BaseDriver(FilesystemDriver.below(root))
    yield driver
    driver.close()


def _moved_away(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


def _replaced_by_a_file(root: Path) -> None:
    _moved_away(root)
    root.touch()


def _restored(root: Path) -> None:
    """Move the directory away, and put another one in its place."""
    _moved_away(root)
    (root / "d").mkdir(parents=True)
    (root / "d/a").write_bytes(b"new")
    (root / "d/also").touch()


@pytest.mark.parametrize("act", (READS | CHANGES).values(), ids=READS | CHANGES)
@pytest.mark.parametrize("loss", [shutil.rmtree, _moved_away, _replaced_by_a_file])
def test_root_that_is_gone_is_no_empty_one(
    driver: StorageDriver, root: Path, loss: Loss, act: Act
) -> None:
    """[S4.4] A storage's directory that was moved, removed or unmounted is EIO."""
    loss(root)
    with pytest.raises(StorageUnavailable, match="restore or mount it"):
        act(driver)


@pytest.mark.parametrize("act", READS.values(), ids=READS)
def test_root_that_is_back_is_read(driver: StorageDriver, root: Path, act: Act) -> None:
    """[S4.4] As soon as something is at the path again, that is shown."""
    _moved_away(root)
    with pytest.raises(StorageUnavailable):
        act(driver)
    root.with_name("elsewhere").rename(root)
    try:
        act(driver)
    except BlobfsError as exc:
        assert isinstance(exc, PathNotFound)  # noqa: PT017  (some of them ask for what is not there)


def test_another_root_at_the_same_path_is_read(driver: StorageDriver, root: Path) -> None:
    """[S4.4] As soon as something is at the path again, that is shown."""
    _restored(root)
    assert sorted(entry.name for entry in driver.listdir("/d")) == ["a", "also"]
    assert content_of(driver, "/d/a") == b"new"


def test_name_that_only_the_new_root_has_is_found(driver: StorageDriver, root: Path) -> None:
    """[S4.4] As soon as something is at the path again, that is shown."""
    _restored(root)
    assert driver.stat("/d/also").size == 0


@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES)
def test_changes_go_to_the_directory_that_the_path_names(
    driver: StorageDriver, root: Path, act: Act
) -> None:
    """[S4.4] As soon as something is at the path again, that is shown and written to."""
    _restored(root)
    elsewhere = root.with_name("elsewhere")
    before = sorted(elsewhere.rglob("*"))
    act(driver)
    assert sorted(elsewhere.rglob("*")) == before


def test_open_file_keeps_its_bytes(driver: StorageDriver, root: Path) -> None:
    """[S4.4] Files that are open keep their bytes."""
    with driver.open("/d/a") as reader:
        _restored(root)
        list(driver.listdir("/"))
        assert reader.read_at(0, 3) == b"old"
