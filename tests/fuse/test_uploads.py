"""Uploads through a mount: declared, verified, committed, gone on with, renamed, removed."""

import errno
import os
import random
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blobfs import open_registry, paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName
from tests.support.layout import APP, Layout
from tests.support.mounts import BLOBFS, MountedRegistry, eventually, failing_with, mounted
from tests.support.repositories import layer, layers, put_layer, shell, stored_uploads, upload
from tests.support.writers import state

pytestmark = pytest.mark.fuse

SMALL = b"what the blob holds"
LARGE = random.Random(1).randbytes(3 * 2**20 + 17)
OTHER = Digest.of(b"something else")

both = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])


def _refused(repository: Path, content: bytes) -> Path:
    """An upload that is held to a digest that it does not have."""
    file = upload(repository, OTHER)
    with failing_with(errno.EBADMSG):
        file.write_bytes(content)
    return file


@both
def test_cp_of_other_bytes_than_declared_says_so_and_publishes_nothing(
    repository: Path, tmp_path: Path, content: bytes
) -> None:
    """[S7.2] Other bytes are EBADMSG at the last close, or at the rename, and nothing appears in
    `_layers`.
    [S7.1] What goes wrong is an errno of the call that can carry it and one log line with the
    repository, the upload and the reason.
    """
    source = tmp_path / "source"
    source.write_bytes(content)
    file = upload(repository, OTHER)
    done = shell("cp", source, file)
    assert (done.returncode, done.stderr) == (1, f"cp: failed to close '{file}': Bad message\n")
    assert layers(repository) == {}
    assert file.read_bytes() == content
    assert state(file).startswith("failed: ")


def test_failed_commit_is_one_line_of_the_log(shared: MountedRegistry, repository: Path) -> None:
    """[S7.1] With the repository, the upload and the reason."""
    file = _refused(repository, SMALL)
    name = str(repository.relative_to(shared.path))
    [line] = [line for line in shared.warnings() if name in line]
    assert file.name in line
    assert f"hashes to {Digest.of(SMALL)}, not to {OTHER}" in line


@both
def test_refused_upload_is_committed_once_it_is_replaced(
    repository: Path, tmp_path: Path, content: bytes
) -> None:
    """[S7.2] Bytes that hash to it are committed at the close, or the fsync, after which they
    do.
    """
    file = upload(repository, Digest.of(content))
    with failing_with(errno.EBADMSG):
        file.write_bytes(b"a mistake")
    file.write_bytes(content)
    assert state(file) == "committed"
    assert layers(repository) == {Digest.of(content).encoded: content}


def test_refused_upload_is_committed_once_it_is_completed(repository: Path) -> None:
    """[S7.5] An open upload is gone on with by `>>`, `dd oflag=append conv=notrunc`, `rsync
    --append` and the like.
    """
    file = upload(repository, Digest.of(LARGE))
    with failing_with(errno.EBADMSG):
        file.write_bytes(LARGE[:-1])
    with file.open("ab") as more:
        more.write(LARGE[-1:])
    assert layers(repository) == {Digest.of(LARGE).encoded: LARGE}


def test_refused_upload_is_committed_once_it_is_declared_rightly(repository: Path) -> None:
    """[S7.2] Bytes that hash to it are committed at the close, or the fsync, after which they
    do.
    """
    file = _refused(repository, LARGE)
    os.setxattr(file, "user.blobfs.digest", str(Digest.of(LARGE)).encode())
    assert state(file) == "committed"
    assert layers(repository) == {Digest.of(LARGE).encoded: LARGE}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@both
def test_digest_is_declared_by_an_attribute(
    repository: Path, content: bytes, algorithm: str
) -> None:
    """[S7.2] By the attribute `user.blobfs.digest`."""
    file = upload(repository, "layer.tar")
    with file.open("wb", buffering=0) as opened:
        digest = Digest.of(content, algorithm)
        os.setxattr(opened.fileno(), "user.blobfs.digest", str(digest).encode())
        opened.write(content)
        os.fsync(opened.fileno())
        assert layer(repository, digest).read_bytes() == content  # not yet closed
    assert state(file) == "committed"


