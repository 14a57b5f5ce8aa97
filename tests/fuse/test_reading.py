"""Reading blobs through a mount: whole, damaged, gone, wrong, twice."""

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName
from tests.support.layout import APP, Layout, image
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted

pytestmark = pytest.mark.fuse

CONTENT = os.urandom(3 * 2**20 + 17)


def _layer(mount: MountedRegistry, digest: Digest, name: str = APP) -> Path:
    return mount.path / name / "_layers" / digest.algorithm / digest.encoded


def _data(storage: Path, digest: Digest) -> Path:
    return Path(f"{storage}{paths.blob_data(digest)}")


def test_blob_reads_back_whole(common_layout: Layout, common_mount: MountedRegistry) -> None:
    """[S2.1] A file's bytes are the blob's."""
    content = os.urandom(len(CONTENT))  # which the page cache has not
    assert _layer(common_mount, common_layout.layer(content)).read_bytes() == content


@pytest.mark.parametrize("offset", [0, 1, 4095, 2**20, len(CONTENT) - 1, len(CONTENT), 2**40])
def test_blob_reads_from_anywhere(
    common_layout: Layout, common_mount: MountedRegistry, offset: int
) -> None:
    """[S2.1] A file's bytes are the blob's."""
    content = os.urandom(len(CONTENT))
    with _layer(common_mount, common_layout.layer(content)).open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 5000, offset) == content[offset : offset + 5000]


def test_empty_blob_is_an_empty_file(common_layout: Layout, common_mount: MountedRegistry) -> None:
    """[S2.1] A file's bytes are the blob's."""
    assert _layer(common_mount, common_layout.layer(b"")).read_bytes() == b""


def test_mapped_blob_has_its_bytes(common_layout: Layout, common_mount: MountedRegistry) -> None:
    """[S2.1] A file's bytes are the blob's."""
    content = os.urandom(len(CONTENT))
    with (
        _layer(common_mount, common_layout.layer(content)).open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
    ):
        assert mapped[:] == content


@pytest.mark.parametrize(
    "flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND]
)
def test_blob_cannot_be_opened_to_change_it(
    common_layout: Layout, common_mount: MountedRegistry, flags: int
) -> None:
    """[S2.2] Blobs and manifests never change: to open one for writing is EROFS."""
    with failing_with(errno.EROFS):
        os.open(_layer(common_mount, common_layout.layer(b"to open %d" % flags)), flags)


@pytest.mark.parametrize("kind", ["_layers", "_manifests/revisions"])
def test_every_change_of_a_blob_or_manifest_is_refused(
    common_layout: Layout, common_mount: MountedRegistry, kind: str
) -> None:
    """[S2.2] Blobs and manifests never change: to open one for writing is EROFS, and so is to
    change its mode or owner.
    """
    digest = common_layout.revision(image(common_layout.layer(kind.encode())))
    common_layout.link(paths.layers(APP), digest)
    blob = common_mount.path / APP / kind / digest.algorithm / digest.encoded
    changes: list[Callable[[], object]] = [
        lambda: os.chmod(blob, 0o600),
        lambda: os.chown(blob, 1, 1),
        lambda: os.truncate(blob, 0),
        lambda: os.setxattr(blob, "user.x", b"1"),
        lambda: os.removexattr(blob, "user.blobfs.digest"),
    ]
    for change in changes:
        with failing_with(errno.EROFS):
            change()


def test_blob_that_is_cut_short_while_open_is_an_error(
    layout: Layout, storage: Path, mount: MountedRegistry
) -> None:
    """[S2.3] A blob that is shorter than it was when it was looked up reads as EIO, never as a
    clean end of file.
    """
    digest = layout.layer(CONTENT)
    with _layer(mount, digest).open("rb", buffering=0) as file:
        os.truncate(_data(storage, digest), 2**20)
        with failing_with(errno.EIO):
            os.pread(file.fileno(), 4096, 2 * 2**20)
    assert any(digest.encoded in line for line in mount.warnings())


def test_blob_that_is_gone_is_an_error_and_its_link_too_is_nothing(
    layout: Layout, storage: Path, mount: MountedRegistry
) -> None:
    """[S2.4] A blob that is gone when it is opened is looked up again: ENOENT without a link, EIO
    with one (but 4.5).
    """
    digest = layout.layer(CONTENT)
    layout.revision(image(digest))  # else its link is what a garbage collection has left
    blob = _layer(mount, digest)
    blob.stat()
    _data(storage, digest).unlink()
    with failing_with(errno.EIO):
        blob.open("rb")
    Path(f"{storage}{paths.link(paths.layers(APP), digest)}").unlink()
    with pytest.raises(FileNotFoundError):
        blob.open("rb")


