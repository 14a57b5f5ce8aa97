"""A cache that several processes use, of which some are killed."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.disk_cache import caching, content, put
from tests.support.remote_driver import KIB, MIB

ROOT = Path(__file__).parents[3]

PROGRAM = """
import os
import sys
from pathlib import Path
from tests.support.disk_cache import caching, content, put

os.fsync = os.fstat  # as in all tests here
with caching(Path(sys.argv[1]), size=int(sys.argv[2])) as cached:
    print("ready", flush=True)
    for line in sys.stdin:
        seed, size, end = map(int, line.split())
        path = put(cached.remote, content(seed, size))
        stored = cached.count("stored") + (end >= size and not cached.entry(path).exists())
        reader = cached.driver.open(path)
        reader.read_at(0, end)
        if sys.argv[3] == "patient":
            cached.until("stored", stored)
        print(len(cached.remote.requests), flush=True)
"""


class Other:
    """Another process that reads blobs by the same directory."""

    def __init__(self, directory: Path, size: int, patience: str) -> None:
        command = [sys.executable, "-c", PROGRAM, str(directory), str(size), patience]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._said() == "ready"

    def read(self, seed: int, size: int, end: int) -> int:
        """Read to *end* of a blob; the requests that it has made since its start."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seed} {size} {end}\n")
        self.process.stdin.flush()
        return int(self._said())

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def other_process(
    directory: Path, size: int = 64 * MIB, patience: str = "patient"
) -> Iterator[Other]:
    other = Other(directory, size, patience)
    with other.process:
        yield other
        assert other.process.stdin is not None
        other.process.stdin.close()


def test_what_one_process_stored_another_reads(tmp_path: Path) -> None:
    with other_process(tmp_path) as other, caching(tmp_path) as cached:
        assert other.read(1, MIB, MIB) == 1
        assert not cached.is_asked(put(cached.remote, content(1)), content(1))
        cached.store(content(2))
        assert other.read(2, MIB, MIB) == 1


def test_process_that_begins_leaves_alone_what_another_fills(tmp_path: Path) -> None:
    with other_process(tmp_path) as other:
        other.read(1, MIB, MIB // 2)
        with caching(tmp_path) as cached:
            assert len(cached.temporary()) == 1
            cached.store(content(2))
        assert other.read(1, MIB, MIB) == 2
        with caching(tmp_path) as cached:
            assert not cached.is_asked(put(cached.remote, content(1)), content(1))


def test_killed_process_leaves_no_entry_and_its_rest_is_removed(tmp_path: Path) -> None:
    with other_process(tmp_path) as other:
        other.read(1, 8 * MIB, 8 * MIB)
        other.read(2, 8 * MIB, 7 * MIB)
        other.kill()
    with caching(tmp_path) as cached:
        assert list(tmp_path.glob("v1/tmp/*/*")) == [*tmp_path.glob(f"v1/tmp/{os.getpid()}-*/lock")]
        whole, half = (content(seed, 8 * MIB) for seed in (1, 2))
        assert not cached.is_asked(put(cached.remote, whole), whole)
        assert cached.is_asked(put(cached.remote, half), half)
        cached.until("stored", 1)
        assert not cached.is_asked(put(cached.remote, half), half)


def test_killed_at_any_moment_it_leaves_good_entries_only(tmp_path: Path) -> None:
    blobs = [content(seed, 300 * KIB) for seed in range(8)]
    for reads in range(1, 8):
        with other_process(tmp_path, size=2 * MIB) as other:
            assert other.process.stdin is not None
            for seed in range(8):
                other.process.stdin.write(f"{seed} {300 * KIB} {300 * KIB}\n")
            other.process.stdin.flush()
            for _ in range(reads):
                assert other.process.stdout is not None
                other.process.stdout.readline()
            other.kill()
        with caching(tmp_path, size=2 * MIB) as cached:
            assert cached.temporary() == []
            for blob in blobs:
                assert cached.read(put(cached.remote, blob)) == blob
            assert (cached.count("damaged"), cached.count("failures")) == (0, 0)
            assert cached.on_disk() <= 2 * MIB


def test_room_of_a_killed_process_is_free_again(tmp_path: Path) -> None:
    with caching(tmp_path, size=4 * MIB) as cached:
        with other_process(tmp_path, size=4 * MIB) as other:
            other.read(1, 3 * MIB, 3 * MIB - 1)
            other.kill()
        cached.store(*(content(seed) for seed in range(3)))
        assert cached.on_disk() <= 4 * MIB


def test_two_processes_together_take_no_more_than_they_may(tmp_path: Path) -> None:
    # What is read while the other takes room may be refused, so nobody waits until it is stored.
    with (
        caching(tmp_path, size=2 * MIB) as cached,
        other_process(tmp_path, 2 * MIB, "impatient") as other,
    ):
        for seed in range(0, 30, 2):
            other.read(seed, 300 * KIB, 300 * KIB if seed % 4 else 200 * KIB)
            assert cached.on_disk() <= 2 * MIB
            blob = content(seed + 1, 300 * KIB)
            assert cached.read(put(cached.remote, blob)) == blob
            assert cached.on_disk() <= 2 * MIB
        assert cached.count("failures") == 0


def test_entry_evicted_by_another_process_is_read_from_the_store(tmp_path: Path) -> None:
    with caching(tmp_path, size=2 * MIB) as cached, other_process(tmp_path, 2 * MIB) as other:
        [path] = cached.store(content(1))
        with cached.driver.open(path) as reader:
            assert reader.read_at(0, KIB) == content(1)[:KIB]
            for seed in range(2, 6):
                other.read(seed, MIB, MIB)
            assert not cached.entry(path).exists()
            assert reader.read_at(KIB, MIB) == content(1)[KIB:]


def test_blob_stored_by_two_at_once_is_one_entry(tmp_path: Path) -> None:
    blob = content(1, 500 * KIB)
    with caching(tmp_path) as one, caching(tmp_path) as other:
        path = put(one.remote, blob)
        put(other.remote, blob)
        readers = [one.driver.open(path), other.driver.open(path)]
        for reader in readers:
            reader.read_at(0, 400 * KIB)
        with (tmp_path / "v1/lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # neither can store it yet
            for reader in readers:
                reader.read_at(400 * KIB, 100 * KIB)
                reader.close()
        one.remote.until(lambda: not one.temporary())
        assert one.count("stored") + other.count("stored") == 1
        assert one.count("failures") + other.count("failures") == 0
        assert one.count("held_bytes") <= 512 * KIB
        assert not one.is_asked(path, blob)
        assert not other.is_asked(path, blob)
