"""What stat(2), getxattr(2) and statfs(2) show."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import FileReader
from blobfs.errors import LinkInvalid
from blobfs.fuse.attributes import AttributeMapper
from blobfs.fuse.inodes import Inode, InodeTable
from blobfs.reference import RepositoryName, Tag
from blobfs.vfs.fixed_nodes import FixedDirectory
from blobfs.vfs.nodes import (
    Attr,
    BrokenNode,
    Child,
    Directory,
    File,
    Kind,
    Lifetime,
    MutableDirectory,
    Symlink,
)
from tests.support.layout import APP, LATEST, Layout, manifest
from tests.support.mounts import MountedRegistry, failing_with, mounted, run
from tests.support.services import DockerRegistry

mount_test = pytest.mark.fuse

OTHER = RepositoryName("other/one")


def _everything(root: Path) -> dict[str, tuple[int, ...]]:
    """The fields of stat of every path below *root*, but for the device."""
    found: dict[str, tuple[int, ...]] = {}
    for directory, names, files in os.walk(root):
        for path in (directory, *(os.path.join(directory, name) for name in names + files)):
            st = os.lstat(path)
            found[os.path.relpath(path, root)] = (
                st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_size,
                st.st_blocks, st.st_blksize, st.st_mtime_ns, st.st_ctime_ns, st.st_atime_ns,
            )  # fmt: skip
    return found


@mount_test
@pytest.mark.registry
def test_every_field_of_stat_is_the_same_after_a_remount(
    registry: DockerRegistry, tmp_path: Path
) -> None:
    """[S3.2] Every field of `stat` is the same after a remount and on another host."""
    with mounted(registry.root, tmp_path) as mount:
        before = _everything(mount.path)
    with mounted(registry.root, tmp_path) as mount:
        assert _everything(mount.path) == before
    assert len(before) > 50


@mount_test
def test_times_of_a_blob_are_when_it_was_stored(
    layout: Layout, storage: Path, mount: MountedRegistry
) -> None:
    """[S3.2] mtime, ctime and atime of a blob are when its bytes were stored."""
    digest = layout.layer(b"x")
    os.utime(f"{storage}{paths.blob_data(digest)}", ns=(1, 1_234_567_890_123_456_789))
    st = (mount.path / APP / "_layers/sha256" / digest.encoded).stat()
    assert {st.st_mtime_ns, st.st_ctime_ns, st.st_atime_ns} == {1_234_567_890_123_456_789}


@mount_test
def test_blob_is_one_inode_however_it_is_reached(layout: Layout, mount: MountedRegistry) -> None:
    """[S3.1] A blob has one inode in the whole mount, whichever repository it is reached through,
    and a link count of 2.
    """
    digest = layout.layer(b"x")
    layout.layer(b"x", OTHER)
    layout.revision(b"x")
    inodes = {
        (mount.path / name / kind / "sha256" / digest.encoded).stat().st_ino
        for name, kind in ((APP, "_layers"), (OTHER, "_layers"), (APP, "_manifests/revisions"))
    }
    assert len(inodes) == 1


@mount_test
def test_blob_pushed_by_another_algorithm_is_the_same_file(
    layout: Layout, mount: MountedRegistry
) -> None:
    """[S1.7] A link to a digest of another algorithm is followed, and logged: a blob pushed as
    `sha512:…` is the same file as the `sha256:…` it is stored under.
    """
    digest = layout.layer(b"x")
    alias = Digest.of(b"x", "sha512")
    layout.link(paths.layers(APP), alias, str(digest).encode())
    layers = mount.path / APP / "_layers"
    assert set(os.listdir(layers)) == {"sha256", "sha512"}
    assert os.path.samefile(layers / "sha512" / alias.encoded, layers / "sha256" / digest.encoded)
    assert any(alias.encoded in line for line in mount.log.read_text().splitlines())


@mount_test
def test_link_counts_are_two_for_blobs_and_one_for_directories(
    common_layout: Layout, common_mount: MountedRegistry
) -> None:
    """[S3.1] Directories have a link count of 1."""
    digest = common_layout.layer(b"with a link count")
    layers = common_mount.path / APP / "_layers/sha256"
    assert (layers / digest.encoded).stat().st_nlink == 2
    assert layers.stat().st_nlink == 1


@mount_test
def test_modes_and_owner_are_the_mounting_user_s(
    common_layout: Layout, common_mount: MountedRegistry
) -> None:
    """[S3.4] Everything belongs to `--uid` and `--gid`, by default whoever mounts."""
    layers = common_mount.path / APP / "_layers/sha256"
    blob = layers / common_layout.layer(b"x" * 1025).encoded
    assert stat.filemode(blob.stat().st_mode) == "-r--r--r--"
    assert stat.filemode(layers.stat().st_mode) == "drwxr-xr-x"
    assert (blob.stat().st_uid, blob.stat().st_gid) == (os.getuid(), os.getgid())
    assert (blob.stat().st_blocks, blob.stat().st_blksize) == (3, 128 * 1024)


@mount_test
def test_umask_and_owner_are_as_told(layout: Layout, storage: Path, tmp_path: Path) -> None:
    """[S3.4] Blobs have mode 0444, directories 0755, less `--umask`."""
    digest = layout.layer(b"x")
    options = ("--umask", "027", "--uid", "12", "--gid", "34")
    with mounted(storage, tmp_path, *options) as mount:
        layers = mount.path / APP / "_layers/sha256"
        assert stat.filemode((layers / digest.encoded).stat().st_mode) == "-r--r-----"
        assert stat.filemode(layers.stat().st_mode) == "drwxr-x---"
        assert (layers.stat().st_uid, layers.stat().st_gid) == (12, 34)


def _measured(directory: Path) -> tuple[int, int]:
    """The bytes of the blobs below *directory*, and those that nothing else links."""
    size, unique = (os.getxattr(directory, f"user.blobfs.{name}") for name in ("size", "unique"))
    return int(size), int(unique)


@mount_test
def test_disk_usage_of_directories_of_repositories(layout: Layout, mount: MountedRegistry) -> None:
    """[S3.8] The attributes `user.blobfs.size` and `user.blobfs.unique` of a directory of
    repositories are the `bytes` and the `freed` that `blobfs du` shows for it.
    """
    layout.layer(b"x" * 100, APP)
    layout.layer(b"x" * 100, OTHER)
    layout.layer(b"own", OTHER)
    (mount.path / "new").mkdir()
    assert _measured(mount.path / APP) == (100, 0)
    assert _measured(mount.path / OTHER) == _measured(mount.path / "other") == (103, 3)
    assert _measured(mount.path) == (103, 103)
    assert _measured(mount.path / "new") == (0, 0)
    output = run("du", "--json", mount.storage, OTHER).stdout
    [line] = json.loads(output)["usage"]
    assert (line["bytes"], line["freed"]) == (103, 3)
    layout.layer(b"more", APP)
    assert _measured(mount.path) == (103, 103)  # of the first pass


@mount_test
def test_disk_usage_is_found_by_name_and_not_listed(layout: Layout, mount: MountedRegistry) -> None:
    """[S3.8] They are found by name and not listed."""
    layout.layer(b"x", APP)
    assert os.listxattr(mount.path / APP) == []


@mount_test
def test_extended_attributes_of_a_layer(layout: Layout, mount: MountedRegistry) -> None:
    """[S3.5] `user.blobfs.repository`, up to 64 repositories through which this mount has reached
    the blob, with commas. The repositories are those it was reached through.
    """
    media_type = "application/vnd.oci.image.manifest.v1+json"
    digest = layout.layer(b"x")
    layout.layer(b"x", OTHER)
    layout.revision(manifest(media_type, digest, digest))
    blob = mount.path / APP / "_layers/sha256" / digest.encoded
    assert os.getxattr(blob, "user.blobfs.repository") == APP.encode()
    (mount.path / OTHER / "_layers/sha256" / digest.encoded).stat()
    values = {name: os.getxattr(blob, name).decode() for name in os.listxattr(blob)}
    assert values == {
        "user.blobfs.digest": str(digest),
        "user.blobfs.media_type": "application/x-part",
        "user.blobfs.repository": f"{OTHER},{APP}",
    }


@mount_test
def test_extended_attributes_of_a_manifest_and_a_tag(
    layout: Layout, mount: MountedRegistry
) -> None:
    """[S3.5] Through a tag they are its revision's; the symlink itself has none."""
    media_type = "application/vnd.docker.distribution.manifest.v2+json"
    digest = layout.layer(b"x")
    revision = layout.revision(manifest(media_type, digest, digest))
    layout.tag(revision, LATEST)
    tag = mount.path / APP / "_manifests/tags" / LATEST
    assert os.getxattr(tag, "user.blobfs.media_type").decode() == media_type
    assert os.getxattr(tag, "user.blobfs.digest").decode() == str(revision)
    assert os.listxattr(tag, follow_symlinks=False) == []


