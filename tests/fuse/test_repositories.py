"""Repositories made and removed, what is deleted from them, and what cannot be changed."""

import errno
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName
from tests.support.layout import APP, LATEST, Layout, image
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted
from tests.support.repositories import (
    layer,
    layers,
    put_layer,
    put_manifest,
    revision,
    shell,
    stored_uploads,
    upload,
)

pytestmark = pytest.mark.fuse

CONTENT = random.Random(5).randbytes(1000)


def test_made_repository_has_what_one_needs_to_fill_it(repository: Path) -> None:
    """[S8.1] `mkdir` makes an empty repository."""
    assert sorted(os.listdir(repository)) == ["_layers", "_manifests", "_uploads"]
    assert os.listdir(repository / "_uploads") == []
    assert os.listdir(repository / "_layers/sha256") == []
    digest = put_layer(repository, CONTENT)
    assert layer(repository, digest).read_bytes() == CONTENT


def test_made_repository_is_nowhere_else_until_it_is_filled(storage: Path, tmp_path: Path) -> None:
    """[S8.1] `mkdir` makes an empty repository: in this mount only, until something is stored in
    it.
    """
    with mounted(storage, tmp_path) as mount, mounted(storage, tmp_path) as other:
        (mount.path / "app").mkdir()
        assert os.listdir(other.path) == []
        put_layer(mount.path / "app", CONTENT)
        eventually((other.path / "app").exists, within_s=3)
    with mounted(storage, tmp_path) as mount:
        assert os.listdir(mount.path) == ["app"]


@pytest.mark.parametrize(
    "name", ["App", "-app", "app-", "_blobs", "a b", ".hidden", "é", "x" * 256]
)
def test_name_that_no_repository_has_is_not_made(repository: Path, name: str) -> None:
    """[S8.1] A name that no repository can have is EINVAL."""
    with failing_with(errno.ENAMETOOLONG if len(name) > 255 else errno.EINVAL):
        (repository / name).mkdir()


def test_repository_that_is_there_is_not_made_again(repository: Path) -> None:
    with failing_with(errno.EEXIST):
        repository.mkdir()


def test_empty_repository_is_removed(shared: MountedRegistry, repository: Path) -> None:
    """[S8.1] `rmdir` of an empty one works. Also where the storage knows of it."""
    repository.rmdir()
    assert not repository.exists()
    assert repository.name not in os.listdir(repository.parent)


def test_repository_that_uploads_went_through_is_removed(
    shared: MountedRegistry, repository: Path
) -> None:
    """[S8.1] `rmdir` of an empty one works. Directories that are left in the storage, and empty, do
    not count.
    """
    file = upload(repository, Digest.of(CONTENT))
    with failing_with(errno.EBADMSG):
        file.write_bytes(b"other")
    assert stored_uploads(shared, repository)
    file.unlink()
    repository.rmdir()
    assert not repository.exists()


def _with_an_upload(repository: Path) -> None:
    (repository / "_uploads/layer.tar").touch()


def _with_a_manifest_upload(repository: Path) -> None:
    (repository / "_manifests/_uploads/v1").touch()


def _with_a_layer(repository: Path) -> None:
    put_layer(repository, CONTENT)


def _with_another_below(repository: Path) -> None:
    (repository / "below").mkdir()


@pytest.mark.parametrize(
    "fill", [_with_an_upload, _with_a_manifest_upload, _with_a_layer, _with_another_below]
)
def test_repository_that_has_something_is_not_removed(
    repository: Path, fill: Callable[[Path], None]
) -> None:
    """[S8.1] `rmdir` of an empty one works, of any other is ENOTEMPTY."""
    fill(repository)
    with failing_with(errno.ENOTEMPTY):
        repository.rmdir()
    assert repository.exists()


@pytest.fixture
def stocked(layout: Layout) -> tuple[Digest, Digest]:
    """A layer, and a manifest that is tagged, in APP."""
    blob = layout.layer(CONTENT)
    manifest = layout.revision(image(blob))
    layout.tag(manifest)
    return blob, manifest


