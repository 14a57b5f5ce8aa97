"""Root filesystems of real images: what programs get of them is what umoci unpacks."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from blobfs.digest import Digest
from blobfs.drivers.factory import driver_for
from blobfs.reference import Tag
from tests.support import compressed_layers, images
from tests.support.image_trees import differences, tree_below, unpacked
from tests.support.layers import (
    LayerImages,
    archive,
    directory,
    hardlink,
    image_blobs,
    member,
    opaque,
    store_blobs,
    store_image,
    whiteout,
)
from tests.support.layout import APP, Layout
from tests.support.mounts import MountedRegistry, mounted
from tests.support.services import cannot, run

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.registry,
    pytest.mark.usefixtures("as_root"),
]


@contextmanager
def stored(tmp_path: Path) -> Iterator[Layout]:
    """An empty storage, at *tmp_path*/storage."""
    (tmp_path / "storage").mkdir()
    with closing(driver_for(str(tmp_path / "storage"))) as driver:
        yield Layout(driver)


@dataclass(frozen=True)
class Debian:
    """A mount of two images, Debian and Debian changed, and what umoci unpacks of them."""

    mount: MountedRegistry
    bundles: Path
    layouts: Path

    def image(self, tag: str) -> Path:
        """The directory of an image in the mount."""
        return self.mount.path / APP / "_images" / tag

    def roots(self, tag: str) -> tuple[Path, Path]:
        """The root filesystem in the mount, and the unpacked one."""
        return self.image(tag) / "rootfs", self.bundles / tag / "rootfs"


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    if shutil.which("debootstrap") is None:
        cannot("not installed: debootstrap")
    tmp_path = tmp_path_factory.mktemp("debian")
    changed = _blobs(images.debian())
    both = {"base": _without_last_layer(changed), "changed": changed}
    layouts = LayerImages(tmp_path / "oci")
    with stored(tmp_path) as layout:
        for tag, blobs in both.items():
            layouts.add_blobs(tag, blobs)
            store_blobs(layout, blobs, Tag(tag))
            run("umoci", "unpack", "--image", f"{layouts.directory}:{tag}", tmp_path / tag)
    options = ("--index-dir", str(tmp_path / "index"))
    with mounted(tmp_path / "storage", tmp_path, *options) as mount:
        yield Debian(mount, tmp_path, layouts.directory)


def _blobs(layout: Path) -> list[bytes]:
    """The layers, the config and the manifest of the image in an OCI layout."""
    [described] = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = _blob(layout, described)
    document = json.loads(manifest)
    return [_blob(layout, each) for each in (*document["layers"], document["config"])] + [manifest]


def _blob(layout: Path, described: dict[str, str]) -> bytes:
    return (layout / "blobs" / described["digest"].replace(":", "/")).read_bytes()


def _without_last_layer(blobs: list[bytes]) -> list[bytes]:
    *layers, config, manifest = blobs
    settings, document = json.loads(config), json.loads(manifest)
    settings["rootfs"]["diff_ids"].pop()
    document["layers"].pop()
    config = json.dumps(settings).encode()
    document["config"] |= {"digest": str(Digest.of(config)), "size": len(config)}
    return [*layers[:-1], config, json.dumps(document).encode()]


@pytest.mark.long
@pytest.mark.parametrize("tag", ["base", "changed"])
def test_debian_is_what_umoci_unpacks(debian: Debian, tag: str) -> None:
    """[S21.4] `rootfs` is what `umoci unpack` makes of the layers as root."""
    ours, theirs = (tree_below(root, time.time_ns()) for root in debian.roots(tag))
    assert len(ours) > 3000
    assert differences(ours, theirs) == []


_FIELDS = r"%P\t%M\t%U\t%G\t%T@\t%l\t%n\n"

COMMANDS = {
    "dpkg": "dpkg --root=$R -l",
    "tar": "cd $R; tar -c --sort=name --numeric-owner * | sha256sum",
    "find": rf"cd $R; find . -mindepth 1 -printf '{_FIELDS}' | sort",
    "find -newer": "cd $R; find . -newer etc/debian_version | sort",
    "grep -r": "cd $R; (grep -r GNU . 2>&1) | sort",
    "du": "cd $R; find . -not -type d -print0 | sort -z | du -cb --files0-from=-",
    "sha256sum": "cd $R; find . -type f -print0 | sort -z | xargs -0 sha256sum",
    "getfattr": "cd $R; getfattr -R -h -d -m - . 2>&1 | sort",
}


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_programs_show_what_they_show_of_the_unpacked_tree(debian: Debian, command: str) -> None:
    """[S21.4] `rootfs` is what `umoci unpack` makes of the layers as root."""
    ours, theirs = (_shown(command, R=root) for root in debian.roots("changed"))
    assert ours == theirs


def _shown(command: str, **variables: Path) -> str:
    """The output of a command for the shell, without the paths of *variables*."""
    environment = os.environ | {name: str(path) for name, path in variables.items()}
    ended = subprocess.run(
        ["bash", "-c", command], env=environment | {"LC_ALL": "C"}, capture_output=True, text=True,
        errors="surrogateescape", check=False, timeout=300,
    )  # fmt: skip
    shown = f"{ended.stdout}{ended.stderr}exit {ended.returncode}"
    for name, path in variables.items():
        shown = shown.replace(str(path), name)
    return shown


@pytest.mark.long
def test_diff_of_two_images_is_that_of_the_unpacked_trees(debian: Debian) -> None:
    """[S21.4] `rootfs` is what `umoci unpack` makes of the layers as root."""
    (ours_a, theirs_a), (ours_b, theirs_b) = debian.roots("base"), debian.roots("changed")
    # Devices differ for diff if their ctime does, as that of the unpacked ones.
    command = "diff -r --no-dereference $A $B | grep -v ' special file'"
    ours, theirs = _shown(command, A=ours_a, B=ours_b), _shown(command, A=theirs_a, B=theirs_b)
    assert "Only in A/usr/share: doc" in ours
    assert ours == theirs


@pytest.mark.long
def test_rsync_copies_all_of_it(debian: Debian, tmp_path: Path) -> None:
    """[S21.4] `rootfs` is what `umoci unpack` makes of the layers as root."""
    ours, theirs = debian.roots("changed")
    run("rsync", "-aHAX", f"{ours}/", tmp_path / "copy", timeout_s=300)
    compare = ("rsync", "-aHAXn", "--checksum", "--itemize-changes", "--delete")
    changes = run(*compare, f"{theirs}/", tmp_path / "copy", timeout_s=300).decode()
    assert [line for line in changes.splitlines() if not line.endswith(" ./")] == []


USES = "dpkg --version; apt-get --version; dpkg -l; id -u; ls -R /etc"


@pytest.mark.long
def test_chroot_runs_the_programs_of_the_image(debian: Debian) -> None:
    ours, theirs = (run("chroot", root, "sh", "-c", USES) for root in debian.roots("changed"))
    assert ours == theirs


@pytest.mark.long
def test_overlayfs_writes_above_it(debian: Debian, tmp_path: Path) -> None:
    root, unpacked_root = debian.roots("changed")
    upper, work, merged = (tmp_path / name for name in ("upper", "work", "merged"))
    for each in (upper, work, merged):
        each.mkdir()
    options = f"lowerdir={root},upperdir={upper},workdir={work}"
    run("mount", "-t", "overlay", "overlay", "-o", options, merged)
    try:
        changes = "echo more >>/etc/motd; rm /etc/debian_version; mv /etc/apt /etc/moved"
        run("chroot", merged, "sh", "-ec", f"{changes}; chmod 600 /etc/passwd; {USES}")
        assert run("chroot", merged, "cat", "/etc/motd") == b"A changed file.\nmore\n"
        assert not (merged / "etc/debian_version").exists()
        assert (merged / "etc/moved/apt.conf.d").is_dir()
    finally:
        run("umount", merged)
    assert (root / "etc/motd").read_bytes() == (unpacked_root / "etc/motd").read_bytes()


@pytest.mark.long
def test_namespaces_bind_it(debian: Debian, tmp_path: Path) -> None:
    root, _ = debian.roots("changed")
    expected = run("chroot", root, "dpkg", "-l")
    bind = f"mount --bind {root} {tmp_path}; mount -o remount,ro,bind {tmp_path}"
    unshared = ("unshare", "--mount", "sh", "-ec", f"{bind}; chroot {tmp_path} dpkg -l")
    assert run(*unshared) == expected
    if shutil.which("bwrap") is not None:
        options = ("--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp")
        assert run("bwrap", *options, "dpkg", "-l") == expected


@pytest.mark.long
def test_podman_runs_it(debian: Debian, tmp_path: Path) -> None:
    if shutil.which("podman") is None:
        cannot("not installed: podman")
    root, unpacked_root = debian.roots("changed")
    places = ("--root", tmp_path / "root", "--runroot", tmp_path / "run")
    runtime = ("--cgroup-manager", "cgroupfs", "--runtime", "runc")
    limits = ("--network=none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=500:500")
    script = "echo more >>/etc/motd; cat /etc/motd; dpkg -l"
    command = ("run", "--rm", *limits, "--rootfs", f"{root}:O", "sh", "-ec", script)
    found = run("podman", *places, *runtime, *command, timeout_s=120)
    assert found.startswith(b"A changed file.\nmore\n")
    assert found.endswith(run("chroot", root, "dpkg", "-l"))
    assert (root / "etc/motd").read_bytes() == (unpacked_root / "etc/motd").read_bytes()


@pytest.mark.long
def test_layouts_of_debian_are_read(debian: Debian, tmp_path: Path) -> None:
    """[S21.3] skopeo copies from `oci` and `dir`, and umoci unpacks `oci`."""
    image = debian.image("changed")
    run("skopeo", "copy", f"oci:{image}/oci:changed", f"oci:{tmp_path}/copy:oci")
    run("skopeo", "copy", f"dir:{image}/dir", f"oci:{tmp_path}/copy:dir")
    run("umoci", "unpack", "--image", f"{image}/oci:changed", tmp_path / "bundle")
    ours, theirs = tmp_path / "bundle/rootfs", debian.bundles / "changed/rootfs"
    assert run("diff", "-r", "--no-dereference", ours / "usr", theirs / "usr") == b""


PACKS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "parallel": compressed_layers.parallel_gzipped,
    "estargz": compressed_layers.estargz,
    "zstd": compressed_layers.zstandard,
    "frames": compressed_layers.zstd_frames,
}


@pytest.mark.long
def test_compression_of_the_layers_makes_no_difference(tmp_path: Path) -> None:
    """[S21.4] `rootfs` is what `umoci unpack` makes of the layers as root."""
    layers = (compressed_layers.archive(), *CHANGES)
    compare = _oracle(tmp_path, layers)
    with stored(tmp_path) as layout:
        for name, pack in PACKS.items():
            store_blobs(layout, image_blobs(layers, pack=pack), Tag(name))
    options = ("--index-dir", str(tmp_path / "index"))
    with mounted(tmp_path / "storage", tmp_path, *options) as mount:
        found = {name: compare(mount.path / APP / "_images" / name / "rootfs") for name in PACKS}
    assert found == {name: [] for name in PACKS}


CHANGES = (
    archive(
        whiteout(b"d0/words0"),
        opaque(b"d1"),
        member(b"d1/new", b"new"),
        member(b"d2", b"a file for a directory"),
        hardlink(b"d3/random", b"random"),
        member(b"zeros", b"small", mode=0o4711, xattrs={b"user.a": b"\0\xff"}),
    ),
    archive(whiteout(b"d2"), directory(b"d2", 0o700), member(b"d2/back", b"x", uid=5)),
)


def _oracle(tmp_path: Path, layers: tuple[bytes, ...]) -> Callable[[Path], list[str]]:
    """Unpack an image of *layers*; returns a function that compares a tree with it."""
    layout = LayerImages(tmp_path / "oci")
    layout.add("image", *layers, compress=True)
    theirs, failure = unpacked(layout, "image", tmp_path / "bundle")
    assert not failure

    def compare(root: Path) -> list[str]:
        os.listdir(root)  # before that the mode of the root is not known
        return differences(tree_below(root, time.time_ns()), theirs)

    return compare


@pytest.mark.long
def test_directory_of_100_000_files(tmp_path: Path) -> None:
    """[S21.4] `rootfs` is what `umoci unpack` makes of the layers as root."""
    files = (member(b"many/%06d" % number, b"%d" % number, uid=number) for number in range(90_000))
    more = (member(b"many/%06d" % number, b"new") for number in range(80_000, 100_000))
    layers = (archive(*files), archive(whiteout(b"many/000007"), *more))
    compare = _oracle(tmp_path, layers)
    with stored(tmp_path) as layout:
        store_image(layout, *layers, compress=True, tag=Tag("many"))
    options = ("--index-dir", str(tmp_path / "index"))
    with mounted(tmp_path / "storage", tmp_path, *options) as mount:
        root = mount.path / APP / "_images/many/rootfs"
        assert len(os.listdir(root / "many")) == 99_999
        assert compare(root) == []


@pytest.fixture
def indexed(tmp_path: Path) -> Iterator[tuple[MountedRegistry, Path]]:
    """A mount, and the root filesystem of an image in it, which is not yet indexed."""
    with stored(tmp_path) as layout:
        store_image(layout, archive(member(b"a/b", b"c")), *CHANGES[1:], compress=True)
    with mounted(tmp_path / "storage", tmp_path, "--index-dir", str(tmp_path / "index")) as mount:
        yield mount, mount.path / APP / "_images/latest/rootfs"


def test_whole_mount_is_seen_as_before_its_images_are_used(
    indexed: tuple[MountedRegistry, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S21.1] It is listed with `--show-images` only, so a backup of a mount is as before."""
    mount, root = indexed
    monkeypatch.setenv("RESTIC_PASSWORD", "only a test")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(mount.path)
    run("restic", "init", "--repo", tmp_path / "backup")
    backup = ("restic", "backup", "--repo", tmp_path / "backup", "--json", ".")
    copy = ("rsync", "-aH", "--itemize-changes", "--delete", f"{mount.path}/", tmp_path / "copy")
    run(*copy)
    run(*backup)
    before = run("find", ".", "-ls")

    assert (root / "d2/back").read_bytes() == b"x"
    assert run("ls", "-lR", mount.path / APP / "_images/latest")

    assert run("find", ".", "-ls") == before
    assert run(*copy) == b""
    summary = json.loads(run(*backup).splitlines()[-1])
    assert (summary["files_new"], summary["files_changed"], summary["dirs_changed"]) == (0, 0, 0)
