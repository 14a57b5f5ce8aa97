"""Symlinks in a local directory are never followed, wherever they lead."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from blobfs.drivers import openat2 as beneath
from blobfs.drivers.base import DirEntry, StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.openat2 import Opener
from blobfs.errors import AccessDenied, BlobfsError
from tests.support.files import content_of, walk

Act = Callable[[StorageDriver, str], object]


def _write(driver: StorageDriver, path: str) -> None:
    with driver.create(path) as writer:
        writer.write(b"written")
        writer.commit()


def _append(driver: StorageDriver, path: str) -> None:
    with driver.append(path) as writer:
        writer.write(b"appended")
        writer.commit()


def _cancel(driver: StorageDriver, path: str) -> None:
    with driver.create(path) as writer:
        writer.cancel()


READS: dict[str, Act] = {
    "stat": lambda driver, path: driver.stat(path),
    "open": lambda driver, path: driver.open(path),
    "get_content": content_of,
    "read_at": lambda driver, path: driver.read_at(path, 0, 1),
    "move from": lambda driver, path: driver.move(path, "/moved"),
}
LISTS: dict[str, Act] = {
    "listdir": lambda driver, path: driver.listdir(path),
    "walk": lambda driver, path: list(walk(driver, path)),
}
WRITES: dict[str, Act] = {"create": _write, "append": _append, "cancel": _cancel}
REPLACES: dict[str, Act] = {
    "put_content": lambda driver, path: driver.put_content(path, b"put"),
    "move to": lambda driver, path: driver.move("/file", path),
    "delete": lambda driver, path: driver.delete(path),
}
ALL = READS | LISTS | WRITES | REPLACES

each_link = pytest.mark.parametrize(
    "link", ["absolute", "relative", "dangling", "chained", "directory", "absolute-directory"]
)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    outside = tmp_path / "outside"
    (outside / "directory").mkdir(parents=True)
    (outside / "directory/file").write_bytes(b"not ours")
    (outside / "file").write_bytes(b"not ours")
    yield outside
    found = {
        str(path.relative_to(outside)): path.is_file() and path.read_bytes()
        for path in outside.rglob("*")
    }
    assert found == {
        "file": b"not ours",
        "directory": False,
        "directory/file": b"not ours",
    }


@pytest.fixture
def root(outside: Path) -> Path:
    root = outside.parent / "root"
    (root / "d").mkdir(parents=True)
    (root / "file").write_bytes(b"ours")
    (root / "d/file").write_bytes(b"ours, deeper")
    (root / "absolute").symlink_to(outside / "file")
    (root / "relative").symlink_to("../outside/file")
    (root / "dangling").symlink_to("../outside/new")
    (root / "chained").symlink_to("relative")
    (root / "directory").symlink_to("../outside/directory")
    (root / "absolute-directory").symlink_to(outside / "directory")
    return root


@pytest.fixture(params=[beneath.openat2, beneath.open_by_component], ids=["openat2", "components"])
def driver(request: pytest.FixtureRequest, root: Path) -> Iterator[StorageDriver]:
    """A driver that opens files in the one way and in the other."""
    opener: Opener = request.param
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    driver = BaseDriver(FilesystemDriver(root, fd, opener, is_local=True))
    yield driver
    driver.close()


@each_link
@pytest.mark.parametrize("act", (READS | WRITES).values(), ids=READS | WRITES)
def test_symlink_that_leads_out_is_denied(driver: StorageDriver, act: Act, link: str) -> None:
    with pytest.raises(AccessDenied):
        act(driver, f"/{link}")


@pytest.mark.parametrize("link", ["directory", "absolute-directory"])
@pytest.mark.parametrize("act", LISTS.values(), ids=LISTS)
def test_directory_that_leads_out_is_not_listed(driver: StorageDriver, act: Act, link: str) -> None:
    with pytest.raises(BlobfsError):
        act(driver, f"/{link}")


@pytest.mark.parametrize("link", ["directory", "absolute-directory"])
@pytest.mark.parametrize("name", ["file", "new", "new/deeper"])
@pytest.mark.parametrize("act", ALL.values(), ids=ALL)
def test_nothing_is_done_below_a_directory_that_leads_out(
    driver: StorageDriver, act: Act, name: str, link: str
) -> None:
    with pytest.raises(BlobfsError):
        act(driver, f"/{link}/{name}")


@each_link
@pytest.mark.parametrize("act", REPLACES.values(), ids=REPLACES)
def test_replacing_a_symlink_replaces_the_link_alone(
    driver: StorageDriver, root: Path, act: Act, link: str
) -> None:
    act(driver, f"/{link}")
    assert not (root / link).is_symlink()


def test_deleting_a_directory_removes_the_links_in_it_alone(
    driver: StorageDriver, root: Path
) -> None:
    for link in ("absolute", "relative", "dangling", "directory", "absolute-directory"):
        (root / link).rename(root / "d" / link)
    driver.delete("/d")
    assert not (root / "d").exists()


def test_listdir_lists_a_link_as_a_directory(driver: StorageDriver) -> None:
    links = {"absolute", "relative", "dangling", "chained", "directory", "absolute-directory"}
    assert set(driver.listdir("/")) == {
        DirEntry("d", True),
        DirEntry("file", False),
        *(DirEntry(link, True) for link in links),
    }


def test_no_race_between_a_directory_and_a_link_leads_out(
    driver: StorageDriver, root: Path
) -> None:
    finished = Event()

    def swap() -> None:
        while not finished.is_set():
            _exchange(root / "d", root / "directory")

    thread = Thread(target=swap)
    thread.start()
    try:
        for number in range(60):
            for act in (WRITES | REPLACES).values():
                for path in ("/d/file", f"/d/new/{number}"):
                    with suppress(BlobfsError):
                        act(driver, path)
    finally:
        finished.set()
        thread.join()


def _exchange(one: Path, other: Path) -> None:
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    ctypes.CDLL(None).renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange)


@pytest.mark.parametrize(
    "path", ["/..", "/../outside", "/../outside/file", "/d/../../outside/file"]
)
@pytest.mark.parametrize("act", ALL.values(), ids=ALL)
def test_path_that_climbs_out_is_denied_even_unchecked(root: Path, act: Act, path: str) -> None:
    driver = FilesystemDriver.below(root)
    with pytest.raises(AccessDenied):
        act(driver, path)
    driver.close()


@pytest.mark.parametrize("act", (READS | WRITES).values(), ids=READS | WRITES)
@pytest.mark.parametrize("path", ["/to-file", "/to-directory/file"])
def test_symlink_that_stays_inside_is_not_followed_either(
    driver: StorageDriver, root: Path, act: Act, path: str
) -> None:
    (root / "to-file").symlink_to("d/file")
    (root / "to-directory").symlink_to("d")
    with pytest.raises(BlobfsError):
        act(driver, path)
    assert (root / "d/file").read_bytes() == b"ours, deeper"


def test_walk_passes_symlinks_by(driver: StorageDriver, root: Path) -> None:
    (root / "d/loop").symlink_to(".")
    assert [info.path for info in walk(driver, "/")] == ["/d", "/d/file", "/file"]
