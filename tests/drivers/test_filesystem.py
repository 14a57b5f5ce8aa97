"""What the filesystem driver promises beyond the contract of all drivers."""

import os
import signal
import socket
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from blobfs.drivers import openat2 as beneath
from blobfs.drivers.base import DirEntry, StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.capacity import capacity_of
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    NotAFile,
    PathNotFound,
    StorageUnavailable,
)
from tests.support.files import content_of, walk
from tests.support.services import cannot

Act = Callable[[StorageDriver, str], object]

MEMORY = Path("/dev/shm")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[StorageDriver]:
    driver = BaseDriver(FilesystemDriver.below(tmp_path))
    yield driver
    driver.close()


@pytest.fixture
def in_time() -> Iterator[None]:
    """Ends a test that hangs: what it tests must not wait."""

    def end(_number: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_path_is_a_file_of_that_name_below_the_root(driver: StorageDriver, tmp_path: Path) -> None:
    driver.put_content("/d/e/a", b"content")
    assert (tmp_path / "d/e/a").read_bytes() == b"content"


def test_root_is_kept_when_it_is_renamed(driver: StorageDriver, tmp_path: Path) -> None:
    driver.put_content("/a", b"content")
    tmp_path.rename(tmp_path.with_name("renamed"))
    assert content_of(driver, "/a") == b"content"


def test_root_may_itself_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to("root")
    driver = FilesystemDriver.below(tmp_path / "link")
    driver.put_content("/a", b"content")
    driver.close()
    assert (tmp_path / "root/a").read_bytes() == b"content"


@pytest.mark.parametrize("name", ["missing", "file", "file/below", "n" * 256])
def test_root_that_is_no_directory_is_not_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PathNotFound, match=name):
        FilesystemDriver.below(tmp_path / name)


def test_close_twice_does_no_harm(tmp_path: Path) -> None:
    driver = FilesystemDriver.below(tmp_path)
    driver.close()
    driver.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda driver: driver.put_content("/d/a", b""),
        lambda driver: driver.create("/d/a").close(),
    ],
    ids=["put_content", "create"],
)
@pytest.mark.parametrize(
    ("above", "directory", "file"),
    [(0o755, 0o755, 0o644), (0o2775, 0o2775, 0o664), (0o750, 0o750, 0o640), (0o1777, 0o777, 0o666)],
)
def test_new_files_and_directories_have_the_mode_of_their_directory(  # noqa: PLR0917
    driver: StorageDriver,
    tmp_path: Path,
    make: Callable[[StorageDriver], None],
    above: int,
    directory: int,
    file: int,
) -> None:
    """[S5.5] Directories all of its mode but the sticky bit, files what it allows to read and
    write.
    """
    tmp_path.chmod(above)
    make(driver)
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == directory
    assert stat.S_IMODE((tmp_path / "d/a").stat().st_mode) == file


def test_another_driver_goes_on_with_what_a_writer_closed(tmp_path: Path) -> None:
    one, other = FilesystemDriver.below(tmp_path), FilesystemDriver.below(tmp_path)
    with one.create("/a") as writer:
        writer.write(b"first")
    one.close()
    with other.append("/a") as writer:
        writer.write(b"second")
        writer.commit()
    assert content_of(other, "/a") == b"firstsecond"
    other.close()


def test_size_of_a_file_that_an_open_reader_has_is_as_it_was(
    driver: StorageDriver, tmp_path: Path
) -> None:
    driver.put_content("/a", b"content")
    with driver.open("/a") as reader, (tmp_path / "a").open("ab") as file:
        file.write(b" and more")
        assert reader.size == 7


@pytest.mark.parametrize(
    "change",
    [
        lambda driver: driver.delete("/d/a"),
        lambda driver: driver.delete("/d"),
        lambda driver: driver.move("/d/a", "/b"),
        lambda driver: driver.put_content("/d/a", b"new"),
        lambda driver: driver.move("/other", "/d/a"),
    ],
    ids=["deleted", "directory deleted", "moved", "replaced", "moved over"],
)
def test_open_file_stays_readable(
    driver: StorageDriver, change: Callable[[StorageDriver], None]
) -> None:
    driver.put_content("/other", b"other")
    driver.put_content("/d/a", b"content")
    with driver.open("/d/a") as reader:
        change(driver)
        assert reader.read_at(0, 100) == b"content"


@pytest.mark.parametrize("act", ["listdir", "walk"])
def test_temporaries_of_another_writer_are_not_listed(
    driver: StorageDriver, tmp_path: Path, act: str
) -> None:
    driver.put_content("/link", b"")
    (tmp_path / f"link.{uuid.uuid4()}.tmp").touch()
    names = {
        "listdir": lambda: [entry.name for entry in driver.listdir("/")],
        "walk": lambda: [info.path[1:] for info in walk(driver, "/")],
    }
    assert names[act]() == ["link"]


