"""The queue on disk: what is put stays, in order, until it is removed."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from blobfs.errors import MountRefused, StorageUnavailable
from blobfs.metrics import REGISTRY
from blobfs.notifications.queue import MAX_BYTES, Addressed, EnvelopeQueue
from tests.support.mounts import eventually
from tests.support.notification_events import unwritable

PUT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from blobfs.notifications.queue import Addressed, EnvelopeQueue
EnvelopeQueue.opened(Path(sys.argv[1])).put([Addressed("a", b"kept")])
os.kill(os.getpid(), signal.SIGKILL)
"""


def bodies(queue: EnvelopeQueue, endpoint: str = "a") -> list[bytes]:
    return [body for _, body in queue.oldest(endpoint, 10_000)]


def test_what_was_put_comes_in_order(tmp_path: Path) -> None:
    with EnvelopeQueue.opened(tmp_path / "q.db") as queue:
        queue.put([Addressed("a", b"1"), Addressed("b", b"1")])
        queue.put([Addressed("a", b"2")])
        assert bodies(queue) == [b"1", b"2"]
        assert bodies(queue, "b") == [b"1"]


def test_what_was_removed_is_gone(tmp_path: Path) -> None:
    with EnvelopeQueue.opened(tmp_path / "q.db") as queue:
        queue.put([Addressed("a", b"1"), Addressed("a", b"2")])
        queue.remove(queue.oldest("a", 1)[0][0])
        assert bodies(queue) == [b"2"]
        assert queue.pending("a") == 1


def test_what_was_put_survives_kill_9(tmp_path: Path) -> None:
    """[S15.3] What a program was told to be done is then in a queue in `--state-dir`, durable, and
    survives a crash of the daemon or the machine.
    """
    command = [sys.executable, "-c", PUT_AND_DIE, str(tmp_path / "q.db")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with EnvelopeQueue.opened(tmp_path / "q.db") as queue:
        assert bodies(queue) == [b"kept"]


def test_what_two_mounts_put_is_in_one_queue(tmp_path: Path) -> None:
    with (
        EnvelopeQueue.opened(tmp_path / "q.db") as one,
        EnvelopeQueue.opened(tmp_path / "q.db") as other,
    ):
        one.put([Addressed("a", b"1")])
        other.put([Addressed("a", b"2")])
        assert bodies(one) == bodies(other) == [b"1", b"2"]


def test_threads_that_put_at_once_lose_nothing(tmp_path: Path) -> None:
    names = [str(number).encode() for number in range(200)]
    with EnvelopeQueue.opened(tmp_path / "q.db") as queue:
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda name: queue.put([Addressed("a", name)]), names))
        assert sorted(bodies(queue)) == sorted(names)


def test_what_is_put_soon_waits_for_the_next_write(tmp_path: Path) -> None:
    with EnvelopeQueue.opened(tmp_path / "q.db") as queue:
        queue.put_soon([Addressed("a", b"1")])
        assert bodies(queue) == []
        queue.put([Addressed("a", b"2")])
        assert bodies(queue) == [b"1", b"2"]


def test_the_end_writes_what_was_put_soon(tmp_path: Path) -> None:
    with EnvelopeQueue.opened(tmp_path / "q.db") as queue:
        queue.put_soon([Addressed("a", b"1")])
    with EnvelopeQueue.opened(tmp_path / "q.db") as queue:
        assert bodies(queue) == [b"1"]


def test_what_was_put_soon_is_kept_until_it_can_be_written(tmp_path: Path) -> None:
    with EnvelopeQueue.opened(tmp_path / "q.db") as queue:
        queue.put_soon([Addressed("a", b"1")])
        with unwritable(tmp_path / "q.db"), pytest.raises(StorageUnavailable):
            queue.put([Addressed("a", b"2")])
        queue.put_soon([Addressed("a", b"3")])
        queue.flush()
        assert bodies(queue) == [b"1", b"3"]


