"""``blobfs ls`` and ``cat`` of the files of an image."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import Result

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.reference import Tag
from tests.support.command import invoke
from tests.support.image_trees import unpacked
from tests.support.layers import (
    LayerImages,
    archive,
    directory,
    hardlink,
    image_blobs,
    member,
    sparse_pax_10,
    store_image,
    symlink,
    whiteout,
)
from tests.support.layout import APP, Layout, index

NAME = f"{APP}:v1"
LAYERS = (
    archive(
        directory(b"etc", 0o751, uid=3),
        member(b"etc/passwd", b"root:x:0:0"),
        member(b"etc/old", b"old"),
        member(b"bin/su", b"#!" * 5000, mode=0o4755, uid=1, gid=12345),
        hardlink(b"bin/su2", b"bin/su"),
        member(b"dev/null", kind=b"3", mode=0o666, device=(1, 3)),
        member(b"dev/sda", kind=b"4", mode=0o660, gid=6, device=(8, 16)),
        member(b"run/pipe", kind=b"6", mode=0o600),
    ),
    archive(
        whiteout(b"etc/old"),
        symlink(b"link", b"/../etc"),
        symlink(b"abs", b"/etc/passwd"),
        symlink(b"loop", b"loop"),
        directory(b"tmp", 0o1777, mtime_ns=100_000_000_000_000_000),
        sparse_pax_10(b"srv/sparse", {2**20: b"data"}, 2**20 + 10),
        member(b"odd/caf\xe9", b"\xff\0\r\n"),
        member(b"odd/\x1b[2J\n", b""),
    ),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a storage, and the indexes of its images."""
    found = tmp_path_factory.mktemp("images")
    (found / "storage").mkdir()
    layout = Layout(FilesystemDriver.below(found / "storage"))
    store_image(layout, *LAYERS, compress=True, tag=Tag("v1"))
    image = store_image(layout, archive(member(b"amd64")), tag=Tag("amd64"))
    layout.tag(layout.revision(index(image)), Tag("multi"))
    return found


def blobfs(command: str, root: Path, *arguments: object) -> Result:
    return invoke(command, root / "storage", *arguments, "--index-dir", root / "index")