@mount_test
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("user.nothing", errno.ENODATA),
        ("user.blobfs.nothing", errno.ENODATA),
        ("security.selinux", errno.EOPNOTSUPP),
        ("security.capability", errno.EOPNOTSUPP),
        ("system.posix_acl_access", errno.EOPNOTSUPP),
        ("trusted.overlay.opaque", errno.EOPNOTSUPP),
    ],
)
def test_unknown_extended_attribute(
    common_layout: Layout, common_mount: MountedRegistry, name: str, number: int
) -> None:
    """[S3.5] Any other `user.` attribute is ENODATA, all other kinds EOPNOTSUPP."""
    blob = common_mount.path / APP / "_layers/sha256" / common_layout.layer(name.encode()).encoded
    with failing_with(number):
        os.getxattr(blob, name)


@mount_test
def test_room_is_the_storage_s(storage: Path, mount: MountedRegistry) -> None:
    """[S3.6] `df` shows the storage's own room."""
    ours, theirs = os.statvfs(mount.path), os.statvfs(storage)
    assert ours.f_blocks * ours.f_frsize == theirs.f_blocks * theirs.f_frsize
    assert ours.f_namemax == 255


@mount_test
def test_tag_has_the_time_it_was_set(layout: Layout, storage: Path, mount: MountedRegistry) -> None:
    """[S3.2] Of a tag when it was set."""
    tag = Tag("v1")
    layout.tag(layout.revision(b"{}"), tag)
    os.utime(f"{storage}{paths.tag_current_link(APP, tag)}", ns=(5, 5))
    assert (mount.path / APP / "_manifests/tags/v1").lstat().st_mtime_ns == 5


