"""``_images`` in a mount: images by tag, their root filesystems and their layouts."""

import errno
import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.factory import driver_for
from blobfs.drivers.filelock import EXCLUSIVE, lock
from blobfs.images.platforms import Platform
from blobfs.reference import Tag
from blobfs.storage.manifest import OCI_INDEX
from tests.support.image_trees import differences, tree_below, unpacked
from tests.support.layers import (
    LayerImages,
    archive,
    directory,
    hardlink,
    image_blobs,
    member,
    opaque,
    store_image,
    symlink,
    whiteout,
)
from tests.support.layout import APP, Json, Layout, as_bytes, descriptor
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted
from tests.support.services import run

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.registry,
    pytest.mark.usefixtures("as_root"),
]

V1 = Tag("v1")

LAYERS = (
    archive(
        directory(b"etc", 0o751, uid=3),
        member(b"etc/passwd", b"root:x:0:0", xattrs={b"user.a": b"\0\xff"}),
        member(b"etc/old", b"old"),
        member(b"bin/su", b"#!" * 5000, mode=0o4755, uid=1, gid=2),
        member(b"bin/caf\xe9", b"no UTF-8"),
        hardlink(b"bin/su2", b"bin/su"),
        member(b"dev/null", kind=b"3", mode=0o666, device=(1, 3)),
        member(b"run/pipe", kind=b"6", mode=0o600),
        directory(b"opt"),
        member(b"opt/gone", b"x"),
    ),
    archive(
        whiteout(b"etc/old"),
        opaque(b"opt"),
        member(b"opt/new", b"y" * 300_000),
        symlink(b"link", b"/etc/passwd"),
        member(b"etc/empty"),
    ),
)


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    (tmp_path / "storage").mkdir()
    with closing(driver_for(str(tmp_path / "storage"))) as driver:
        yield Layout(driver)


@pytest.fixture
def mount(layout: Layout, tmp_path: Path) -> Iterator[MountedRegistry]:
    store_image(layout, *LAYERS, compress=True, tag=V1)
    with mounted(tmp_path / "storage", tmp_path, "--index-dir", str(tmp_path / "index")) as found:
        yield found


def image(mount: MountedRegistry, name: str = "v1") -> Path:
    return mount.path / APP / "_images" / name


def test_rootfs_is_what_umoci_unpacks(mount: MountedRegistry, tmp_path: Path) -> None:
    """[S21.4] `rootfs` is what `umoci unpack` makes of the layers as root."""
    images = LayerImages(tmp_path / "oci")
    images.add("v1", *LAYERS, compress=True)
    theirs, failure = unpacked(images, "v1", tmp_path / "bundle")
    assert not failure
    assert differences(tree_below(image(mount) / "rootfs", time.time_ns()), theirs) == []


def test_rootfs_of_a_digest_is_that_of_its_tag(mount: MountedRegistry, layout: Layout) -> None:
    """[S21.1] `_images/<algorithm>:<hex>` has the image of a revision."""
    digest = store_image(layout, *LAYERS, compress=True)
    found = tree_below(image(mount, str(digest)) / "rootfs", time.time_ns())
    assert differences(found, tree_below(image(mount) / "rootfs", time.time_ns())) == []


def test_rootfs_has_its_attributes_once_its_index_is_made(
    mount: MountedRegistry, layout: Layout
) -> None:
    """[S21.4] `rootfs` is what `umoci unpack` makes of the layers as root."""
    store_image(layout, archive(directory(b"./", 0o1711, uid=7, mtime_ns=5)), tag=Tag("root"))
    root = image(mount, "root") / "rootfs"
    placeholder = root.stat()
    assert (placeholder.st_mode, placeholder.st_uid) == (stat.S_IFDIR | 0o755, os.getuid())
    os.listdir(root)
    found = root.stat()
    assert (found.st_mode, found.st_uid, found.st_mtime_ns) == (stat.S_IFDIR | 0o1711, 7, 5)


def test_images_are_found_by_name_and_not_listed(mount: MountedRegistry, tmp_path: Path) -> None:
    """[S21.1] It is listed with `--show-images` only."""
    assert sorted(os.listdir(mount.path / APP)) == ["_layers", "_manifests", "_uploads"]
    assert os.listdir(mount.path / APP / "_images") == ["v1"]
    with pytest.raises(FileNotFoundError):
        image(mount, "v2").stat()
    with mounted(mount.storage, tmp_path, "--show-images") as shown:
        assert "_images" in os.listdir(shown.path / APP)


CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda root: (root / "x").write_bytes(b""),
    "write": lambda root: (root / "etc/passwd").open("r+b"),
    "truncate": lambda root: os.truncate(root / "etc/passwd", 0),
    "mkdir": lambda root: (root / "x").mkdir(),
    "unlink": lambda root: (root / "etc/passwd").unlink(),
    "rmdir": lambda root: (root / "opt").rmdir(),
    "rename": lambda root: (root / "etc/passwd").rename(root / "etc/x"),
    "symlink": lambda root: (root / "x").symlink_to("y"),
    "link": lambda root: (root / "x").hardlink_to(root / "etc/passwd"),
    "chmod": lambda root: (root / "etc").chmod(0o700),
    "chown": lambda root: os.chown(root / "etc/passwd", 1, 1),
    "utime": lambda root: os.utime(root / "etc"),
    "setxattr": lambda root: os.setxattr(root / "etc/passwd", "user.a", b"1"),
}


def test_images_are_read_only(mount: MountedRegistry) -> None:
    """[S21.5] Every change in `_images` is EROFS."""
    for change in CHANGES.values():
        with failing_with(errno.EROFS):
            change(image(mount) / "rootfs")
    with failing_with(errno.EROFS):
        image(mount, "v2").mkdir()


def test_mount_has_no_devices_and_no_setuid(mount: MountedRegistry) -> None:
    """[S21.5] The mount is `nosuid` and `nodev`."""
    lines = map(str.split, Path("/proc/mounts").read_text().splitlines())
    [options] = [line[3] for line in lines if line[1] == str(mount.path)]
    assert {"nosuid", "nodev"} <= set(options.split(","))


def test_files_are_the_blobs_of_the_repository(mount: MountedRegistry, layout: Layout) -> None:
    """[S21.3] `manifest.json`, `config.json` and the blobs in `oci` and `dir` are the inodes of
    `_manifests/revisions` and `_layers`.
    """
    *blobs, config, manifest = map(Digest.of, image_blobs(LAYERS, compress=True))
    repository = mount.path / APP
    revision = (repository / "_manifests/revisions/sha256" / manifest.encoded).stat()
    assert (image(mount) / "manifest.json").stat() == revision
    assert (image(mount) / "oci/blobs/sha256" / manifest.encoded).stat() == revision
    assert (image(mount) / "dir/manifest.json").stat() == revision
    for digest in (*blobs, config):
        layer = (repository / "_layers/sha256" / digest.encoded).stat()
        assert (image(mount) / "oci/blobs/sha256" / digest.encoded).stat() == layer
        assert (image(mount) / "dir" / digest.encoded).stat() == layer
    names = [f"{number:02}-{blob.encoded[:12]}.tar.gz" for number, blob in enumerate(blobs, 1)]
    assert os.listdir(image(mount) / "layers") == names
    assert (image(mount) / "layers" / names[0]).stat().st_size > 0


@pytest.mark.parametrize("source", ["oci:{}/oci:v1", "dir:{}/dir"])
def test_layouts_are_read_by_skopeo(mount: MountedRegistry, tmp_path: Path, source: str) -> None:
    """[S21.3] skopeo copies from `oci` and `dir`, and umoci unpacks `oci`."""
    run("skopeo", "copy", source.format(image(mount)), f"oci:{tmp_path}/copy:v1")
    run("umoci", "unpack", "--image", f"{tmp_path}/copy:v1", tmp_path / "one")
    run("umoci", "unpack", "--image", f"{image(mount)}/oci:v1", tmp_path / "two")
    assert (tmp_path / "one/rootfs/opt/new").read_bytes() == b"y" * 300_000
    assert (tmp_path / "two/rootfs/opt/new").read_bytes() == b"y" * 300_000


def test_index_has_the_image_of_this_machine_and_of_each_platform(
    mount: MountedRegistry, layout: Layout
) -> None:
    """[S21.2] Of an index it is the image for this machine, or the first. `platforms` has the
    image of each platform.
    """
    here = Platform.here()
    children: list[Json] = []
    for platform in (Platform("linux", "s390x"), here):
        digest = store_image(layout, archive(member(b"arch", str(platform).encode())))
        declared: Json = {"os": platform.os, "architecture": platform.architecture}
        children.append({**descriptor(digest), "platform": declared})
    document: Json = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
    layout.tag(layout.revision(as_bytes(document)), Tag("multi"))
    multi = image(mount, "multi")
    assert (multi / "rootfs/arch").read_text() == str(here)
    assert sorted(os.listdir(multi / "platforms")) == sorted(["linux-s390x", str(here)])
    assert (multi / "platforms/linux-s390x/rootfs/arch").read_text() == "linux-s390x"
    [layer] = (multi / "platforms/linux-s390x/layers").iterdir()
    assert layer.stat().st_size > 0


