"""The store of indexes: one builder over processes, checksums, eviction, and hostile content."""

import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from blobfs.concurrency import TakesLong, waiting
from blobfs.digest import Digest
from blobfs.errors import AccessDenied, LayerInvalid, StorageFull
from blobfs.images.index_store import IndexStore, Make
from blobfs.images.stored_file import TRAILER_SIZE
from tests.support.services import cannot, run

ONE: Final = Digest.of(b"1")
TWO: Final = Digest.of(b"2")
THREE: Final = Digest.of(b"3")

_OTHER_PROCESS: Final = """
import sys, time
from pathlib import Path
from blobfs.digest import Digest
from blobfs.images.index_store import IndexStore

directory, log, seconds = sys.argv[1:]

def make(path):
    path.write_bytes(b"begun")
    with open(log, "a") as file:
        file.write("made\\n")
    print("making", flush=True)
    time.sleep(float(seconds))
    path.write_bytes(b"content")

file = IndexStore(Path(directory), 10**6).open("layer", Digest.of(b"1"), make)
print(file.read_at(0, 100).decode(), flush=True)
sys.stdin.read()
"""


class Maker:
    """Makes files of a content, and counts them."""

    def __init__(self, content: bytes = b"content") -> None:
        self.content = content
        self.made = 0

    def __call__(self, path: Path) -> None:
        self.made += 1
        path.write_bytes(self.content)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "indexes"


@pytest.fixture
def store(directory: Path) -> IndexStore:
    return IndexStore(directory, 10**6)


def _content(store: IndexStore, key: Digest, make: Make) -> bytes:
    with store.open("layer", key, make) as file:
        return file.read_at(0, file.size + 100)


def _path(store: IndexStore, key: Digest) -> Path:
    with store.open("layer", key, Maker()) as file:
        return file.path


def _keep_open(directory: Path, log: Path, seconds: float = 0.0) -> "subprocess.Popen[str]":
    command = (sys.executable, "-c", _OTHER_PROCESS, directory, log, str(seconds))
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_file_is_made_once_and_kept(store: IndexStore, directory: Path) -> None:
    make = Maker()
    assert _content(store, ONE, make) == b"content"
    assert _content(store, ONE, make) == b"content"
    assert _content(IndexStore(directory, 10**6), ONE, make) == b"content"
    assert make.made == 1
    assert store.find("layer", TWO) is None
    assert store.used() == len(b"content") + TRAILER_SIZE


def test_kinds_and_digests_are_apart(store: IndexStore) -> None:
    with store.open("layer", ONE, Maker(b"a")) as a, store.open("tree", ONE, Maker(b"b")) as b:
        assert (a.read_at(0, 9), b.read_at(0, 9)) == (b"a", b"b")
    assert _content(store, TWO, Maker(b"c")) == b"c"


def test_read_ends_before_the_trailer(store: IndexStore) -> None:
    with store.open("layer", ONE, Maker(b"0123456789")) as file:
        assert [file.read_at(offset, 4) for offset in (0, 8, 10, 99)] == [b"0123", b"89", b"", b""]