class _Blob(File):
    """A file whose key is what the test says."""

    def __init__(self, key: str) -> None:
        self._key = key

    @property
    def key(self) -> str:
        return self._key

    def attr(self) -> Attr:
        return Attr(Kind.FILE, lifetime=Lifetime.CONTENT)

    def open(self) -> FileReader:
        raise AssertionError(Descriptor)


def _directory(path: str) -> Directory:
    return FixedDirectory(path, {}, lambda: 0)


def _table() -> tuple[InodeTable, Inode]:
    table = InodeTable(_directory("/"), AttributeMapper())
    return table, table[1]


def _remember(table: InodeTable, parent: Inode, node: File | Directory, name: str) -> Inode:
    return table.remember(parent, Child(name, node, node.attr()))


def test_numbers_of_files_and_directories_are_disjoint() -> None:
    """[S3.3] Directories and other files take their numbers from disjoint ranges."""
    table, root = _table()
    files = {_remember(table, root, _Blob(f"sha256:{i}"), f"f{i}").number for i in range(500)}
    directories = {_remember(table, root, _directory(f"/{i}"), f"d{i}").number for i in range(500)}
    assert min(files) > max(directories)
    assert len(files | directories) == 1000


def test_two_nodes_never_share_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """[S3.3] Two that would get the same one do not: the later gets the next that is free. With a
    hash that always collides.
    """
    monkeypatch.setattr("blobfs.fuse.inodes.hashed", lambda _key: 7)
    table, root = _table()
    inodes = [_remember(table, root, _Blob(key), key) for key in ("a", "b", "c")]
    assert len({inode.number for inode in inodes}) == 3
    assert _remember(table, root, _Blob("b"), "b") is inodes[1]


def _broken(path: str, kind: Kind) -> Child:
    node = BrokenNode(path, kind, LinkInvalid, "holds nothing")
    return Child.of(path, node)


@pytest.mark.parametrize("broken_first", [True, False])
def test_node_that_is_broken_for_a_moment_is_the_right_one_after_its_next_lookup(
    broken_first: bool,
) -> None:
    """[S4.2] It is listed all the same, with its type, and everything beside it goes on working."""
    table, root = _table()
    good = Child.of("/d", _directory("/d"))
    children = (good, _broken("/d", Kind.DIRECTORY))
    first, second = reversed(children) if broken_first else children
    number = table.remember(root, first).number
    assert table.remember(root, second).number == number
    assert table.node(number, Directory) is good.node


def test_use_of_a_broken_node_fails_as_its_lookup_did() -> None:
    """[S4.1] Looking it up is EIO."""
    table, root = _table()
    number = table.remember(root, _broken("/x", Kind.SYMLINK)).number
    for kind in (Symlink, File, Directory, MutableDirectory):
        with pytest.raises(LinkInvalid, match="holds nothing"):
            table.node(number, kind)


def test_forgotten_inodes_leave_nothing_behind() -> None:
    table, root = _table()
    parent = _remember(table, root, _directory("/d"), "d")
    inodes = [_remember(table, parent, _Blob(f"sha256:{i}"), f"{i}") for i in range(100)]
    _remember(table, root, _Blob("sha256:0"), "again")
    for inode in inodes:
        table.forget(inode.number, 1)
    assert len(table) == 3
    assert list(parent.children) == ["0"]
    table.forget(inodes[0].number, 1)
    assert (len(table), parent.children, root.children) == (2, {}, {})


@pytest.fixture
def forgetful() -> Iterator[InodeTable]:
    table, root = _table()
    _remember(table, root, _Blob("sha256:x"), "x")
    yield table
    assert table[1].node.key == "/"


@pytest.mark.parametrize(("number", "lookups"), [(1, 10**9), (12345, 1), (2**63, 1)])
def test_forgetting_the_root_or_what_is_unknown_does_no_harm(
    forgetful: InodeTable, number: int, lookups: int
) -> None:
    forgetful.forget(number, lookups)
    assert len(forgetful) == 2