def test_blob_that_was_stored_anew_is_read_anew(
    layout: Layout, storage: Path, mount: MountedRegistry
) -> None:
    """[S2.4] A blob that is gone when it is opened is looked up again. Torn when it was looked up,
    repaired since.
    """
    digest = layout.layer(CONTENT)
    os.truncate(_data(storage, digest), 100)
    blob = _layer(mount, digest)
    assert blob.stat().st_size == 100
    layout.put(paths.blob_data(digest), CONTENT)
    assert blob.read_bytes() == CONTENT


@pytest.mark.parametrize("mode", ["first", "always"])
def test_wrong_bytes_are_an_error_until_they_are_stored_anew(
    layout: Layout, storage: Path, tmp_path: Path, mode: str
) -> None:
    """[S2.5] So is every later one until it is stored anew."""
    digest = layout.layer(CONTENT)
    with _data(storage, digest).open("r+b") as data:
        data.seek(1000)
        data.write(bytes([CONTENT[1000] ^ 1]))
    with mounted(storage, tmp_path, "--verify", mode, "--entry-timeout", "0") as mount:
        blob = _layer(mount, digest)
        for _ in range(3):
            with failing_with(errno.EIO):
                blob.read_bytes()
        assert any("does not match" in line for line in mount.warnings())
        layout.put(paths.blob_data(digest), CONTENT)
        assert blob.read_bytes() == CONTENT


@pytest.mark.parametrize(("mode", "told"), [("first", False), ("always", True)])
def test_good_blob_is_hashed_again_only_with_verify_always(
    layout: Layout, storage: Path, tmp_path: Path, mode: str, told: bool
) -> None:
    """[S2.5] A blob found good is not hashed again. Bytes that rot behind a good verdict, without a
    trace in the blob's times.
    """
    digest = layout.layer(CONTENT)
    data = _data(storage, digest)
    stored = data.stat()
    with mounted(storage, tmp_path, "--verify", mode) as mount:
        blob = _layer(mount, digest)
        assert blob.read_bytes() == CONTENT
        data.write_bytes(bytes(len(CONTENT)))
        os.utime(data, ns=(stored.st_mtime_ns, stored.st_mtime_ns))
        with blob.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if told:
            with failing_with(errno.EIO):
                blob.read_bytes()
        else:
            assert blob.read_bytes() == bytes(len(CONTENT))


def test_second_read_asks_the_daemon_for_nothing(layout: Layout, mount: MountedRegistry) -> None:
    """[S2.6] What was read once comes from the page cache the next time, whichever repository it is
    read through. Also through another repository.
    """
    other = RepositoryName("other/one")
    digest = layout.layer(CONTENT)
    layout.layer(CONTENT, other)
    _layer(mount, digest).read_bytes()
    reads = mount.control("stats.json")["requests"]["read"]["count"]
    assert _layer(mount, digest, other).read_bytes() == CONTENT
    # Reading stats.json takes reads of its own, and nothing else did.
    control = mount.control("stats.json")["requests"]["read"]["count"] - reads
    assert control <= 4


def test_open_files_stay_readable_while_their_blob_is_deleted(
    layout: Layout, storage: Path, mount: MountedRegistry
) -> None:
    digest = layout.layer(CONTENT)
    with _layer(mount, digest).open("rb") as file:
        _data(storage, digest).unlink()
        assert file.read() == CONTENT


def test_storage_that_is_moved_away_works_again_once_it_is_back(
    layout: Layout, storage: Path, mount: MountedRegistry
) -> None:
    """[S4.3] The mount stays, and works again when the storage does."""
    digest = layout.layer(CONTENT)
    kept = storage / "docker"
    kept.rename(storage / "elsewhere")
    kept.symlink_to(kept.name)
    with failing_with(errno.EACCES):
        os.stat(mount.path / APP)
    kept.unlink()
    (storage / "elsewhere").rename(kept)
    eventually((mount.path / APP).exists, within_s=3)
    assert _layer(mount, digest).read_bytes() == CONTENT