def test_what_cannot_be_written_at_the_end_is_lost_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """[S15.3] The program's work succeeds, and the event is lost: a warning and a count say so."""
    before = _counted("Lost", "late")
    queue = EnvelopeQueue.opened(tmp_path / "q.db")
    queue.put_soon([Addressed("late", b"1"), Addressed("late", b"2")])
    with unwritable(tmp_path / "q.db"):
        queue.close()
    assert _counted("Lost", "late") - before == 2
    assert caplog.messages == [
        "notifications of pulls wait in memory: the queue of notifications: refused",
        "notifications of pulls are lost, because they cannot be written",
    ]


def test_threads_that_put_at_once_fail_together(tmp_path: Path) -> None:
    """A ``put`` fails if and only if its envelope is not written, whoever shares its batch."""
    path, names = tmp_path / "q.db", [bytes([number]) for number in range(16)]
    with EnvelopeQueue.opened(path) as queue, ThreadPoolExecutor(len(names)) as threads:
        with unwritable(path, names[3], names[7]), closing(sqlite3.connect(path)) as busy:
            busy.execute("BEGIN IMMEDIATE")  # the first write waits, and the other puts for it
            puts = [threads.submit(queue.put, [Addressed("a", name)]) for name in names]
            eventually(lambda: all(put.running() for put in puts))
            busy.rollback()
            failures = {name: put.exception() for name, put in zip(names, puts, strict=True)}
        failed = {name for name, failure in failures.items() if failure}
        assert {names[3], names[7]} <= failed
        assert {type(failures[name]) for name in failed} == {StorageUnavailable}
        assert sorted(bodies(queue)) == [name for name in names if name not in failed]


def test_memory_is_bounded_too(tmp_path: Path) -> None:
    many = [Addressed("a", b"1")] * 10_000
    with EnvelopeQueue.opened(tmp_path / "q.db") as queue:
        queue.put_soon(many)
        with unwritable(tmp_path / "q.db"):
            queue.flush()
        with pytest.raises(StorageUnavailable, match="too many"):
            queue.put_soon([Addressed("a", b"2")])
        queue.flush()
        queue.put_soon(many)


def test_the_oldest_gives_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """[S15.6] Then the oldest give way: a warning, and a count."""
    caplog.set_level(logging.WARNING)
    before = _counted("Dropped", "full")
    with EnvelopeQueue.opened(tmp_path / "q.db", 4 * 2**20) as queue:
        for number in range(80):
            queue.put([Addressed("full", bytes([number]) * 1024)] * 100)
        kept = [body[0] for body in bodies(queue, "full")]
    assert kept[-1] == 79, "the newest stays"
    assert kept == sorted(kept), "in order"
    assert kept[0] > 0
    assert _counted("Dropped", "full") - before == 8000 - len(kept)
    assert (tmp_path / "q.db").stat().st_size < 6 * 2**20
    assert [record.getMessage() for record in caplog.records] == [
        "the queue of notifications is full: the oldest for full are dropped"
    ]


def _counted(kind: str, endpoint: str) -> float:
    labels = {"type": kind, "endpoint": endpoint}
    return REGISTRY.get_sample_value("blobfs_notifications_events_total", labels) or 0.0


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    with EnvelopeQueue.opened(tmp_path / "state" / "q.db") as queue:
        queue.put([Addressed("a", b"1")])
        for file in (tmp_path / "state").iterdir():
            assert file.stat().st_mode & 0o077 == 0, file


def test_a_file_that_is_no_queue_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.db").write_bytes(b"something else" * 1000)
    with pytest.raises(MountRefused, match=r"q\.db: file is not a database"):
        EnvelopeQueue.opened(tmp_path / "q.db")


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MountRefused, match="Not a directory"):
        EnvelopeQueue.opened(tmp_path / "file" / "state" / "q.db")


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with EnvelopeQueue.opened(tmp_path / "q.db") as queue:
        queue._connection.execute("PRAGMA max_page_count = 8")
        with pytest.raises(StorageUnavailable, match="full"):
            queue.put([Addressed("a", os.urandom(2**16))])
        queue.put([Addressed("a", b"small")])
        assert bodies(queue) == [b"small"]


def test_a_month_of_events_has_room() -> None:
    """[S15.6] 256 MiB may wait, some 200,000 events."""
    assert MAX_BYTES == 256 * 2**20