def test_file_can_be_a_database(store: IndexStore) -> None:
    def make(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE t (a)")
            connection.executemany("INSERT INTO t VALUES (?)", [(bytes(50),)] * 5000)

    with store.open("tree", ONE, make) as file:
        uri = f"file:{file.path}?immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (5000,)


def test_failure_to_make_leaves_nothing(store: IndexStore, directory: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise LayerInvalid("no archive")

    with pytest.raises(LayerInvalid, match="no archive"):
        store.open("layer", ONE, fail)
    assert [path for path in directory.rglob("*") if path.is_file() and path.name != "lock"] == []
    assert _content(store, ONE, Maker()) == b"content"


@pytest.mark.parametrize("position", [0, 5, -1], ids=["start", "content", "trailer"])
def test_damaged_file_is_made_again(store: IndexStore, directory: Path, position: int) -> None:
    path = _path(store, ONE)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    make = Maker()
    assert _content(IndexStore(directory, 10**6), ONE, make) == b"content"
    assert make.made == 1


@pytest.mark.parametrize("size", [0, 5, 40])
def test_truncated_file_is_made_again(store: IndexStore, directory: Path, size: int) -> None:
    os.truncate(_path(store, ONE), size)
    assert IndexStore(directory, 10**6).find("layer", ONE) is None
    assert _content(store, ONE, Maker()) == b"content"


def test_file_of_another_name_is_made_again(store: IndexStore) -> None:
    path = _path(store, ONE)
    path.rename(path.with_name(path.name.replace(ONE.encoded, TWO.encoded)))
    assert store.find("layer", TWO) is None
    assert _content(store, TWO, Maker(b"two")) == b"two"


def _write_for_all(path: Path) -> None:
    path.write_bytes(b"content")
    path.chmod(0o666)


def test_hostile_directory_entries_count_as_missing(
    store: IndexStore, directory: Path, tmp_path: Path
) -> None:
    path = _path(store, ONE)
    outside = tmp_path / "outside"
    path.rename(outside)
    plants: tuple[Callable[[], object], ...] = (
        partial(path.symlink_to, outside),
        path.mkdir,
        partial(os.mkfifo, path),
        partial(_write_for_all, path),
    )
    for plant in plants:
        plant()
        (path.parent / "stranger").symlink_to("/nowhere")
        (path.parent.parent / "file").write_bytes(b"x")
        assert IndexStore(directory, 10**6).find("layer", ONE) is None
        assert _content(IndexStore(directory, 10**6), ONE, Maker()) == b"content"
        path.unlink()
        (path.parent / "stranger").unlink()
    assert outside.exists()


def test_file_of_another_user_counts_as_missing(store: IndexStore) -> None:
    if os.geteuid() != 0:
        cannot("only root can give a file away")
    os.chown(_path(store, ONE), 12345, 12345)
    assert store.find("layer", ONE) is None
    assert _content(store, ONE, Maker(b"ours")) == b"ours"


def test_directory_of_another_user_is_refused(store: IndexStore, directory: Path) -> None:
    if os.geteuid() != 0:
        cannot("only root can give a directory away")
    (directory / "v1").mkdir(parents=True)
    os.chown(directory / "v1", 12345, 12345)
    with pytest.raises(AccessDenied, match="--index-dir"):
        store.open("layer", ONE, Maker())


def test_least_recently_used_file_is_evicted(directory: Path) -> None:
    store = IndexStore(directory, 3000)
    paths = [_path_of(store, key) for key in (ONE, TWO)]
    os.utime(paths[0], ns=(5, 5))
    os.utime(paths[1], ns=(4, 4))
    store.open("layer", ONE, Maker()).close()  # it is used now
    store.open("layer", THREE, Maker(bytes(1000))).close()
    assert [path.exists() for path in paths] == [True, False]
    assert store.used() <= 3000


def _path_of(store: IndexStore, key: Digest) -> Path:
    with store.open("layer", key, Maker(bytes(1000))) as file:
        return file.path


def test_file_in_use_is_not_evicted(directory: Path) -> None:
    store = IndexStore(directory, 2000)
    with store.open("layer", ONE, Maker(bytes(1000))) as file:
        with pytest.raises(StorageFull, match=r"in use.*--index-size"):
            store.open("layer", TWO, Maker(bytes(1000)))
        assert file.path.exists()
    with store.open("layer", TWO, Maker(bytes(1000))) as other:
        assert other.size == 1000
    assert not file.path.exists()


def test_file_in_use_by_another_process_is_not_evicted(directory: Path, tmp_path: Path) -> None:
    with _keep_open(directory, tmp_path / "log") as process:
        assert (_line(process), _line(process)) == ("making", "content")
        store = IndexStore(directory, 1000)
        with pytest.raises(StorageFull, match="in use"):
            store.open("layer", TWO, Maker(bytes(900)))
        process.kill()
    assert _content(store, TWO, Maker(bytes(900))) == bytes(900)


def test_file_over_the_limit_is_refused(store: IndexStore) -> None:
    make = Maker(bytes(10**6))
    with pytest.raises(StorageFull, match="--index-size"):
        store.open("layer", ONE, make, size=2 * 10**6)
    assert make.made == 0
    with pytest.raises(StorageFull, match="--index-size"):
        store.open("layer", ONE, make)
    assert store.used() == 0


def test_two_processes_make_a_file_once(directory: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with _keep_open(directory, log, 0.5) as first, _keep_open(directory, log, 0.5) as second:
        for process in (first, second):
            output, _ = process.communicate("")
            assert output.endswith("content\n")
    assert log.read_text() == "made\n"


def test_threads_make_a_file_once(store: IndexStore) -> None:
    make = Maker()
    barrier = threading.Barrier(8)
    found = []

    def use() -> None:
        barrier.wait()
        found.append(_content(store, ONE, make))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, make.made) == ([b"content"] * 8, 1)


def test_process_that_is_killed_leaves_nothing(directory: Path, tmp_path: Path) -> None:
    with _keep_open(directory, tmp_path / "log", 60) as process:
        assert _line(process) == "making"
        process.send_signal(signal.SIGKILL)
    store = IndexStore(directory, 10**6)
    assert store.find("layer", ONE) is None
    assert _content(store, TWO, Maker(b"other")) == b"other"
    assert {path.name for path in (directory / "v1/building").iterdir()} == {"lock", "used"}


def test_eviction_by_threads_keeps_the_limit_and_the_contents(directory: Path) -> None:
    contents = {Digest.of(bytes([n])): random.Random(n).randbytes(1000) for n in range(20)}
    errors: list[object] = []

    def use(seed: int) -> None:
        store = IndexStore(directory, 8000)
        chance = random.Random(seed)
        errors.extend(
            key
            for key in chance.choices(list(contents), k=60)
            if _content(store, key, Maker(contents[key])) != contents[key] or store.used() > 8000
        )

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        cannot("only root can mount a small tmpfs")
    path = tmp_path / "disk"
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "small", path)
    try:
        yield path
    finally:
        run("umount", "-l", path)


def test_full_disk_is_storage_full(small_disk: Path) -> None:
    store = IndexStore(small_disk, 10**9)
    with pytest.raises(StorageFull, match="--index-dir"):
        store.open("layer", ONE, Maker(bytes(2 * 2**20)))
    assert _content(store, ONE, Maker()) == b"content"


def test_read_only_directory_serves_what_it_has(small_disk: Path) -> None:
    store = IndexStore(small_disk, 10**6)
    path = _path(store, ONE)
    run("mount", "-o", "remount,ro", small_disk)
    store = IndexStore(small_disk, 10**6)
    assert _content(store, ONE, Maker()) == b"content"
    with pytest.raises(AccessDenied, match=f"{os.strerror(errno.EROFS)}.*--index-dir"):
        store.open("layer", TWO, Maker())
    run("mount", "-o", "remount,rw", small_disk)
    path.write_bytes(b"damaged")
    run("mount", "-o", "remount,ro", small_disk)
    with pytest.raises(AccessDenied, match=r"damaged.*remove it"):
        IndexStore(small_disk, 10**6).open("layer", ONE, Maker())


def test_event_loop_neither_makes_a_file_nor_verifies_it(
    store: IndexStore, directory: Path
) -> None:
    with waiting, pytest.raises(TakesLong):
        store.open("layer", ONE, Maker())
    _path(store, ONE)
    with waiting:
        assert _content(store, ONE, Maker()) == b"content"
        with pytest.raises(TakesLong):
            IndexStore(directory, 10**6).open("layer", ONE, Maker())


def test_directory_of_a_builder_may_vanish_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner removes it while another builder looks for what is left over."""
    building = tmp_path / "v1/building/layer-of-another"
    building.mkdir(parents=True)
    mkdir = os.mkdir

    def vanishing(path: Path, mode: int = 0o777) -> None:
        if path == building:
            building.rmdir()
            raise FileExistsError
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", vanishing)
    make = Maker()
    IndexStore(tmp_path, 10**6).open("layer", ONE, make).close()
    assert make.made == 1


def test_locks_that_are_no_files_hinder_nobody(tmp_path: Path) -> None:
    for name in ("link", "pipe", "directory"):
        (tmp_path / "v1/building" / name).mkdir(parents=True)
    (tmp_path / "v1/building/link/lock").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "v1/building/pipe/lock")
    (tmp_path / "v1/building/directory/lock").mkdir()
    make = Maker()
    IndexStore(tmp_path, 10**6).open("layer", ONE, make).close()
    assert make.made == 1


_ADDITIONS = """
import sys
from pathlib import Path
from blobfs.digest import Digest
from blobfs.images.index_store import IndexStore

listings = 0
def count(event, arguments):
    global listings
    listings += event == "os.scandir" and str(arguments[0]).endswith("/layer")
sys.addaudithook(count)
store = IndexStore(Path(sys.argv[1]), 10**6)
for number in range(300):
    store.open("layer", Digest.of(b"%d" % number), lambda path: path.write_bytes(b"x")).close()
print(listings)
"""


def test_few_additions_look_at_all_files(directory: Path) -> None:
    command = [sys.executable, "-c", _ADDITIONS, str(directory)]
    assert int(subprocess.run(command, check=True, capture_output=True).stdout) <= 6


def test_processes_count_the_additions_of_each_other(directory: Path) -> None:
    stores = [IndexStore(directory, 4 * (100 + TRAILER_SIZE)) for _ in range(2)]
    for number in range(8):
        _content(stores[number % 2], Digest.of(b"%d" % number), Maker(bytes(100)))
    assert stores[0].used() == stores[0].limit


@pytest.mark.parametrize("content", [b"", b"junk", b"-5 9", b"9 -5", b"0 0", b"\xff" * 99])
def test_damaged_count_of_the_files_is_made_again(directory: Path, content: bytes) -> None:
    store = IndexStore(directory, 2 * (100 + TRAILER_SIZE))
    for number in range(2):
        _content(store, Digest.of(b"%d" % number), Maker(bytes(100)))
    (directory / "v1/building/used").write_bytes(content)
    _content(store, Digest.of(b"2"), Maker(bytes(100)))
    assert store.used() == store.limit


def test_files_that_others_add_are_counted_in_time(directory: Path) -> None:
    store = IndexStore(directory, 150 * (100 + TRAILER_SIZE))
    _content(store, ONE, Maker(bytes(100)))
    for number in range(100):
        (directory / f"v1/layer/sha256-{number:064x}").write_bytes(bytes(100 + TRAILER_SIZE))
    for number in range(100):
        _content(store, Digest.of(b"%d" % number), Maker(bytes(100)))
    assert store.used() <= store.limit
