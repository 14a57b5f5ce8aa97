"""A cache's directory that fails, is full, or goes: reading goes on."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.disk_cache import caching, content, put
from tests.support.mounts import eventually
from tests.support.remote_driver import KIB, MIB
from tests.support.services import cannot, run

BLOB = content(1)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    if os.geteuid() != 0:
        cannot("only root can mount a small tmpfs")
    path = tmp_path / "disk"
    path.mkdir(mode=0o700)
    run("mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "small", path)
    try:
        yield path
    finally:
        run("umount", "-l", path)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def _changes(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message.split(":")[0] for record in caplog.records]


def test_full_disk_fails_no_read_and_is_used_again_later(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with caching(disk / "cache", size=64 * MIB) as cached:
        [kept] = cached.store(BLOB)
        reader = cached.driver.open(put(cached.remote, content(2, 4 * MIB)))
        assert reader.read_at(0, MIB) == content(2, 4 * MIB)[:MIB]
        _fill(disk / "filler")
        assert reader.read_at(MIB, 4 * MIB) == content(2, 4 * MIB)[MIB:]
        assert cached.temporary() == []
        for seed in range(3, 8):
            blob = content(seed, 9 * MIB)
            assert cached.read(put(cached.remote, blob)) == blob
        reader.close()
        (disk / "filler").unlink()
        cached.store(content(8), BLOB if not cached.entry(kept).exists() else content(9))
        assert cached.count("failures") <= 1
    assert len(_changes(caplog)) <= 2


def test_entries_make_way_on_a_disk_that_gets_full(disk: Path) -> None:
    with caching(disk / "cache", size=64 * MIB, min_free=2 * MIB) as cached:
        for seed in range(20):
            cached.store(content(seed))
            info = os.statvfs(disk)
            assert info.f_bavail * info.f_frsize >= 2 * MIB
        assert cached.count("evicted") >= 14
        assert cached.count("failures") == 0


def test_disk_without_room_is_told_once(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caching(disk / "cache", size=64 * MIB) as cached:
        readers = [cached.driver.open(put(cached.remote, content(n, MIB))) for n in range(6)]
        for reader in readers:
            reader.read_at(0, 10)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(os, "pwrite", _no_space)
            for n, reader in enumerate(readers):
                assert reader.read_at(0, MIB) == content(n, MIB)
        for reader in readers:
            reader.close()
        assert len(caplog.records) == 1
        assert "is not used for" in caplog.text
        caplog.set_level(logging.INFO)
        cached.store(BLOB)
        eventually(lambda: "works again" in caplog.text)


def _no_space(_fd: int, _data: bytes, _offset: int) -> int:
    raise OSError(28, "No space left on device")


def test_directory_that_failed_is_left_alone_for_a_while(tmp_path: Path) -> None:
    with caching(tmp_path, retry_s=3600) as cached:
        [kept] = cached.store(BLOB)
        shutil.rmtree(tmp_path / "v1/tmp")
        for seed in range(2, 5):
            assert cached.read(put(cached.remote, content(seed))) == content(seed)
        assert cached.count("failures") == 1
        assert not cached.is_asked(kept, BLOB)


def test_directory_that_was_removed_is_made_again(tmp_path: Path) -> None:
    with caching(tmp_path / "cache") as cached:
        cached.store(BLOB)
        path = put(cached.remote, content(2))
        with cached.driver.open(path) as reader:
            reader.read_at(0, 10)
            shutil.rmtree(tmp_path / "cache")
            assert reader.read_at(0, MIB) == content(2)
        assert cached.read(path) == content(2)
        assert cached.read(path) == content(2)
        cached.until("stored", 2)
        assert not cached.is_asked(path, content(2))


def test_reading_does_not_wait_for_who_holds_the_lock(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caching(tmp_path, size=MIB, retry_s=3600, patience_s=0.01) as cached,
        (tmp_path / "v1/lock").open() as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        blob = content(2, 500 * KIB)
        assert cached.read(put(cached.remote, blob)) == blob
        assert cached.read(put(cached.remote, BLOB)) == BLOB
    assert "another process holds the lock" in caplog.text
    assert cached.count("failures") == 1


def test_entry_that_cannot_be_read_is_read_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int, _size: int, _offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    with caching(tmp_path) as cached:
        [path] = cached.store(BLOB)
        with monkeypatch.context() as patched:
            patched.setattr(os, "pread", fail)
            assert cached.read_at(path, 0, MIB) == BLOB
        assert not cached.entry(path).exists()
        cached.read(path)
        cached.until("stored", 2)
        assert not cached.is_asked(path, BLOB)


def test_end_does_not_wait_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blobfs.storage.diskcache.downloads._CLOSING_S", 0.0)
    with caching(tmp_path) as cached:
        path = put(cached.remote, content(3, 16 * MIB))
        cached.read(path, step=16 * MIB)
    assert not list(tmp_path.glob("v1/tmp/*"))