@pytest.mark.parametrize("kind", ["_layers", "_manifests/revisions"])
def test_nothing_is_deleted_unasked(
    stocked: tuple[Digest, Digest], mount: MountedRegistry, kind: str
) -> None:
    """[S9.1] `rm` of a file in `_layers` or `revisions` is EPERM without `--allow-delete`."""
    directory = mount.path / APP / kind / "sha256"
    [name] = os.listdir(directory)
    with failing_with(errno.EPERM):
        (directory / name).unlink()
    assert (directory / name).exists()


def test_layer_is_deleted_from_the_repository_alone(
    layout: Layout, storage: Path, tmp_path: Path
) -> None:
    """[S9.1] With it, the repository's link goes, and the blob stays until garbage is collected."""
    digest = layout.layer(CONTENT)
    layout.layer(CONTENT, RepositoryName("other"))
    with mounted(storage, tmp_path, "--allow-delete") as mount:
        blob = layer(mount.path / APP, digest)
        assert blob.read_bytes() == CONTENT
        blob.unlink()
        assert not blob.exists()
        assert os.listdir(blob.parent) == []
        assert not Path(f"{storage}{paths.link(paths.layers(APP), digest)}").exists()
        assert layer(mount.path / "other", digest).read_bytes() == CONTENT
        with pytest.raises(FileNotFoundError):
            blob.unlink()


def test_tag_of_a_deleted_manifest_leads_nowhere(
    stocked: tuple[Digest, Digest], storage: Path, tmp_path: Path
) -> None:
    """[S9.1] A tag of a deleted revision leads nowhere."""
    with mounted(storage, tmp_path, "--allow-delete") as mount:
        tag = mount.path / APP / "_manifests/tags" / LATEST
        assert tag.read_bytes() == image(stocked[0])
        revision(mount.path / APP, stocked[1]).unlink()
        assert os.listdir(mount.path / APP / "_manifests/revisions/sha256") == []
        assert os.path.lexists(tag)
        assert not tag.exists()
        assert Path(f"{storage}{paths.blob_data(stocked[1])}").exists()


def test_deleted_layer_is_put_anew(layout: Layout, storage: Path, tmp_path: Path) -> None:
    """[S9.1] The blob stays until garbage is collected."""
    digest = layout.layer(CONTENT)
    with mounted(storage, tmp_path, "--allow-delete") as mount:
        layer(mount.path / APP, digest).unlink()
        put_layer(mount.path / APP, CONTENT)
        assert layers(mount.path / APP) == {digest.encoded: CONTENT}


def _changes(root: Path, stocked: tuple[Digest, Digest]) -> list[Callable[[], object]]:
    repository = root / APP
    blob = layer(repository, stocked[0])
    tags = repository / "_manifests/tags"
    return [
        (root / "new").mkdir,
        repository.rmdir,
        upload(repository, "new").touch,
        (repository / "_manifests/_uploads/new").touch,
        blob.unlink,
        revision(repository, stocked[1]).unlink,
        (tags / LATEST).unlink,
        lambda: (tags / "new").symlink_to(os.readlink(tags / LATEST)),
        lambda: (tags / LATEST).rename(tags / "new"),
        lambda: os.link(blob, repository / "_layers/sha256" / Digest.of(b"x").encoded),
        lambda: blob.chmod(0o600),
        lambda: os.utime(repository),
        lambda: os.setxattr(blob, "user.blobfs.digest", b"x"),
        lambda: os.removexattr(blob, "user.blobfs.digest"),
        lambda: os.truncate(blob, 0),
        lambda: os.open(blob, os.O_WRONLY),
        lambda: os.mkfifo(root / "new"),
    ]


def test_read_only_mount_is_never_changed(
    stocked: tuple[Digest, Digest], storage: Path, tmp_path: Path
) -> None:
    """[S9.2] With `--read-only` every change is EROFS; together with `--allow-delete` it is
    refused.
    """
    with mounted(storage, tmp_path, "--read-only") as mount:
        for change in _changes(mount.path, stocked):
            with failing_with(errno.EROFS):
                change()
        assert layer(mount.path / APP, stocked[0]).read_bytes() == CONTENT


PLACES = ["_layers", "_layers/sha256", "_manifests", "_manifests/revisions",
          "_manifests/revisions/sha256", "_manifests/tags", "_manifests/history/v1"]  # fmt: skip