@both
def test_other_bytes_than_an_attribute_declared_are_refused(
    repository: Path, content: bytes
) -> None:
    """[S7.2] Other bytes are EBADMSG at the last close, or at the rename, and nothing appears in
    `_layers`.
    """
    file = upload(repository, "layer.tar")
    file.touch()
    os.setxattr(file, "user.blobfs.digest", str(OTHER).encode())
    with failing_with(errno.EBADMSG), file.open("r+b", buffering=0) as opened:
        opened.write(content)
    assert layers(repository) == {}
    assert os.getxattr(file, "user.blobfs.digest").decode() == str(OTHER)


@both
def test_other_size_than_declared_is_refused(repository: Path, content: bytes) -> None:
    """[S7.2] A size by `user.blobfs.size`."""
    file = upload(repository, Digest.of(content))
    with failing_with(errno.EBADMSG), file.open("wb", buffering=0) as opened:
        os.setxattr(opened.fileno(), "user.blobfs.size", str(len(content) + 1).encode())
        opened.write(content)
    assert layers(repository) == {}
    assert os.getxattr(file, "user.blobfs.size").decode() == str(len(content) + 1)


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        ("user.blobfs.digest", b"sha256:0", errno.EINVAL),
        ("user.blobfs.digest", b"\xff", errno.EINVAL),
        ("user.blobfs.size", b"-1", errno.EINVAL),
        ("user.blobfs.size", b"1" * 30, errno.EINVAL),
        ("user.blobfs.other", b"x", errno.EINVAL),
        ("security.x", b"x", errno.EOPNOTSUPP),
    ],
)
def test_what_declares_nothing_is_refused(
    repository: Path, name: str, value: bytes, number: int
) -> None:
    file = upload(repository, "layer.tar")
    file.touch()
    with failing_with(number):
        os.setxattr(file, name, value)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@both
def test_rename_onto_a_layer_declares_and_commits(
    repository: Path, content: bytes, algorithm: str
) -> None:
    """[S7.2] By a rename onto `../_layers/<algorithm>/<hex>`. Of an upload that is still open, as
    its program was stopped.
    """
    file = _refused(repository, content)
    digest = Digest.of(content, algorithm)
    put_layer(repository, b"another", algorithm)  # so that there is a directory for them
    target = layer(repository, digest)
    os.rename(file, target)
    assert target.read_bytes() == content
    assert not file.exists()


@both
def test_rename_onto_another_layer_is_refused(repository: Path, content: bytes) -> None:
    """[S7.2] Other bytes are EBADMSG at the last close, or at the rename."""
    file = _refused(repository, content)
    with failing_with(errno.EBADMSG):
        os.rename(file, layer(repository, Digest.of(b"another still")))
    assert layers(repository) == {}
    assert file.read_bytes() == content


@pytest.mark.parametrize("place", [upload, layer])
def test_rename_onto_the_declared_layer_is_refused_too(
    repository: Path, place: Callable[[Path, Digest], Path]
) -> None:
    """[S7.2] Other bytes are EBADMSG at the last close, or at the rename. Also if the upload has
    the name of the layer.
    """
    with failing_with(errno.EBADMSG):
        place(repository, OTHER).write_bytes(SMALL)
    with failing_with(errno.EBADMSG):
        os.rename(upload(repository, OTHER), layer(repository, OTHER))
    assert upload(repository, OTHER).read_bytes() == SMALL


@both
def test_upload_that_a_crash_left_complete_is_committed_by_a_rename_onto_its_layer(
    shared: MountedRegistry, repository: Path, content: bytes
) -> None:
    """[S7.23] Or by a rename, also where a crash or a kill has left bytes that nobody has
    hashed.
    """
    put_layer(repository, b"another")
    digest = Digest.of(content)
    name = RepositoryName(str(repository.relative_to(shared.path)))
    with open_registry(str(shared.storage)) as registry:
        writer = registry.repository(name).uploads.create(name=str(digest), digest=digest)
        writer.write(content)
        writer.close()
    file = upload(repository, digest)
    eventually(file.exists)
    assert not layer(repository, digest).exists()
    os.rename(file, layer(repository, digest))
    assert layers(repository)[digest.encoded] == content
    assert not file.exists()


