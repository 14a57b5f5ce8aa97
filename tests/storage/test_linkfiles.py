"""Links that a registry truncates and then writes, and links written over whatever is there."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobfs.concurrency import TakesLong, waiting
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import LinkInvalid, PathNotFound
from blobfs.storage.linkfiles import read_link, write_link
from tests.support.watched_driver import WatchedDriver

DIGEST = Digest.of(b"the target")
LINK = "/link"
LONG_AGO = 1_700_000_000


@pytest.fixture
def link(tmp_path: Path) -> Path:
    return tmp_path / "link"


@pytest.fixture
def local(tmp_path: Path) -> Iterator[StorageDriver]:
    driver = BaseDriver(FilesystemDriver.below(tmp_path))
    yield driver
    driver.close()


def _at_the_second_reading(driver: StorageDriver, act: Callable[[], object]) -> StorageDriver:
    readings: list[str] = []

    def on_open(path: str) -> None:
        readings.append(path)
        if len(readings) == 2:
            act()

    return WatchedDriver(driver, on_open)


SHORT = pytest.mark.parametrize(
    "content", [b"", b"sha256:", str(DIGEST).encode()[:-1], b"sha512:" + b"0" * 127]
)


@SHORT
def test_link_that_is_being_written_is_read_again(
    local: StorageDriver, link: Path, content: bytes
) -> None:
    link.write_bytes(content)
    driver = _at_the_second_reading(local, lambda: link.write_text(str(DIGEST)))
    assert read_link(driver, LINK) == DIGEST


def test_link_that_goes_while_it_is_read_again_is_gone(local: StorageDriver, link: Path) -> None:
    link.touch()
    with pytest.raises(PathNotFound):
        read_link(_at_the_second_reading(local, link.unlink), LINK)


@SHORT
def test_link_that_stays_short_is_damaged_in_a_moment(
    local: StorageDriver, link: Path, content: bytes
) -> None:
    link.write_bytes(content)
    began = time.monotonic()
    with pytest.raises(LinkInvalid, match="not a digest"):
        read_link(local, LINK)
    assert 0.05 <= time.monotonic() - began < 2


@pytest.mark.parametrize("mtime", [LONG_AGO, 2 * LONG_AGO], ids=["old", "in the future"])
def test_short_link_that_is_not_young_is_read_once(
    local: StorageDriver, link: Path, mtime: int
) -> None:
    link.touch()
    os.utime(link, (mtime, mtime))
    readings: list[str] = []
    with pytest.raises(LinkInvalid):
        read_link(WatchedDriver(local, readings.append), LINK)
    assert readings == [LINK]


@pytest.mark.parametrize("content", [b"x" * 71, str(DIGEST).encode() + b"\n"])
def test_link_that_is_long_enough_is_read_once(
    local: StorageDriver, link: Path, content: bytes
) -> None:
    link.write_bytes(content)
    readings: list[str] = []
    with pytest.raises(LinkInvalid):
        read_link(WatchedDriver(local, readings.append), LINK)
    assert readings == [LINK]


def test_thread_that_must_not_wait_gets_an_error_at_once(local: StorageDriver, link: Path) -> None:
    link.touch()
    readings: list[str] = []
    with pytest.raises(TakesLong), waiting:
        read_link(WatchedDriver(local, readings.append), LINK)
    assert readings == [LINK]


def test_other_threads_wait_all_the_same(local: StorageDriver, link: Path) -> None:
    link.touch()
    driver = _at_the_second_reading(local, lambda: link.write_text(str(DIGEST)))
    found: list[Digest] = []
    with waiting:
        thread = threading.Thread(target=lambda: found.append(read_link(driver, LINK)))
        thread.start()
        thread.join()
    assert found == [DIGEST]


def _directory(link: Path) -> None:
    (link / "below").mkdir(parents=True)


def _symlink(link: Path) -> None:
    link.symlink_to("/etc/hostname")


@pytest.mark.parametrize("make", [Path.touch, _directory, _symlink])
def test_link_is_written_over_what_is_there(
    local: StorageDriver, link: Path, make: Callable[[Path], None]
) -> None:
    make(link)
    write_link(local, LINK, DIGEST)
    assert not link.is_symlink()
    assert link.read_text() == str(DIGEST)