@pytest.fixture
def filled(repository: Path) -> Path:
    """A repository with a layer, and a manifest that is tagged."""
    put_manifest(repository, image(put_layer(repository, CONTENT)), "v1")
    return repository


@pytest.mark.parametrize(
    "place",
    [*(each for each in PLACES if each != "_manifests/tags"), "", "..", "../..", "../../.blobfs"],
)
def test_files_are_made_only_where_they_are_uploaded(filled: Path, place: str) -> None:
    """[S9.3] Everything else that would change something is EPERM."""
    with failing_with(errno.EPERM):
        (filled / place / "new").touch()


@pytest.mark.parametrize("place", [*PLACES, "_uploads", "_manifests/_uploads", "../../.blobfs"])
def test_directories_are_made_only_as_repositories(filled: Path, place: str) -> None:
    """[S9.3] Everything else that would change something is EPERM."""
    with failing_with(errno.EPERM):
        (filled / place / "new").mkdir()


@pytest.mark.parametrize("place", [*PLACES[:-1], "_manifests/history"])
def test_directories_of_a_repository_stay(filled: Path, place: str) -> None:
    """[S8.12] `rmdir` of a directory that a repository always has (`_layers`, `_layers/sha256`,
    `_manifests` and so on) is ENOTEMPTY.
    """
    with failing_with(errno.ENOTEMPTY):
        (filled / place).rmdir()


@pytest.mark.parametrize("place", [*PLACES[:-1], "_uploads", "_manifests/_uploads"])
def test_empty_directory_of_a_repository_is_there_after_its_rmdir(
    repository: Path, place: str
) -> None:
    """[S8.12] Or succeeds if it holds nothing, and is there again as long as the repository is."""
    (repository / place).rmdir()
    assert (repository / place).is_dir()