@pytest.mark.parametrize(
    "name", ["a.tmp", f".{uuid.UUID(int=1)}.tmp", f"a.{uuid.UUID(int=1)}.tmp.gz", "a.0000-1.tmp"]
)
def test_files_that_only_resemble_temporaries_are_listed(driver: StorageDriver, name: str) -> None:
    driver.put_content(f"/{name}", b"")
    assert list(driver.listdir("/")) == [DirEntry(name, False)]


def test_directory_with_the_name_of_a_temporary_is_listed(driver: StorageDriver) -> None:
    """A repository or a tag may have such a name."""
    name = f"v1.{uuid.UUID(int=1)}.tmp"
    driver.put_content(f"/{name}/link", b"")
    assert list(driver.listdir("/")) == [DirEntry(name, True)]


def test_name_of_255_bytes_can_be_put(driver: StorageDriver) -> None:
    driver.put_content("/" + "n" * 255, b"content")
    assert content_of(driver, "/" + "n" * 255) == b"content"


TOO_LONG: dict[str, Act] = {
    "stat": lambda driver, path: driver.stat(path),
    "listdir": lambda driver, path: driver.listdir(path),
    "open": lambda driver, path: driver.open(path).close(),
    "put_content": lambda driver, path: driver.put_content(path, b""),
    "create": lambda driver, path: driver.create(path).close(),
    "append": lambda driver, path: driver.append(path).close(),
    "move from": lambda driver, path: driver.move(path, "/b"),
    "move to": lambda driver, path: driver.move("/a", path),
    "delete": lambda driver, path: driver.delete(path),
}


@pytest.mark.parametrize(
    "path",
    ["/" + "n" * 256, f"/{'n' * 256}/a", "/a" * 3000],
    ids=["name", "directory", "path"],
)
@pytest.mark.parametrize("act", TOO_LONG.values(), ids=TOO_LONG)
def test_path_that_is_too_long_is_not_found(driver: StorageDriver, act: Act, path: str) -> None:
    driver.put_content("/a", b"")
    with pytest.raises(PathNotFound):
        act(driver, path)


def test_name_that_is_too_long_to_put_leaves_no_temporary(
    driver: StorageDriver, tmp_path: Path
) -> None:
    with suppress(PathNotFound):
        driver.put_content("/" + "n" * 256, b"")
    assert os.listdir(tmp_path) == []


FILES_ONLY: dict[str, Act] = {
    "open": lambda driver, path: driver.open(path),
    "get_content": content_of,
    "create": lambda driver, path: driver.create(path),
    "append": lambda driver, path: driver.append(path),
}


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("act", FILES_ONLY.values(), ids=FILES_ONLY)
def test_fifo_is_no_file_and_holds_nobody_up(
    driver: StorageDriver, tmp_path: Path, act: Act
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotAFile):
        act(driver, "/fifo")


@pytest.mark.parametrize("act", FILES_ONLY.values(), ids=FILES_ONLY)
def test_fifo_that_somebody_has_open_is_no_file(
    driver: StorageDriver, tmp_path: Path, act: Act
) -> None:
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path / "fifo", os.O_RDWR)
    with pytest.raises(NotAFile):
        act(driver, "/fifo")
    os.close(fd)


@pytest.mark.parametrize("act", FILES_ONLY.values(), ids=FILES_ONLY)
def test_socket_is_no_file(driver: StorageDriver, tmp_path: Path, act: Act) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(NotAFile):
            act(driver, "/socket")


