"""A commit that another thread stops while it hashes, copies or fills a gap."""

from contextlib import suppress
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import Interrupted, PathNotFound
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.blobwriter import BlobWriter
from tests.support.failing_driver import Call, TroubledDriver
from tests.support.files import walk
from tests.support.layout import APP
from tests.support.uploads import SMALL, begun, blob_content, states

MIB = 2**20
CONTENT = bytes(range(256)) * (8 * MIB // 256)


def _stop_at(troubled: TroubledDriver, writer: BlobWriter, method: str, number: int = 1) -> None:
    """Have *writer* interrupted before the call of that *number* of a driver's *method*."""
    before = len(troubled.methods(""))

    def stop(call: Call) -> None:
        calls = troubled.methods("")[before:]
        if call.method == method and calls.count(method) == number:
            writer.interrupt("stopped by the test")

    troubled.on_call = stop


def _unhashed(repository: Repository) -> BlobWriter:
    """A writer that has to read all of its data again."""
    writer = repository.uploads.create()
    writer.write_at(1, CONTENT[1:])
    writer.write_at(0, CONTENT[:1])
    return writer


def test_interrupted_commit_goes_on_where_it_was_stopped(
    troubled_repository: Repository, troubled: TroubledDriver, driver: StorageDriver
) -> None:
    """[S7.15] What was hashed is not hashed again by the next commit."""
    writer = _unhashed(troubled_repository)
    _stop_at(troubled, writer, "writer.read_at", 3)
    with pytest.raises(Interrupted, match="stopped by the test"):
        writer.commit()
    assert blob_content(driver, Digest.of(CONTENT)) is None
    writer.close()
    assert states(driver, writer.id) == {str(3 * MIB + 1)}
    again = Repository(troubled, BlobStore(troubled), APP).uploads.resume(writer.id)
    troubled.calls.clear()
    assert again.commit().digest == Digest.of(CONTENT)
    assert troubled.methods("data").count("writer.read_at") == 5


def test_interrupted_copy_leaves_nothing(
    troubled_repository: Repository, troubled: TroubledDriver, driver: StorageDriver
) -> None:
    """[S7.15] Stops if it hashes or copies: nothing is published. What a registry began is
    copied.
    """
    upload_id = begun(troubled_repository, SMALL)
    with suppress(PathNotFound):
        driver.delete(paths.upload_record(APP, upload_id))
    writer = troubled_repository.uploads.resume(upload_id)
    _stop_at(troubled, writer, "open")
    with pytest.raises(Interrupted):
        writer.commit()
    assert not [
        info for info in walk(driver, paths.ROOT) if "blobs/" in info.path and not info.is_dir
    ]
    assert writer.commit().digest == Digest.of(SMALL)


def test_interrupted_gap_keeps_what_was_written(driver: StorageDriver) -> None:
    """[S7.15] Stops if it hashes or copies: nothing is published. Storage that only appends has to
    be sent the zeros.
    """
    troubled = TroubledDriver(driver, append_only=True)
    writer = Repository(troubled, BlobStore(troubled), APP).uploads.create()
    _stop_at(troubled, writer, "writer.write", 3)
    with pytest.raises(Interrupted):
        writer.truncate(64 * MIB)
    assert 0 < writer.size < 64 * MIB


def test_interruption_of_nothing_has_no_effect_later(troubled_repository: Repository) -> None:
    writer = _unhashed(troubled_repository)
    writer.interrupt("nobody is at it")
    writer.clear_interruption()
    assert writer.commit().digest == Digest.of(CONTENT)


def test_hole_is_hashed_without_being_read(tmp_path: Path) -> None:
    """[S7.15] Holes are hashed without being read. A program that reads itself counts what it
    reads.
    """
    driver = FilesystemDriver.below(tmp_path)
    writer = Repository(driver, BlobStore(driver), APP).uploads.create()
    writer.write(SMALL)
    writer.truncate(100 * MIB)
    writer.write(SMALL)
    writer.truncate(200 * MIB + 5)
    before = _read_by_this_process()
    descriptor = writer.commit()
    assert _read_by_this_process() - before < 5 * MIB
    gap = bytes(100 * MIB - len(SMALL))
    expected = Digest.of_chunks([SMALL, gap, SMALL, gap, bytes(5)], "sha256")
    assert (descriptor.digest, descriptor.size) == (expected, 200 * MIB + 5)
    driver.close()


def _read_by_this_process() -> int:
    [line] = [line for line in Path("/proc/self/io").read_text().splitlines() if "rchar" in line]
    return int(line.split()[1])
