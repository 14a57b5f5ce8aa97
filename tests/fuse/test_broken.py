"""Storages that contradict themselves, and names that nothing can have."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.reference import Tag
from tests.support.layout import APP, LATEST, Layout, image
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted

pytestmark = pytest.mark.fuse

Breaking = Callable[[Layout, Path, bytes], Digest]


def _link(link: bytes) -> Breaking:
    def broken(layout: Layout, _storage: Path, content: bytes) -> Digest:
        return layout.link(paths.layers(APP), layout.blob(content), link)

    return broken


def _newline(layout: Layout, _storage: Path, content: bytes) -> Digest:
    digest = layout.blob(content)
    return layout.link(paths.layers(APP), digest, f"{digest}\n".encode())


def _no_blob(layout: Layout, _storage: Path, content: bytes) -> Digest:
    digest = layout.link(paths.layers(APP), Digest.of(content))
    layout.revision(image(digest))
    return digest


def _directory_for_data(layout: Layout, storage: Path, content: bytes) -> Digest:
    digest = layout.link(paths.layers(APP), Digest.of(content))
    Path(f"{storage}{paths.blob_data(digest)}").mkdir(parents=True)
    return digest


def _directory_for_link(layout: Layout, storage: Path, content: bytes) -> Digest:
    digest = layout.blob(content)
    Path(f"{storage}{paths.link(paths.layers(APP), digest)}").mkdir(parents=True)
    return digest


def _emptied(layout: Layout, _storage: Path, content: bytes) -> Digest:
    digest = layout.layer(content)
    layout.put(paths.blob_data(digest), b"")
    return digest


BROKEN: dict[str, Breaking] = {
    "empty link": _link(b""),
    "link of a newline": _newline,
    "link of half a digest": _link(b"sha256:0123456789abcdef"),
    "link to another digest": _link(str(Digest.of(b"good")).encode()),
    "link of bytes": _link(b"\xff\x00" * 5000),
    "link without a blob": _no_blob,
    "directory named link": _directory_for_link,
    "directory named data": _directory_for_data,
    "blob that is empty": _emptied,
}


class WithBroken:
    """A mount of a repository with a good layer, and one that is broken in each way."""

    def __init__(self, mount: MountedRegistry, good: Digest, broken: dict[str, Digest]) -> None:
        self.mount = mount
        self.layers = mount.path / APP / "_layers/sha256"
        self.good = good
        self.broken = broken


@pytest.fixture(scope="module")
def with_broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithBroken]:
    place = tmp_path_factory.mktemp("broken")
    storage = place / "storage"
    (storage / "docker/registry/v2").mkdir(parents=True)
    with (
        closing(BaseDriver(FilesystemDriver.below(storage))) as driver,
        mounted(storage, place) as mount,
    ):
        layout = Layout(driver)
        broken = {kind: BROKEN[kind](layout, storage, kind.encode()) for kind in BROKEN}
        yield WithBroken(mount, layout.layer(b"good"), broken)


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_layer_is_an_error_with_one_warning_that_names_it(
    with_broken: WithBroken, kind: str
) -> None:
    """[S4.1] Looking it up is EIO, with one warning that names it."""
    digest = with_broken.broken[kind]
    for _ in range(3):
        with failing_with(errno.EIO):
            os.stat(with_broken.layers / digest.encoded)
    [warning] = [line for line in with_broken.mount.warnings() if digest.encoded in line]
    assert APP in warning


def test_broken_layers_are_listed_as_files_among_the_others(with_broken: WithBroken) -> None:
    """[S4.2] It is listed all the same, with its type, and everything beside it goes on working."""
    names = {digest.encoded for digest in with_broken.broken.values()}
    with os.scandir(with_broken.layers) as entries:
        found = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    assert found == dict.fromkeys(names | {with_broken.good.encoded}, True)
    assert (with_broken.layers / with_broken.good.encoded).read_bytes() == b"good"
    for name in names:
        with failing_with(errno.EIO):
            os.stat(with_broken.layers / name)


def test_broken_tag_is_an_error_and_its_neighbours_are_not(
    layout: Layout, mount: MountedRegistry
) -> None:
    """[S4.1] A tag, and with `--allow-delete` a layer or manifest, is found all the same, without a
    size; reading it is EIO then.
    [S4.2] Everything beside it goes on working.
    """
    layout.tag(layout.revision(b"{}"), LATEST)
    layout.put(paths.tag_current_link(APP, Tag("bad")), b"")
    tags = mount.path / APP / "_manifests/tags"
    with os.scandir(tags) as entries:
        assert {entry.name: entry.is_symlink() for entry in entries} == {"bad": True, LATEST: True}
    assert os.readlink(tags / LATEST).startswith("../revisions/")
    with failing_with(errno.EIO):
        os.readlink(tags / "bad")


def test_stray_files_are_not_shown(layout: Layout, storage: Path, mount: MountedRegistry) -> None:
    """[S1.6] Whatever else lies in the storage is not shown: stray files, names that no repository,
    tag or digest can have, temporary files.
    """
    layout.tag(layout.revision(layout.layer(b"x").encoded.encode()))
    root = storage / "docker/registry/v2"
    shown = sorted(str(path.relative_to(mount.path)) for path in mount.path.rglob("*"))
    directories = [path for path in root.rglob("*") if path.is_dir()]
    for directory in (storage, root, *directories):
        (directory / "stray").write_bytes(b"?")
        (directory / "STRAY").mkdir()
        Path(os.fsdecode(os.fsencode(directory) + b"/\xff\xfe")).mkdir()
    eventually(lambda: mount.path.stat().st_mtime_ns == (root / "repositories").stat().st_mtime_ns)
    assert sorted(str(path.relative_to(mount.path)) for path in mount.path.rglob("*")) == shown


NAMES = [
    b"unknown", b"\xff\xfe", b"UPPER", b"a\nb", b"...", b"n" * 255, b".hidden", b"_unknown",
    b"0" * 63,
]  # fmt: skip


@pytest.mark.parametrize(
    "directory",
    ["", APP, f"{APP}/_layers", f"{APP}/_layers/sha256", f"{APP}/_manifests",
     f"{APP}/_manifests/revisions/sha256", f"{APP}/_manifests/tags", f"{APP}/_manifests/history",
     f"{APP}/_manifests/history/{LATEST}", f"{APP}/_uploads", "_blobs", "_blobs/sha256", ".blobfs"],
)  # fmt: skip
def test_names_that_are_not_there(names: MountedRegistry, directory: str) -> None:
    """[S1.6] Any other name that is not there, in whatever encoding, ENOENT."""
    for name in NAMES:
        with failing_with(errno.ENOENT):
            os.stat(os.fsencode(names.path / directory) + b"/" + name)


@pytest.mark.parametrize("length", [256, 1000])
@pytest.mark.parametrize("directory", ["", f"{APP}/_layers/sha256", f"{APP}/_manifests/tags"])
def test_names_that_are_too_long(names: MountedRegistry, directory: str, length: int) -> None:
    """[S1.6] A name longer than 255 bytes is ENAMETOOLONG."""
    with failing_with(errno.ENAMETOOLONG):
        os.stat(names.path / directory / ("n" * length))


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    """A mount with one of each directory, for looking up names."""
    place = tmp_path_factory.mktemp("names")
    (place / "storage").mkdir()
    driver = BaseDriver(FilesystemDriver.below(place / "storage"))
    layout = Layout(driver)
    layout.tag(layout.revision(layout.layer(b"x").encoded.encode()))
    driver.close()
    with mounted(place / "storage", place, "--expose-blobs") as mount:
        yield mount


def test_symlink_in_the_storage_is_not_followed(
    layout: Layout, storage: Path, mount: MountedRegistry, tmp_path: Path
) -> None:
    """[S1.8] No symlink in the storage is followed, wherever it leads: what lies behind one is
    EACCES. Neither a blob's bytes nor a repository come from elsewhere.
    """
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "data").write_bytes(b"root's own")
    digest = layout.link(paths.layers(APP), Digest.of(b"root's own"))
    place = Path(f"{storage}{paths.blob_data(digest)}").parent
    place.parent.mkdir(parents=True)
    place.symlink_to(secret)
    (storage / "docker/registry/v2/repositories/planted").symlink_to(tmp_path)
    with failing_with(errno.EACCES):
        (mount.path / APP / "_layers/sha256" / digest.encoded).read_bytes()
    with failing_with(errno.EACCES):
        os.stat(mount.path / "planted")


def test_what_is_behind_a_symlink_is_listed(
    layout: Layout, storage: Path, mount: MountedRegistry, tmp_path: Path
) -> None:
    """[S1.9] A repository or a tag behind a symlink is listed, so that programs that copy the tree
    report it.
    """
    layout.tag(layout.revision(layout.layer(b"x").encoded.encode()))
    (storage / "docker/registry/v2/repositories/planted").symlink_to(tmp_path)
    Path(f"{storage}{paths.tags(APP)}/planted").symlink_to(tmp_path)
    tags = mount.path / APP / "_manifests/tags"
    assert sorted(os.listdir(mount.path)) == ["planted", "team"]
    assert sorted(os.listdir(tags)) == ["latest", "planted"]
    with failing_with(errno.EACCES):
        os.readlink(tags / "planted")
    done = subprocess.run(
        ["cp", "-a", mount.path, tmp_path / "copy"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert {line.split("'")[1] for line in done.stderr.splitlines()} >= {
        f"{mount.path}/planted", f"{tags}/planted",
    }  # fmt: skip


def test_link_deleted_elsewhere_is_found_for_a_while_but_not_listed(
    layout: Layout, storage: Path, mount: MountedRegistry
) -> None:
    """[S5.2] A name with a digest in it may be found for `--entry-timeout` (1 h) after its link was
    deleted elsewhere.
    """
    digest = layout.layer(b"x")
    layers = mount.path / APP / "_layers/sha256"
    assert os.listdir(layers) == [digest.encoded]
    Path(f"{storage}{paths.link(paths.layers(APP), digest)}").unlink()
    eventually(lambda: os.listdir(layers) == [], within_s=3)
    assert (layers / digest.encoded).read_bytes() == b"x"


def test_entry_timeout_zero_forgets_at_once(layout: Layout, storage: Path, tmp_path: Path) -> None:
    """[S5.2] A name with a digest in it may be found for `--entry-timeout` (1 h) after its link was
    deleted elsewhere.
    """
    digest = layout.layer(b"x")
    with mounted(storage, tmp_path, "--entry-timeout", "0", "--negative-timeout", "0") as mount:
        blob = mount.path / APP / "_layers/sha256" / digest.encoded
        assert blob.exists()
        Path(f"{storage}{paths.link(paths.layers(APP), digest)}").unlink()
        assert not blob.exists()
        layout.link(paths.layers(APP), digest)
        assert blob.exists()