@pytest.mark.usefixtures("in_time")
def test_fifo_can_be_deleted(driver: StorageDriver, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    driver.delete("/fifo")
    assert os.listdir(tmp_path) == []


def test_capacity_is_what_statvfs_tells(driver: StorageDriver, tmp_path: Path) -> None:
    before = after = os.statvfs(tmp_path)
    capacity = capacity_of(driver)
    for _ in range(1000):
        before, capacity, after = os.statvfs(tmp_path), capacity_of(driver), os.statvfs(tmp_path)
        if before == after:
            break
    assert before == after, "somebody else keeps on writing"
    assert capacity is not None
    assert capacity.size == before.f_blocks * before.f_frsize
    assert capacity.free == before.f_bfree * before.f_frsize
    assert capacity.available == before.f_bavail * before.f_frsize
    assert (capacity.files, capacity.files_free) == (before.f_files, before.f_ffree)


def test_directory_of_this_machine_is_local(tmp_path: Path) -> None:
    driver = FilesystemDriver.below(tmp_path)
    assert driver.is_local
    driver.close()


def test_file_system_in_memory_is_local() -> None:
    if not MEMORY.is_mount():
        cannot(f"there is no file system at {MEMORY}")
    driver = FilesystemDriver.below(MEMORY)
    assert driver.is_local
    driver.close()


FORBIDDEN: dict[str, Act] = {
    "stat": lambda driver, path: driver.stat(f"{path}/a"),
    "listdir": lambda driver, path: driver.listdir(path),
    "walk": lambda driver, path: list(walk(driver, "/")),
    "open": lambda driver, path: driver.open(f"{path}/a").close(),
    "put_content": lambda driver, path: driver.put_content(f"{path}/b", b""),
    "create": lambda driver, path: driver.create(f"{path}/b").close(),
    "append": lambda driver, path: driver.append(f"{path}/a").close(),
    "move": lambda driver, path: driver.move(f"{path}/a", "/b"),
    "delete": lambda driver, path: driver.delete(f"{path}/a"),
    "delete all": lambda driver, path: driver.delete(path),
}


@pytest.fixture
def forbidden(driver: StorageDriver, tmp_path: Path) -> Iterator[StorageDriver]:
    driver.put_content("/d/a", b"content")
    (tmp_path / "d").chmod(0)
    yield driver
    (tmp_path / "d").chmod(0o700)


@pytest.fixture
def unprivileged(forbidden: StorageDriver) -> Iterator[None]:
    """Takes root's powers away, for a while: it could read and write what is forbidden."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


@pytest.mark.usefixtures("unprivileged")
@pytest.mark.parametrize("act", FORBIDDEN.values(), ids=FORBIDDEN)
def test_directory_without_permission_is_denied(forbidden: StorageDriver, act: Act) -> None:
    with pytest.raises(AccessDenied):
        act(forbidden, "/d")


def _tour(driver: StorageDriver) -> None:
    """Every operation, and every operation failing."""
    driver.put_content("/d/e/a", b"content")
    driver.put_content("/f/a", b"content")
    with driver.create("/f/b") as writer:
        writer.write(b"content")
    with driver.append("/f/b") as writer:
        writer.cancel()
    driver.create("/f/c").commit()
    with driver.open("/f/a") as reader:
        reader.read_at(0, 1)
    driver.move("/f/c", "/g/a")
    driver.stat_many(["/f/a", "/nowhere"])
    next(driver.listdir("/"))
    next(walk(driver, "/"))
    capacity_of(driver)
    paths = ["/d", "/d/e/a/below", "/nowhere", "/nowhere/at/all", "/fifo", "/link", "/link/a"]
    for act in (TOO_LONG | FORBIDDEN).values():
        for path in [*paths, "/" + "n" * 256]:
            with suppress(BlobfsError):
                act(driver, path)


@pytest.mark.usefixtures("no_descriptor_left_open")
def test_no_operation_leaves_a_descriptor_open(driver: StorageDriver, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    os.mkfifo(tmp_path / "fifo")
    _tour(driver)


@pytest.mark.usefixtures("no_descriptor_left_open")
def test_driver_that_cannot_be_made_leaves_no_descriptor_open(tmp_path: Path) -> None:
    with pytest.raises(PathNotFound):
        FilesystemDriver.below(tmp_path / "missing")


@pytest.mark.parametrize(("is_local", "now"), [(True, b"ello"), (False, None)])
def test_file_of_this_machine_is_read_on_the_event_loop(
    tmp_path: Path, is_local: bool, now: bytes | None
) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    driver = FilesystemDriver(tmp_path, fd, beneath.opener(fd), is_local=is_local)
    with closing(driver), driver.open("/a") as reader:
        assert reader.read_nowait(1, 10) == now


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_readers_of_one_file_share_a_descriptor(driver: StorageDriver) -> None:
    driver.put_content("/x", b"content")
    before = _descriptors()
    readers = [driver.open("/x") for _ in range(50)]
    assert _descriptors() == before + 1
    for reader in readers[:-1]:
        reader.close()
    assert readers[-1].read_at(0, 100) == b"content"
    readers[-1].close()
    assert _descriptors() == before


def test_file_that_was_replaced_has_a_descriptor_of_its_own(driver: StorageDriver) -> None:
    driver.put_content("/x", b"old")
    with driver.open("/x") as old:
        driver.put_content("/x", b"newer")
        with driver.open("/x") as new:
            assert (old.read_at(0, 9), new.read_at(0, 9)) == (b"old", b"newer")


def test_file_that_is_gone_is_not_opened_by_a_descriptor_that_is_held(
    driver: StorageDriver,
) -> None:
    driver.put_content("/x", b"content")
    with driver.open("/x"):
        driver.delete("/x")
        with pytest.raises(PathNotFound):
            driver.open("/x")


def test_reader_that_is_closed_reads_nothing_though_others_have_the_file_open(
    driver: StorageDriver,
) -> None:
    driver.put_content("/x", b"content")
    with driver.open("/x"):
        reader = driver.open("/x")
        reader.close()
        reader.close()
        with pytest.raises(StorageUnavailable):
            reader.read_at(0, 1)


def test_reader_that_is_dropped_closes_its_descriptor(driver: StorageDriver) -> None:
    driver.put_content("/x", b"content")
    before = _descriptors()
    driver.open("/x")
    assert _descriptors() == before


def test_what_is_no_file_leaves_no_descriptor(driver: StorageDriver) -> None:
    driver.put_content("/d/x", b"content")
    before = _descriptors()
    with pytest.raises(NotAFile):
        driver.open("/d")
    assert _descriptors() == before