@pytest.mark.parametrize(
    "name", ["user.mine", "user.blobfs.state", "user.blobfs.media_type", "user.blobfs.repository"]
)
def test_attribute_that_declares_nothing_is_taken_and_dropped(repository: Path, name: str) -> None:
    """[S7.25] Other `user.` attributes than those of S7.13 are taken and dropped, on uploads and
    receipts. As ``cp -a``, ``rsync -X`` and ``tar --xattrs`` set them, on uploads and receipts.
    """
    file = upload(repository, "layer.tar")
    with file.open("wb", buffering=0) as opened:
        os.setxattr(opened.fileno(), name, b"x")
        opened.write(SMALL)
    os.setxattr(file, name, b"x")
    assert state(file) == "committed"
    assert "user.mine" not in os.listxattr(file)


def test_attributes_of_a_receipt_can_be_set_to_what_they_are_and_removed(repository: Path) -> None:
    """[S7.25] Other `user.` attributes than those of S7.13 are taken and dropped, on uploads and
    receipts. As ``rsync -X`` does; they show as before.
    """
    file = upload(repository, "layer.tar")
    file.write_bytes(SMALL)
    shown = {name: os.getxattr(file, name) for name in os.listxattr(file)}
    for name, value in shown.items():
        os.setxattr(file, name, value)
        os.removexattr(file, name)
    assert {name: os.getxattr(file, name) for name in os.listxattr(file)} == shown
    for name, value in (("digest", str(OTHER).encode()), ("size", b"1")):
        with failing_with(errno.EBADMSG):
            os.setxattr(file, f"user.blobfs.{name}", value)


def test_declaration_cannot_be_removed(repository: Path) -> None:
    """[S7.25] What is declared of an open upload cannot be removed (EPERM)."""
    file = _refused(repository, SMALL)
    os.removexattr(file, "user.blobfs.state")
    with failing_with(errno.EPERM):
        os.removexattr(file, "user.blobfs.digest")
    with failing_with(errno.ENODATA):
        os.removexattr(file, "user.mine")


def test_mknod_of_a_regular_file_begins_an_upload(repository: Path) -> None:
    """[S7.25] `mknod` of a regular file begins an upload."""
    file = upload(repository, "layer.tar")
    os.mknod(file, stat.S_IFREG | 0o600)
    with failing_with(errno.EEXIST):
        os.mknod(file, stat.S_IFREG | 0o600)
    with failing_with(errno.EPERM):
        os.mknod(upload(repository, "pipe"), stat.S_IFIFO | 0o600)
    with failing_with(errno.EPERM):
        os.mknod(repository / "file", stat.S_IFREG | 0o600)
    with file.open("r+b", buffering=0) as opened:
        opened.write(SMALL)
    assert layers(repository) == {Digest.of(SMALL).encoded: SMALL}


def test_receipt_is_renamed_onto_its_own_layer(repository: Path) -> None:
    """[S7.9] A rename onto the layer that it is changes nothing, as rename(2) has it for two names
    of one file. Both are names of one file, for which rename(2) does nothing.
    """
    file = upload(repository, "layer.tar")
    file.write_bytes(SMALL)
    with failing_with(errno.EBADMSG):
        os.rename(file, layer(repository, OTHER))
    os.rename(file, layer(repository, Digest.of(SMALL)))
    assert state(file) == "committed"
    assert layers(repository) == {Digest.of(SMALL).encoded: SMALL}


def test_rename_in_the_directory_declares_and_commits(repository: Path) -> None:
    """[S7.2] A digest is declared by the name. [S7.11] `mv` within `_uploads` renames."""
    file = _refused(repository, LARGE)
    os.rename(file, upload(repository, Digest.of(LARGE)))
    assert state(upload(repository, Digest.of(LARGE))) == "committed"
    assert not file.exists()