def test_inodes_are_the_same_in_another_mount_that_reads_no_layer(
    mount: MountedRegistry, tmp_path: Path
) -> None:
    """[S21.6] Later uses, also by other mounts and after a remount, read no layer for it.
    [S21.8] Inode numbers and times are the same after a remount and on another host.
    """
    before = _inodes(image(mount) / "rootfs")
    storage = tmp_path / "storage"
    for blob in map(Digest.of, image_blobs(LAYERS, compress=True)[:2]):
        (storage / paths.blob_data(blob)[1:]).write_bytes(b"damaged")
    with mounted(storage, tmp_path, "--index-dir", str(tmp_path / "index")) as again:
        assert _inodes(image(again) / "rootfs") == before
        with failing_with(errno.EIO):
            (image(again) / "rootfs/etc/passwd").read_bytes()


def _inodes(root: Path) -> dict[str, tuple[int, int]]:
    found = [path.lstat() for path in sorted(root.rglob("*"))]
    names = map(str, sorted(path.relative_to(root) for path in root.rglob("*")))
    return {n: (s.st_ino, s.st_mtime_ns) for n, s in zip(names, found, strict=True)}


def test_hard_links_are_one_inode(mount: MountedRegistry) -> None:
    """[S21.8] Hard links are one inode."""
    first, second = ((image(mount) / "rootfs/bin" / name).stat() for name in ("su", "su2"))
    assert (first.st_ino, first.st_nlink) == (second.st_ino, 2)


def test_inodes_of_a_directory_are_in_the_order_of_its_names(
    mount: MountedRegistry, layout: Layout
) -> None:
    """[S21.8] Inode numbers and times are the same after a remount and on another host."""
    names = [b"%02d" % number for number in range(20)]
    store_image(layout, archive(*map(member, names)), tag=Tag("many"))
    numbers = [path.stat().st_ino for path in sorted((image(mount, "many") / "rootfs").iterdir())]
    assert numbers == list(range(numbers[0], numbers[0] + 20))


def test_owners_of_the_mount(mount: MountedRegistry, tmp_path: Path) -> None:
    """[S21.9] With `--rootfs-owner mount` its files belong to `--uid` and `--gid`."""
    options = ["--rootfs-owner", "mount", "--uid", "7", "--gid", "8"]
    options += ["--index-dir", str(tmp_path / "index")]
    with mounted(mount.storage, tmp_path, *options) as flat:
        found = (image(flat) / "rootfs/bin/su").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (7, 8, 0o4755)
    found = (image(mount) / "rootfs/bin/su").stat()
    assert (found.st_uid, found.st_gid) == (1, 2)


def test_damaged_layer_hurts_only_the_rootfs(mount: MountedRegistry, layout: Layout) -> None:
    """[S21.7] A layer that has not its digest or its diff ID, or is no archive, makes `rootfs` EIO.
    The log and `user.blobfs.state` of `rootfs` have the reason.
    """
    wrong = json.loads(image_blobs([archive()])[1])
    wrong["rootfs"]["diff_ids"] = [str(Digest.of(b"another"))]
    layer, config = layout.layer(archive()), layout.layer(json.dumps(wrong).encode())
    document = json.loads(image_blobs([archive()])[2])
    document["config"]["digest"] = str(config)
    document["layers"][0]["digest"] = str(layer)
    layout.tag(layout.revision(json.dumps(document).encode()), Tag("wrong"))
    wrong_image = image(mount, "wrong")
    assert "rootfs" in os.listdir(wrong_image)
    for _ in range(2):
        with failing_with(errno.EIO):
            os.listdir(wrong_image / "rootfs")
    assert b"digest" in os.getxattr(wrong_image / "rootfs", "user.blobfs.state")
    assert (wrong_image / "manifest.json").stat().st_size > 0
    assert os.listdir(image(mount) / "rootfs")
    assert len([line for line in mount.warnings() if "digest" in line]) == 1


def test_file_that_cannot_be_shown_hides_no_other(mount: MountedRegistry, layout: Layout) -> None:
    """[S21.4] Where umoci refuses a whole image for one of its files, only that file is EIO."""
    store_image(layout, archive(hardlink(b"bad", b"none"), member(b"good", b"1")), tag=Tag("part"))
    root = image(mount, "part") / "rootfs"
    assert sorted(os.listdir(root)) == ["bad", "good"]
    assert (root / "good").read_bytes() == b"1"
    for _ in range(2):
        with failing_with(errno.EIO):
            (root / "bad").stat()


