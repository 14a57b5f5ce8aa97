"""Layouts in tar archives that go through standard streams."""

import io
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tarfile import open as open_tar
from typing import BinaryIO, cast

import pytest

from blobfs.digest import Digest
from blobfs.errors import Corrupt, DigestMismatch, Interrupted, StorageFull, StorageUnavailable
from blobfs.transfer.layout import (
    ArchiveSource,
    ArchiveStreamTarget,
    LayoutSource,
    LayoutTarget,
)
from blobfs.transfer.streams import write_to
from tests.support import images
from tests.support.places import described
from tests.support.services import run
from tests.support.transfers import Stream, content_of, copy

CONTENT = bytes(range(256)) * 12_000  # more than is verified in memory
BLOB = described(CONTENT)


@pytest.fixture
def output() -> io.BytesIO:
    """The standard output."""
    return io.BytesIO()


def from_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> ArchiveSource:
    monkeypatch.setattr(sys, "stdin", Stream(content))
    return ArchiveSource(None)


def test_a_layout_goes_through_the_standard_streams(
    output: io.BytesIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """[S22.47] With `-` for FILE an archive goes through the standard output or input"""
    alias = described(CONTENT, "sha512")
    with LayoutTarget(tmp_path / "layout") as target:
        target.put_blob("other", alias, [CONTENT])
        with LayoutSource(images.small()) as source:
            copy(source, target)
        target.finish()
    with LayoutSource(tmp_path / "layout") as source, ArchiveStreamTarget(output) as stream:
        copy(source, stream)
        stream.finish()
        expected = content_of(source)
    for _ in range(2):  # it is read once in a process
        with from_stdin(monkeypatch, output.getvalue()) as source:
            assert content_of(source) == expected
    with open_tar(fileobj=io.BytesIO(output.getvalue())) as tar:
        names = [info.name for info in tar]
    assert max(Counter(names).values()) == 1
    assert names[-2:] == ["index.json", "oci-layout"]


@pytest.mark.parametrize(
    "wrong", [(CONTENT[:-1],), (CONTENT, b"+"), (CONTENT[:-1], b"-")], ids=["short", "long", "bad"]
)
@pytest.mark.parametrize("is_sent_again", [False, True])
def test_wrong_bytes_in_a_stream_are_followed_by_a_file_that_replaces_them(
    output: io.BytesIO, tmp_path: Path, wrong: tuple[bytes, ...], is_sent_again: bool
) -> None:
    """[S22.47] A blob that could not be copied may leave an empty file in it"""
    with ArchiveStreamTarget(output) as target:
        with pytest.raises(DigestMismatch):
            target.put_blob("app", BLOB, wrong)
        assert target.missing("app", [BLOB]) == [BLOB]
        if is_sent_again:
            target.put_blob("app", BLOB, [CONTENT])
        target.finish()
    (tmp_path / "a.tar").write_bytes(output.getvalue())
    run("tar", "-C", tmp_path, "-xf", tmp_path / "a.tar")
    extracted = tmp_path / "blobs" / "sha256" / BLOB.digest.encoded
    assert extracted.read_bytes() == (CONTENT if is_sent_again else b"")
    with ArchiveSource(tmp_path / "a.tar") as source:
        found = content_of(source)
        assert [repository.blobs for repository in found.values()] == (
            [{BLOB.digest}] if is_sent_again else []
        )


def test_small_wrong_bytes_leave_nothing_in_a_stream(output: io.BytesIO) -> None:
    small = described(b"small")
    with ArchiveStreamTarget(output) as target:
        with pytest.raises(DigestMismatch):
            target.put_blob("app", small, [b"wrong"])
        assert output.getvalue() == b""


def test_several_threads_write_one_stream(
    output: io.BytesIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [bytes([n]) * (n * 70_001) for n in range(40)]
    with ArchiveStreamTarget(output) as target:

        def put(content: bytes) -> None:
            blob = described(content)
            target.put_blob("app", blob, (content[:7], content[7:]))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, contents))
        target.finish()
    with from_stdin(monkeypatch, output.getvalue()) as source:
        assert content_of(source)["app"].blobs == set(map(Digest.of, contents))


def test_a_stream_of_which_a_part_was_lost_is_not_written_on() -> None:
    """Neither after an error of the output, nor after an attempt that was stopped."""
    reader, writer = os.pipe()
    os.close(reader)
    for sink, error in (os.open("/dev/full", os.O_WRONLY), StorageFull), (writer, Interrupted):
        with open(sink, "wb", buffering=0) as output, ArchiveStreamTarget(output) as target:
            with pytest.raises(error):
                target.put_blob("app", BLOB, [CONTENT])
            with pytest.raises(Interrupted, match=r"(No space|Broken pipe).*; copy again"):
                target.finish()


def test_an_output_that_takes_a_part_of_the_bytes_gets_the_others_after_it() -> None:
    """As write(2) does after a signal, if Python has no buffer before it."""

    class Unbuffered:
        content = b""

        def write(self, data: memoryview) -> int:
            self.content += data[:7]
            return len(data[:7])

    output = Unbuffered()
    write_to(cast(BinaryIO, output), CONTENT[:1000])
    assert output.content == CONTENT[:1000]


def test_a_source_that_fails_leaves_a_stream_that_goes_on(
    output: io.BytesIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> Iterator[bytes]:
        yield CONTENT[:100]
        raise StorageUnavailable("the source does not answer")

    with ArchiveStreamTarget(output) as target:
        with pytest.raises(StorageUnavailable):
            target.put_blob("app", BLOB, lost())
        target.put_blob("app", BLOB, [CONTENT])
        target.finish()
    with from_stdin(monkeypatch, output.getvalue()) as source:
        assert content_of(source)["app"].blobs == {BLOB.digest}


def test_a_stream_that_was_cut_off_is_refused(
    output: io.BytesIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S22.47] One that was cut off is refused"""
    with ArchiveStreamTarget(output) as target:
        target.put_blob("app", BLOB, [CONTENT])
        end_of_blob = len(output.getvalue())
        target.finish()
    for size in (0, 100, 10_000, end_of_blob, end_of_blob + 600):
        with pytest.raises(Corrupt, match=r"no whole tar archive|cut off"):
            from_stdin(monkeypatch, output.getvalue()[:size])