def ls(root: Path, *arguments: object) -> list[str]:
    result = blobfs("ls", root, *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_ls_lists_the_names_in_the_root(root: Path) -> None:
    """[S21.22] `blobfs ls STORAGE REPOSITORY:TAG` lists the files of an image."""
    names = ["abs", "bin", "dev", "etc", "link", "loop", "odd", "run", "srv", "tmp"]
    assert ls(root, NAME) == names
    digest = Digest.of(image_blobs(LAYERS, compress=True)[-1])
    assert ls(root, f"{APP}@{digest}", "/") == names


@pytest.mark.registry
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("path", ["", "etc", "bin", "dev", "run", "srv"])
def test_long_lines_are_those_of_ls(root: Path, tmp_path: Path, path: str) -> None:
    """[S21.22] With `-l` it prints what `ls -lnA` prints of the unpacked image."""
    images = LayerImages(tmp_path / "oci")
    images.add("v1", *LAYERS, compress=True)
    unpacked(images, "v1", tmp_path / "bundle")
    command = ["ls", "-lnA", "--time-style=long-iso", str(tmp_path / "bundle/rootfs" / path)]
    environment = {**os.environ, "LC_ALL": "C"}
    lines = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
    theirs = [line.split() for line in lines.stdout.splitlines()[1:]]
    ours = [line.split() for line in ls(root, "-l", NAME, path)]
    for fields in (*theirs, *ours):
        if fields[0].startswith("d"):
            fields[4:7] = []  # sizes of directories differ; umoci sets some times to now
    assert ours == theirs


def test_long_lines_are_aligned(root: Path) -> None:
    lines = ls(root, "-lh", NAME, "dev") + ls(root, "-lh", NAME, "bin")
    assert [line.partition("20")[0] for line in lines] == [
        "crw-rw-rw- 1 0 0  1, 3 ", "brw-rw---- 1 0 6 8, 16 ",
        "-rwsr-xr-x 2 1 12345 9.8K ", "-rwsr-xr-x 2 1 12345 9.8K ",
    ]  # fmt: skip


def test_symlinks_of_a_path_stay_in_the_image(root: Path) -> None:
    """[S21.23] Symlinks in PATH stay in the image."""
    assert ls(root, NAME, "link") == ["passwd"]
    assert blobfs("cat", root, NAME, "../../abs").stdout_bytes == b"root:x:0:0"


def test_json_has_an_object_a_line(root: Path) -> None:
    found = [json.loads(line) for line in ls(root, "--json", NAME)]
    assert found[0] | {"mtime": 0, "mtime_ns": 0} == {
        "name": "abs", "type": "symlink", "mode": "0777", "links": 1, "uid": 0, "gid": 0,
        "size": 11, "mtime": 0, "mtime_ns": 0, "target": "/etc/passwd",
    }  # fmt: skip
    [null, _] = (json.loads(line) for line in ls(root, "--json", NAME, "dev"))
    assert (null["type"], null["device"]) == ("character device", [1, 3])
    [tmp] = [one for one in found if one["name"] == "tmp"]
    assert (tmp["mode"], tmp["mtime"]) == ("1777", "1973-03-03T09:46:40Z")


def test_names_reach_no_terminal_as_they_are(root: Path) -> None:
    """[S21.24] Names in an image are escaped."""
    assert ls(root, NAME, "odd") == [r"\x1b[2J\n", r"caf\udce9"]
    assert os.fsencode(json.loads(ls(root, "--json", NAME, "odd")[1])["name"]) == b"caf\xe9"


def test_cat_writes_the_bytes_as_they_are(root: Path) -> None:
    """[S21.24] `cat` writes the bytes of a file as they are."""
    name = os.fsdecode(b"odd/caf\xe9")
    assert blobfs("cat", root, NAME, name).stdout_bytes == b"\xff\0\r\n"
    sparse = bytes(2**20) + b"data" + bytes(6)
    assert blobfs("cat", root, NAME, "srv/sparse").stdout_bytes == sparse


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("cat", NAME, "etc/none"), 1, "etc/none is not in the image"),
        (("cat", NAME, "etc/passwd/x"), 1, "leads through a file"),
        (("cat", NAME, "loop"), 1, "loop is not in the image"),
        (("cat", NAME, "etc"), 1, "etc is no regular file"),
        (("cat", NAME, "dev/null"), 1, "no regular file"),
        (("cat", NAME, "--platform", "linux/arm64"), 2, "needs the PATH"),
        (("ls", NAME, "\x1b"), 1, r"\x1b is not in the image"),
        (("ls", f"{APP}:none"), 1, "unknown tag"),
        (("ls", APP, "etc"), 2, "need REPOSITORY:TAG"),
        (("ls", f"{APP}:multi", "--platform", "linux/arm64"), 1, "it has linux/amd64"),
        (("ls", f"{APP}:multi", "--platform", "arm64"), 2, "not a platform"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistake_is_an_error(
    root: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    command, *others = arguments
    result = blobfs(command, root, *others)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_platform_chooses_an_image(root: Path) -> None:
    """[S21.25] `--platform` chooses the image of an image index."""
    assert ls(root, f"{APP}:multi", "--platform", "linux/amd64") == ["amd64"]


def test_file_that_cannot_be_shown_is_listed(tmp_path: Path) -> None:
    """[S21.22] A file that cannot be shown is listed, and its fault is printed; the exit code is 1
    then.
    """
    (tmp_path / "storage").mkdir()
    layout = Layout(FilesystemDriver.below(tmp_path / "storage"))
    store_image(layout, archive(member(b"good"), hardlink(b"lost", b"missing")), tag=Tag("v1"))
    result = blobfs("ls", tmp_path, "-l", NAME)
    assert result.exit_code == 1
    good, lost = result.stdout.splitlines()
    assert good.endswith("good")
    assert lost.split() == ["-?????????", "?", "?", "?", "?", "?", "lost"]
    assert result.stderr.startswith("lost: ")
    assert blobfs("cat", tmp_path, NAME, "lost").exit_code == 1


def test_layer_that_changed_ends_cat_with_an_error(tmp_path: Path) -> None:
    """[S21.7] Bytes of a layer that change after its index was made are EIO."""
    (tmp_path / "storage").mkdir()
    layout = Layout(FilesystemDriver.below(tmp_path / "storage"))
    layers = [archive(member(b"file", os.urandom(10_000)))]
    store_image(layout, *layers, compress=True, tag=Tag("v1"))
    ls(tmp_path, NAME)
    [blob, *_] = image_blobs(layers, compress=True)
    layout.put(paths.blob_data(Digest.of(blob)), blob[:5000] + bytes(100) + blob[5100:])
    result = blobfs("cat", tmp_path, NAME, "file")
    assert (result.exit_code, result.stdout_bytes) == (1, b"")