def test_second_writer_is_refused_and_a_reader_is_not(repository: Path) -> None:
    """[S7.7] One opening at a time writes an upload: another is EBUSY."""
    file = upload(repository, "layer.tar")
    with file.open("wb", buffering=0) as opened:
        opened.write(LARGE)
        for flags in (os.O_WRONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with failing_with(errno.EBUSY):
                os.open(file, flags)
        with failing_with(errno.EBUSY):
            os.truncate(file, 0)
        assert file.read_bytes() == LARGE
    assert layers(repository) == {Digest.of(LARGE).encoded: LARGE}


def test_fsync_makes_it_known_to_the_storage(shared: MountedRegistry, repository: Path) -> None:
    """[S7.8] `fsync` makes what was written durable, resumable by anybody, after a crash too. In
    distribution's files, from which anybody can resume it.
    """
    with upload(repository, "layer.tar").open("wb", buffering=0) as opened:
        opened.write(SMALL)
        os.fsync(opened.fileno())
        [stored] = stored_uploads(shared, repository)
        assert (stored / "data").read_bytes() == SMALL
        assert (stored / f"hashstates/sha256/{len(SMALL)}").stat().st_size > 0
        assert layers(repository) == {}


@both
@pytest.mark.parametrize("is_written", [False, True], ids=["closed", "while it is written"])
def test_rm_leaves_nothing_in_the_storage(
    shared: MountedRegistry, repository: Path, content: bytes, is_written: bool
) -> None:
    """[S7.10] `rm` of an open upload removes all of it from the storage, also while it is
    written.
    """
    if is_written:
        file = upload(repository, "layer.tar")
        with file.open("wb", buffering=0) as opened:
            opened.write(content)
            os.fsync(opened.fileno())
            file.unlink()
            assert stored_uploads(shared, repository) == []
    else:
        file = _refused(repository, content)
        assert len(stored_uploads(shared, repository)) == 1
        file.unlink()
    assert stored_uploads(shared, repository) == []
    assert os.listdir(repository / "_uploads") == []
    assert layers(repository) == {}


def test_rename_keeps_what_an_open_upload_has(repository: Path) -> None:
    """[S7.11] `mv` within `_uploads` renames."""
    file, renamed = _refused(repository, LARGE), upload(repository, "renamed")
    os.rename(file, renamed)
    assert renamed.read_bytes() == LARGE
    assert os.listdir(repository / "_uploads") == ["renamed"]


def test_upload_is_renamed_while_it_is_written(repository: Path) -> None:
    """[S7.11] `mv` within `_uploads` renames."""
    file, renamed = upload(repository, "layer.tar"), upload(repository, "renamed")
    with file.open("wb", buffering=0) as opened:
        opened.write(LARGE[:1000])
        os.rename(file, renamed)
        opened.write(LARGE[1000:])
    assert state(renamed) == "committed"
    assert layers(repository) == {Digest.of(LARGE).encoded: LARGE}


def test_rename_does_not_replace_what_is_being_written(repository: Path) -> None:
    """[S7.7] One opening at a time writes an upload: another is EBUSY."""
    file, other = _refused(repository, SMALL), upload(repository, "other")
    with other.open("wb", buffering=0) as opened:
        opened.write(LARGE)
        with failing_with(errno.EBUSY):
            os.rename(file, other)
    assert state(other) == "committed"
    assert file.read_bytes() == SMALL


@pytest.mark.parametrize("below", ["_manifests/_uploads", "_manifests/tags", "", "../elsewhere"])
def test_rename_to_any_other_directory_is_not_possible(repository: Path, below: str) -> None:
    """[S7.11] To any other directory it copies (EXDEV)."""
    (repository.parent / "elsewhere").mkdir(exist_ok=True)
    file = _refused(repository, SMALL)
    with failing_with(errno.EXDEV):
        os.rename(file, repository / below / "new")
    assert file.read_bytes() == SMALL


def test_mv_to_another_repository_copies(repository: Path) -> None:
    """[S7.11] To any other directory it copies (EXDEV)."""
    other = repository.parent / f"{repository.name}-too"
    other.mkdir()
    upload(repository, "layer.tar").write_bytes(LARGE)
    assert shell("mv", upload(repository, "layer.tar"), upload(other, "layer.tar")).returncode == 0
    assert layers(other) == {Digest.of(LARGE).encoded: LARGE}
    assert os.listdir(repository / "_uploads") == []


def test_what_a_commit_of_hours_does_not_hold_up(storage: Path, tmp_path: Path) -> None:
    """[S6.3] SIGTERM and SIGINT unmount.
    [S7.10] `rm` of an open upload removes all of it from the storage, also while it is written.
    [S7.15] `rm` of the upload and the end of the mount (SIGTERM, SIGINT) stop it likewise; the
    mount ends within 10 s. A removal, and the end of the mount, which leaves the upload.
    """
    place = tmp_path / "m"
    place.mkdir()
    mount = MountedRegistry(storage, place, tmp_path / "log")
    options = ("--foreground", "--log-file", mount.log, "--max-upload", "2T")
    with subprocess.Popen([*BLOBFS, "mount", *options, storage, place]) as daemon:
        eventually((place / ".blobfs").exists)
        (place / "slow").mkdir()
        file = upload(place / "slow", "layer.tar")
        with _committing(file) as slow:
            with file.open("rb") as reading:
                assert reading.read(10) == bytes(10)
            assert layers(place / "slow") == {}
            assert state(file) == "open"
            with failing_with(errno.EBUSY):
                file.open("ab")
            assert mount.control("uploads.json")
            file.unlink()
            assert slow.wait(10) != 0
            assert os.listdir(file.parent) == []
        with _committing(file) as slow:
            daemon.terminate()
            assert daemon.wait(10) == 0
            assert slow.wait(10) != 0
    assert not place.is_mount()
    with mounted(storage, tmp_path) as mount:
        assert "the mount ended" in state(upload(mount.path / "slow", "layer.tar"))


@contextmanager
def _committing(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is closing a file of 1 TiB."""
    with subprocess.Popen(["truncate", "-s", "1T", file], stderr=subprocess.DEVNULL) as slow:
        eventually(lambda: file.exists() and file.stat().st_size == 2**40)
        yield slow


def test_blob_of_another_size_is_replaced_and_shows_it_at_once(
    layout: Layout, storage: Path, mount: MountedRegistry
) -> None:
    """[S7.17] One of another size, which a crash has left, is replaced."""
    digest = layout.layer(LARGE)
    data = Path(f"{storage}{paths.blob_data(digest)}")
    os.truncate(data, 100)
    blob = layer(mount.path / APP, digest)
    assert (blob.stat().st_size, len(blob.read_bytes())) == (100, 100)
    upload(mount.path / APP, digest).write_bytes(LARGE)
    eventually(lambda: blob.stat().st_size == len(LARGE), within_s=1)
    assert blob.read_bytes() == data.read_bytes() == LARGE


def test_blob_of_the_right_size_is_kept(shared: MountedRegistry, repository: Path) -> None:
    """[S7.17] A blob that is there with the right size is kept."""
    digest = put_layer(repository, LARGE[:-5])
    data = Path(f"{shared.storage}{paths.blob_data(digest)}")
    before = data.stat()
    other = repository.parent / f"{repository.name}-too"
    other.mkdir()
    put_layer(other, LARGE[:-5])
    assert (data.stat().st_ino, data.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@both
def test_what_cp_has_closed_is_there(repository: Path, tmp_path: Path, content: bytes) -> None:
    """[S7.18] What was closed before a lookup or a listing of the repository is committed before
    that is answered. Neither looked up nor listed too early, again and again.
    """
    source = tmp_path / "source"
    for number in range(10):
        source.write_bytes(content + str(number).encode())
        digest = Digest.of(source.read_bytes())
        script = 'cat "$1" > "$2/_uploads/u$3" && ls "$2/_layers/sha256" "$2/_layers/sha256/$4"'
        done = shell("bash", "-c", script, "-", source, repository, str(number), digest.encoded)
        assert done.stdout.count(digest.encoded) == 2