def test_rm_r_of_an_empty_repository_removes_it(repository: Path) -> None:
    """[S8.12] So `rm -r` of a repository removes its uploads and tags."""
    (repository / "below/it").mkdir(parents=True)
    done = shell("rm", "-r", repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert not repository.exists()


def test_rm_r_removes_all_where_deleting_is_allowed(storage: Path, tmp_path: Path) -> None:
    """[S8.12] With `--allow-delete` its layers, its manifests and itself. But for the blobs, which
    wait for a garbage collection.
    """
    with mounted(storage, tmp_path, "--allow-delete") as mount:
        repository = mount.path / "team/app"
        repository.mkdir(parents=True)
        digest = put_layer(repository, CONTENT)
        for tag in ("v1", "v2"):
            put_manifest(repository, image(digest), tag)
        upload(repository, "receipt").write_bytes(b"committed")
        with failing_with(errno.EBADMSG):
            upload(repository, Digest.of(b"x")).write_bytes(b"open")
        done = shell("rm", "-r", mount.path / "team")
        assert (done.returncode, done.stderr) == (0, "")
        assert os.listdir(mount.path) == []
    assert not list((storage / "docker/registry/v2/repositories").iterdir())
    assert Path(f"{storage}{paths.blob_data(digest)}").exists()


def test_rm_r_says_what_it_may_not_delete(filled: Path) -> None:
    """[S8.12] Without, it says for each layer and manifest that it cannot, and those stay."""
    done = shell("rm", "-rf", filled)
    assert done.returncode == 1
    for kind in ("_layers", "_manifests/revisions"):
        assert f"cannot remove '{filled}/{kind}/sha256/" in done.stderr
    assert set(layers(filled)) == {Digest.of(CONTENT).encoded}
    assert os.listdir(filled / "_manifests/tags") == []


def test_cp_r_copies_a_repository_once(repository: Path) -> None:
    """[S8.13] `cp -r` of a repository copies it; of one that is there already it fails, and says
    where.
    """
    put_manifest(repository, image(put_layer(repository, CONTENT)), "v1")
    copy = repository.with_name(f"{repository.name}-copy")
    assert shell("cp", "-r", repository, copy).returncode == 0
    assert layers(copy) == {Digest.of(CONTENT).encoded: CONTENT}
    assert (copy / "_manifests/tags/v1").read_bytes() == image(Digest.of(CONTENT))
    done = shell("cp", "-r", f"{repository}/.", copy)
    assert done.returncode == 1
    assert Digest.of(CONTENT).encoded in done.stderr


def test_directory_above_made_ones_is_no_repository(repository: Path) -> None:
    """[S8.10] A directory that `mkdir` made is a repository while no other was made below it, so
    `mkdir -p team/app` makes one repository.
    """
    below = repository / "team/app"
    below.mkdir(parents=True)
    assert os.listdir(repository) == ["team"]
    assert os.listdir(repository / "team") == ["app"]
    assert not (repository / "team/_layers").exists()
    assert sorted(os.listdir(below)) == sorted(paths.MARKERS)
    below.rmdir()
    assert sorted(os.listdir(repository / "team")) == sorted(paths.MARKERS)


def test_repository_that_is_used_is_one_whatever_is_made_below_it(repository: Path) -> None:
    """[S8.10] `team` is one too if it has an upload, if something is stored in it, or after `mkdir
    team/_uploads`. Before anything is stored, and after.
    """
    open_upload = upload(repository, "open")
    open_upload.touch()
    (repository / "below").mkdir()
    assert sorted(os.listdir(repository)) == sorted([*paths.MARKERS, "below"])
    open_upload.unlink()
    assert os.listdir(repository) == ["below"]
    (repository / "_uploads").mkdir()
    digest = put_layer(repository, CONTENT)
    assert layers(repository) == {digest.encoded: CONTENT}
    assert sorted(os.listdir(repository)) == sorted([*paths.MARKERS, "below"])


def test_digest_finds_what_is_called_so(filled: Path) -> None:
    """[S8.11] `_layers/<algorithm>:<hex>` is found, but not listed: a symlink to
    `<algorithm>/<hex>`. It is not listed, and leads to nothing where there is nothing.
    """
    [revision_name] = os.listdir(filled / "_manifests/revisions/sha256")
    for directory, name in (
        (filled / "_layers", Digest.of(CONTENT).encoded),
        (filled / "_manifests/revisions", revision_name),
        (filled / "_manifests/history/v1", revision_name),
    ):
        named = directory / f"sha256:{name}"
        assert os.readlink(named) == f"sha256/{name}"
        assert named.read_bytes() == (directory / "sha256" / name).read_bytes()
        assert named.stat().st_ino == (directory / "sha256" / name).stat().st_ino
        assert os.listdir(directory) == ["sha256"]
        for other in (f"sha256:{'0' * 64}", f"sha512:{name}", "sha256:", "md5:00", ":"):
            with pytest.raises(FileNotFoundError):
                os.lstat(directory / other)


@pytest.mark.parametrize("place", ["", "..", "_uploads", "_layers/sha256"])
@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR])
def test_devices_pipes_and_sockets_are_not_made(filled: Path, place: str, kind: int) -> None:
    """[S9.3] Everything else that would change something is EPERM."""
    with failing_with(errno.EPERM):
        os.mknod(filled / place / "new", kind | 0o644, os.makedev(1, 3))


def test_other_links_and_names_are_not_made(shared: MountedRegistry, filled: Path) -> None:
    """[S9.3] Everything else that would change something is EPERM."""
    blob = layer(filled, Digest.of(CONTENT))
    version = shared.path / ".blobfs/version"
    changes: list[Callable[[], object]] = [
        lambda: (shared.path / "new").symlink_to("team"),
        lambda: upload(filled, "new").symlink_to("other"),
        lambda: os.link(version, upload(filled, "new")),
        lambda: os.link(blob, filled / "_manifests/tags/new"),
        lambda: blob.rename(blob.with_name(Digest.of(b"x").encoded)),
        lambda: filled.rename(filled.with_name("new")),
        next((filled / "_manifests/history/v1/sha256").iterdir()).unlink,
        version.unlink,
    ]
    for change in changes:
        with failing_with(errno.EPERM):
            change()


def test_manifest_is_put_with_nothing_left_behind(repository: Path) -> None:
    digest = put_manifest(repository, image(put_layer(repository, CONTENT)))
    assert revision(repository, digest).read_bytes() == image(Digest.of(CONTENT))
    assert os.listdir(repository / "_manifests/_uploads") == []
