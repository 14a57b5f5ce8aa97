"""Entries that are not what they were: never served, dropped, and fetched anew."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.disk_cache import Cached, caching, content
from tests.support.remote_driver import KIB, MIB

BLOB = content(1)
OTHER = content(2)


def _flip(entry: Path, offset: int) -> None:
    with entry.open("r+b") as file:
        file.seek(offset)
        [byte] = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def _swap(entry: Path) -> None:
    """Have the entry of another blob of the same size in its place."""
    [other] = (path for path in entry.parents[1].glob("*/*") if path != entry)
    other.rename(entry)


def _zero(entry: Path) -> None:
    """What a crash leaves of a file whose bytes were not synced."""
    entry.write_bytes(bytes(entry.stat().st_size))


def _link(entry: Path) -> None:
    copy = entry.with_name("copy")
    entry.rename(copy)
    entry.symlink_to(copy)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "first byte": lambda entry: _flip(entry, 0),
    "last byte": lambda entry: _flip(entry, MIB - 1),
    "a check": lambda entry: _flip(entry, MIB + 40),
    "cut": lambda entry: os.truncate(entry, MIB),
    "cut to nothing": lambda entry: os.truncate(entry, 0),
    "longer": lambda entry: os.truncate(entry, 2 * MIB),
    "zeros": _zero,
    "another's": _swap,
    "writable by others": lambda entry: entry.chmod(0o666),
    "symlink": _link,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("remounted", [False, True], ids=["in the mount", "in the next"])
def test_damaged_entry_is_never_served(
    tmp_path: Path, damage: Callable[[Path], None], *, remounted: bool
) -> None:
    with caching(tmp_path) as cached:
        path, _ = cached.store(BLOB, OTHER)
        if not remounted:
            damage(cached.entry(path))
            _expect_anew(cached, path)
    if remounted:
        damage(cached.entry(path))
        with caching(tmp_path, cached.remote) as cached:
            _expect_anew(cached, path)


def _expect_anew(cached: Cached, path: str) -> None:
    stored = cached.count("stored")
    assert cached.read(path) == BLOB
    assert cached.count("damaged") + cached.count("failures") == 1
    assert cached.read(path) == BLOB  # what was good of it was not kept
    cached.until("stored", stored + 1)
    assert not cached.is_asked(path, BLOB)


def test_entry_that_is_damaged_while_it_is_read_is_not_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caching(tmp_path) as cached:
        [path] = cached.store(BLOB)
        with cached.driver.open(path) as reader:
            assert reader.read_at(0, 512 * KIB) == BLOB[: 512 * KIB]
            _flip(cached.entry(path), 100)
            _flip(cached.entry(path), 700 * KIB)
            assert reader.read_at(0, 512 * KIB) == BLOB[: 512 * KIB]
            assert reader.read_at(512 * KIB, 512 * KIB) == BLOB[512 * KIB :]
        cached.until("stored", 2)
    assert [record.message for record in caplog.records] == [
        f"a damaged entry of the cache was removed: {cached.entry(path)} is damaged"
    ]


def test_entry_that_goes_while_it_is_read_is_read_from_the_store(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        [path] = cached.store(BLOB)
        with cached.driver.open(path) as reader:
            assert reader.read_at(0, KIB) == BLOB[:KIB]
            cached.entry(path).unlink()
            assert reader.read_at(KIB, MIB) == BLOB[KIB:]


def test_entry_is_of_no_use_for_a_blob_of_another_size(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        [path] = cached.store(BLOB)
        cached.remote.put_content(path, BLOB[:1000])
        assert cached.read(path) == BLOB[:1000]
        cached.until("mismatched", 1)