def test_open_file_stays_when_its_tag_moves(mount: MountedRegistry, layout: Layout) -> None:
    """[S21.8] A tag that moves leads to another directory; what is open stays."""
    with (image(mount) / "rootfs/etc/passwd").open("rb") as file:
        before = image(mount).stat().st_ino
        digest = store_image(layout, archive(member(b"etc/passwd", b"new")), tag=Tag("other"))
        layout.tag(digest, V1)
        deadline = time.monotonic() + 10
        while image(mount).stat().st_ino == before:
            assert time.monotonic() < deadline
        assert (image(mount) / "rootfs/etc/passwd").read_bytes() == b"new"
        assert file.read() == b"root:x:0:0"


def _libraries(program: Path) -> set[Path]:
    """The shared libraries of *program*, with the loader."""
    output = run("ldd", program).decode()
    return {Path(word) for word in output.split() if word.startswith("/")}


def test_programs_run_from_it(mount: MountedRegistry, layout: Layout) -> None:
    program = Path("/bin/ls")
    files = [
        member(bytes(path)[1:], path.read_bytes(), mode=0o755)
        for path in sorted({program, *_libraries(program)})
    ]
    store_image(layout, archive(*files), compress=True, tag=Tag("ls"))
    root = image(mount, "ls") / "rootfs"
    assert run("chroot", root, "/bin/ls", "/bin") == b"ls\n"


def test_program_that_waits_for_an_index_can_be_killed(
    mount: MountedRegistry, layout: Layout, tmp_path: Path
) -> None:
    """[S21.6] A program that waits for that can be killed."""
    digest = store_image(layout, LAYERS[0], tag=Tag("slow"))
    building = tmp_path / f"index/v1/building/layer2-sha256-{Digest.of(LAYERS[0]).encoded}"
    building.mkdir(parents=True)
    with (building / "lock").open("wb") as file:  # as another process that builds the index
        assert lock(file.fileno(), EXCLUSIVE)
        root = image(mount, str(digest)) / "rootfs"
        programs = [subprocess.Popen(["ls", root]), subprocess.Popen(["stat", root / "etc"])]
        eventually(lambda: len(_waiting(mount, "rootfs")) == 2)
        for program, number in zip(programs, (signal.SIGKILL, signal.SIGINT), strict=True):
            program.send_signal(number)
            assert program.wait(10) == -number
        assert _waiting(mount, "rootfs") == []
    assert os.listdir(root)
    assert mount.warnings() == []


def test_processes_of_a_mount_that_is_killed_end(mount: MountedRegistry) -> None:
    """[S21.14] They end with the mount, also if it is killed."""
    os.listdir(image(mount) / "rootfs")
    pid = mount.pid
    children = [
        Path("/proc", child)
        for file in Path(f"/proc/{pid}/task").glob("*/children")
        for child in file.read_text().split()
    ]
    assert children
    for child in children:
        assert "/dev/fuse" not in {os.readlink(fd) for fd in (child / "fd").iterdir()}
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(child.exists() for child in children))


def _waiting(mount: MountedRegistry, name: str) -> list[object]:
    """The requests that wait for an answer below *name*."""
    requests = json.loads((mount.path / ".blobfs/requests.json").read_text())
    return [each for each in requests if each["waiting"] and name in each["path"]]


@pytest.mark.long
def test_memory_for_a_large_directory_is_bounded(mount: MountedRegistry, layout: Layout) -> None:
    """[S21.10] A directory of a million files is listed in 128 MiB of memory. ``test_inodes`` has
    the bound of the table.
    """
    count = 10**6
    files = (member(b"d/file-%07d" % number, mtime_ns=10**18) for number in range(count))
    store_image(layout, archive(*files), compress=True, tag=Tag("many"))
    directory = image(mount, "many") / "rootfs/d"
    directory.stat()  # makes the index
    before = _memory(mount)
    for _ in range(2):
        found = [entry.stat().st_mtime_ns for entry in os.scandir(directory)]
        assert found == [10**18] * count
    assert _memory(mount) - before < 2**27
    last = directory / f"file-{count - 1:07}"
    assert (directory / "file-0000000").stat().st_ino == last.stat().st_ino - count + 1


def _memory(mount: MountedRegistry) -> int:
    """The largest memory of the mount so far, in bytes."""
    status = Path(f"/proc/{mount.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
