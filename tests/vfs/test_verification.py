"""Reads held to a blob's digest: which fail, when, and what is remembered of it."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.digest import ALGORITHMS, Descriptor, Digest
from blobfs.drivers.base import BytesReader, FileReader
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import BlobDamaged, DigestMismatch
from blobfs.vfs.verification import Verification, Verify
from tests.support.walking import content

GOOD = bytes(range(100))
WRONG = bytes(99) + b"!"
HASHING = [Verify.FIRST, Verify.ALWAYS]

each_mode = pytest.mark.parametrize("verify", Verify)
each_hashing = pytest.mark.parametrize("verify", HASHING)


def opened(
    verification: Verification, stored: bytes, *, mtime_ns: int = 1, algorithm: str = "sha256"
) -> FileReader:
    """A reader of what is stored where ``GOOD`` ought to be."""
    driver = InMemoryDriver()
    driver.put_content("/data", stored)
    descriptor = Descriptor(Digest.of(GOOD, algorithm), len(GOOD), mtime_ns=mtime_ns)
    return verification.reader(descriptor, driver.open("/data"))


@each_mode
@pytest.mark.parametrize("chunk", [1, 7, 50, 100, 1000])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_good_blob_is_read(verify: Verify, chunk: int, algorithm: str) -> None:
    reader = opened(Verification(verify), GOOD, algorithm=algorithm)
    assert content(reader, chunk) == GOOD


@each_hashing
@pytest.mark.parametrize("chunk", [1, 7, 50, 100, 1000])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_wrong_blob_fails_where_its_end_is_read(verify: Verify, chunk: int, algorithm: str) -> None:
    with opened(Verification(verify), WRONG, algorithm=algorithm) as reader:
        last = (len(GOOD) - 1) // chunk * chunk
        for offset in range(0, last, chunk):
            assert reader.read_at(offset, chunk) == WRONG[offset : offset + chunk]
        with pytest.raises(DigestMismatch, match=Digest.of(GOOD, algorithm).encoded):
            reader.read_at(last, chunk)


def test_wrong_blob_is_read_where_nothing_is_verified() -> None:
    verification = Verification(Verify.NONE)
    for _ in range(2):
        assert content(opened(verification, WRONG)) == WRONG


@each_hashing
def test_bytes_read_again_are_hashed_once(verify: Verify) -> None:
    with opened(Verification(verify), GOOD) as reader:
        for offset, size in [(0, 40), (0, 40), (20, 40), (30, 10), (0, 70), (60, 40)]:
            assert reader.read_at(offset, size) == GOOD[offset : offset + size]


@each_hashing
def test_wrong_blob_fails_though_bytes_are_read_again(verify: Verify) -> None:
    with opened(Verification(verify), WRONG) as reader:
        for offset, size in [(0, 40), (0, 40), (20, 40), (30, 10), (0, 70)]:
            assert reader.read_at(offset, size) == WRONG[offset : offset + size]
        with pytest.raises(DigestMismatch):
            reader.read_at(60, 40)


@each_hashing
def test_reads_out_of_sequence_are_passed_through(verify: Verify) -> None:
    with opened(Verification(verify), WRONG) as reader:
        for offset in (90, 50, 10, 0, 99):
            assert reader.read_at(offset, 10) == WRONG[offset : offset + 10]


@each_hashing
@settings(deadline=None)
@given(offsets=st.permutations(range(0, len(GOOD), 10)))
def test_wrong_blob_fails_in_whatever_order_all_of_it_is_read(
    verify: Verify, offsets: list[int]
) -> None:
    # As a kernel reads ahead: several reads at once, of which any may come first.
    with opened(Verification(verify), WRONG) as reader:
        for offset in offsets[:-1]:
            assert reader.read_at(offset, 10) == WRONG[offset : offset + 10]
        with pytest.raises(DigestMismatch):
            reader.read_at(offsets[-1], 10)


@each_hashing
@settings(deadline=None)
@given(offsets=st.permutations(range(0, len(GOOD), 10)))
def test_good_blob_is_read_in_whatever_order(verify: Verify, offsets: list[int]) -> None:
    verification = Verification(verify)
    for _ in range(2):
        with opened(verification, GOOD) as reader:
            for offset in offsets:
                assert reader.read_at(offset, 10) == GOOD[offset : offset + 10]


@settings(deadline=None)
@given(offsets=st.permutations(range(0, len(GOOD), 10)))
def test_wrong_blob_fails_in_whatever_order_it_is_read_again(offsets: list[int]) -> None:
    verification = Verification(Verify.ALWAYS)
    content(opened(verification, GOOD), 10)
    with opened(verification, WRONG) as reader:
        for offset in offsets[:-1]:
            assert reader.read_at(offset, 10) == WRONG[offset : offset + 10]
        with pytest.raises(DigestMismatch):
            reader.read_at(offsets[-1], 10)


@each_hashing
def test_what_is_read_backwards_is_not_held_without_bound(verify: Verify) -> None:
    size, chunk = 2**28, 2**20
    driver = InMemoryDriver()
    driver.put_content("/data", bytes(size))
    descriptor = Descriptor(Digest.of(GOOD), size)
    with Verification(verify).reader(descriptor, driver.open("/data")) as reader:
        tracemalloc.start()
        for offset in range(size - chunk, 0, -chunk):
            reader.read_at(offset, chunk)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert held < 70 * chunk


@each_hashing
def test_reads_out_of_sequence_do_not_spoil_the_hash(verify: Verify) -> None:
    verification = Verification(verify)
    with opened(verification, GOOD) as reader:
        for offset in (50, 0, 90, 10, 60, 20):
            assert reader.read_at(offset, 10) == GOOD[offset : offset + 10]
        assert content(reader, 10) == GOOD


@each_hashing
def test_wrong_blob_fails_in_sequence_after_reads_out_of_it(verify: Verify) -> None:
    with opened(Verification(verify), WRONG) as reader:
        for offset in (50, 0, 90, 10, 60, 20):
            reader.read_at(offset, 10)
        with pytest.raises(DigestMismatch):
            content(reader, 10)


@each_hashing
@pytest.mark.parametrize(
    ("stored", "is_good"), [(GOOD, True), (WRONG, False)], ids=["good", "wrong"]
)
def test_readers_that_take_turns_all_get_the_verdict(
    verify: Verify, stored: bytes, is_good: bool
) -> None:
    verification = Verification(verify)
    readers = [opened(verification, stored) for _ in range(3)]
    for offset in range(0, 90, 10):
        for reader in readers:
            assert reader.read_at(offset, 10) == stored[offset : offset + 10]
    for reader in readers:
        if is_good:
            assert reader.read_at(90, 10) == stored[90:]
        else:
            with pytest.raises(DigestMismatch):
                reader.read_at(90, 10)


@each_hashing
def test_readers_in_threads_all_get_the_verdict(verify: Verify) -> None:
    verification = Verification(verify)

    def fails(reader: FileReader) -> bool:
        try:
            content(reader, 1)
        except DigestMismatch:
            return True
        return False

    readers = [opened(verification, WRONG) for _ in range(16)]
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(fails, readers))


@each_hashing
@pytest.mark.parametrize("stored", [GOOD, WRONG], ids=["good", "wrong"])
def test_reader_goes_on_where_the_one_before_stopped(verify: Verify, stored: bytes) -> None:
    verification = Verification(verify)
    with opened(verification, stored) as first:
        first.read_at(0, 60)
    with opened(verification, stored) as second:
        if stored == GOOD:
            assert second.read_at(60, 40) == GOOD[60:]
        else:
            with pytest.raises(DigestMismatch):
                second.read_at(60, 40)


@each_hashing
@pytest.mark.parametrize("stored", [GOOD, WRONG], ids=["good", "wrong"])
def test_reader_uses_what_the_one_before_read_out_of_sequence(
    verify: Verify, stored: bytes
) -> None:
    """[S2.5] With `--verify first` the last read of a blob that is read from its start to its end
    is EIO if the bytes do not hash to its name. The kernel has cached those bytes, and does not ask
    for them again.
    """
    verification = Verification(verify)
    with opened(verification, stored) as first:
        first.read_at(0, 10)
        first.read_at(20, 80)
    with opened(verification, stored) as second:
        if stored == GOOD:
            assert second.read_at(10, 10) == GOOD[10:20]
        else:
            with pytest.raises(DigestMismatch):
                second.read_at(10, 10)


def test_reader_uses_what_the_one_before_read_without_waiting() -> None:
    verification = Verification(Verify.FIRST)
    with opened(verification, WRONG) as first:
        assert first.read_nowait(20, 70) == WRONG[20:90]
    with opened(verification, WRONG) as second:
        assert second.read_at(0, 20) == WRONG[:20]
        with pytest.raises(DigestMismatch):
            second.read_at(90, 10)


def test_bytes_read_out_of_sequence_by_closed_readers_are_bounded() -> None:
    verification = Verification(Verify.FIRST)
    chunk = 2**20
    driver = InMemoryDriver()
    driver.put_content("/data", bytes(32 * chunk))
    tracemalloc.start()
    for number in range(8):
        descriptor = Descriptor(Digest.of(bytes([number])), 32 * chunk)
        with verification.reader(descriptor, driver.open("/data")) as reader:
            for offset in range(chunk, 32 * chunk, chunk):
                reader.read_at(offset, chunk)
        verification.reader(descriptor, driver.open("/data")).read_at(chunk, 1)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 70 * chunk


class EndReadMeanwhile(BytesReader):
    """A reader of ``WRONG``; during each read without waiting, *verified* reads the end."""

    verified: FileReader

    def read_nowait(self, offset: int, size: int) -> bytes:
        self.verified.read_at(50, 50)
        return super().read_nowait(offset, size)


def test_read_without_waiting_does_not_outrun_the_verdict() -> None:
    """[S2.5] With `--verify first` the last read of a blob that is read from its start to its end
    is EIO if the bytes do not hash to its name. One of the reads fails if the end is read while
    another one is under way.
    """
    verification = Verification(Verify.FIRST)
    descriptor = Descriptor(Digest.of(GOOD), len(GOOD), mtime_ns=1)
    stored = EndReadMeanwhile(WRONG)
    reader = stored.verified = verification.reader(descriptor, stored)
    assert reader.read_nowait(0, 50) is None
    with pytest.raises(DigestMismatch):
        reader.read_at(0, 50)


@each_hashing
def test_bad_blob_stays_bad(verify: Verify) -> None:
    verification = Verification(verify)
    reader, other = opened(verification, WRONG), opened(verification, WRONG)
    with pytest.raises(DigestMismatch):
        content(reader)
    for offset in (0, 50, 99):
        with pytest.raises(DigestMismatch):
            other.read_at(offset, 10)
    with pytest.raises(DigestMismatch):
        opened(verification, GOOD)


@each_hashing
def test_bad_blob_that_was_stored_anew_is_read(verify: Verify) -> None:
    verification = Verification(verify)
    with pytest.raises(DigestMismatch):
        content(opened(verification, WRONG, mtime_ns=1))
    assert content(opened(verification, GOOD, mtime_ns=2)) == GOOD


@each_hashing
def test_good_blob_that_was_stored_anew_is_hashed_again(verify: Verify) -> None:
    verification = Verification(verify)
    assert content(opened(verification, GOOD, mtime_ns=1)) == GOOD
    with pytest.raises(DigestMismatch):
        content(opened(verification, WRONG, mtime_ns=2))


def test_good_blob_is_not_hashed_again() -> None:
    verification = Verification(Verify.FIRST)
    assert content(opened(verification, GOOD)) == GOOD
    assert content(opened(verification, WRONG)) == WRONG


def test_good_blob_is_hashed_again_where_it_always_is() -> None:
    verification = Verification(Verify.ALWAYS)
    for _ in range(3):
        assert content(opened(verification, GOOD)) == GOOD
    with pytest.raises(DigestMismatch):
        content(opened(verification, WRONG))


def test_reader_at_its_start_again_is_hashed_again_where_it_always_is() -> None:
    with opened(Verification(Verify.ALWAYS), GOOD) as reader:
        for _ in range(3):
            assert b"".join(reader.chunks(7)) == GOOD


@each_mode
def test_empty_blob_is_good(verify: Verify) -> None:
    verification = Verification(verify)
    driver = InMemoryDriver()
    driver.put_content("/data", b"")
    for _ in range(2):
        reader = verification.reader(Descriptor(Digest.of(b""), 0), driver.open("/data"))
        assert reader.size == 0
        assert reader.read_at(0, 10) == b""
        assert content(reader) == b""


@each_mode
@pytest.mark.parametrize(
    ("offset", "size"), [(0, 100), (0, 41), (39, 2), (40, 1), (41, 1), (99, 100)]
)
def test_blob_that_ends_early_is_damaged(verify: Verify, offset: int, size: int) -> None:
    with (
        opened(Verification(verify), GOOD[:40]) as reader,
        pytest.raises(BlobDamaged, match=Digest.of(GOOD).encoded),
    ):
        reader.read_at(offset, size)


@each_mode
@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [(95, 10, GOOD[95:]), (99, 2, GOOD[99:]), (100, 10, b""), (10**6, 10, b""), (50, 0, b"")],
    ids=["across the end", "last byte", "at the end", "past the end", "nothing"],
)
def test_read_is_short_only_at_the_end(
    verify: Verify, offset: int, size: int, expected: bytes
) -> None:
    with opened(Verification(verify), GOOD) as reader:
        assert reader.read_at(offset, size) == expected


@each_mode
def test_nothing_is_read_after_the_end(verify: Verify) -> None:
    with opened(Verification(verify), GOOD + b"more") as reader:
        assert reader.size == len(GOOD)
        assert reader.read_at(90, 100) == GOOD[90:]
        assert reader.read_at(100, 100) == b""


@each_hashing
def test_wrong_blob_with_more_after_its_end_fails(verify: Verify) -> None:
    with pytest.raises(DigestMismatch):
        content(opened(Verification(verify), WRONG + b"more"))


@each_hashing
def test_verdicts_are_not_remembered_without_bound(verify: Verify) -> None:
    verification = Verification(verify)
    with pytest.raises(DigestMismatch):
        content(opened(verification, WRONG))
    driver = InMemoryDriver()
    driver.put_content("/data", b"")
    for i in range(5_000):
        digest = Digest.of(str(i).encode())
        verification.reader(Descriptor(digest, 0), driver.open("/data")).close()
    with pytest.raises(DigestMismatch):
        content(opened(verification, WRONG))
    assert content(opened(Verification(verify), GOOD)) == GOOD
