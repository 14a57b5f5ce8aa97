"""``blobfs diff``: the files of two images compared."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import Result

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.reference import RepositoryName, Tag
from tests.support.command import invoke
from tests.support.image_trees import unpacked
from tests.support.layers import LayerImages, archive, image_blobs, member, store_image, whiteout
from tests.support.layout import APP, Layout

BASE = archive(member(b"etc/passwd", b"root"), member(b"etc/old", b"old"), member(b"srv/a", b"a"))
CHANGES = archive(
    member(b"etc/passwd", b"user", uid=1),
    whiteout(b"etc/old"),
    member(b"srv/\x1b[2J", b"new"),
    member(b"srv/caf\xe9", b"new"),
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "storage").mkdir()
    layout = Layout(FilesystemDriver.below(tmp_path / "storage"))
    store_image(layout, BASE, compress=True, tag=Tag("v1"))
    store_image(layout, BASE, CHANGES, compress=True, tag=Tag("v2"))
    return layout


@pytest.fixture
def root(layout: Layout, tmp_path: Path) -> Path:
    return tmp_path


def diff(root: Path, old: str, new: str, *arguments: object) -> Result:
    names = [name if ":" in name else f"{APP}:{name}" for name in (old, new)]
    return invoke("diff", root / "storage", *names, "--index-dir", root / "index", *arguments)


def test_differences_are_printed_with_their_layers(root: Path) -> None:
    """[S21.26] `blobfs diff STORAGE REPOSITORY:A REPOSITORY:B` prints the files that B adds,
    changes and removes, each with its layer; the exit code is 1 then.
    """
    result = diff(root, "v1", "v2")
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.splitlines() == [
        "removed   1  /etc/old",
        "changed   2  /etc/passwd  (owner, content)",
        r"added     2  /srv/\x1b[2J",
        r"added     2  /srv/caf\udce9",
    ]


def test_equal_images_end_with_0(layout: Layout, root: Path) -> None:
    """[S21.26] It is 0 if the files are equal."""
    assert diff(root, "v1", "v1").exit_code == 0
    other = RepositoryName("other")
    for content in image_blobs([BASE], compress=True):
        layout.layer(content, other)
    layout.tag(layout.revision(image_blobs([BASE], compress=True)[-1], other), Tag("v1"), other)
    result = diff(root, "v1", "other:v1")
    assert (result.exit_code, result.output) == (0, "")


def test_ignored_aspects_are_no_difference(root: Path) -> None:
    """[S21.26] `--ignore` leaves out an aspect."""
    lines = diff(root, "v1", "v2", "--ignore", "owner").stdout.splitlines()
    assert lines[1].endswith("/etc/passwd  (content)")
    lines = diff(root, "v1", "v2", "--ignore", "owner", "--ignore", "content").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["removed", "added", "added"]


def test_json_has_an_object_a_line(root: Path) -> None:
    old, new = (Digest.of(blob) for blob in image_blobs([BASE, CHANGES], compress=True)[:2])
    found = [json.loads(line) for line in diff(root, "v1", "v2", "--json").stdout.splitlines()]
    assert found[0] == {
        "change": "removed", "path": "/etc/old", "type": "file", "size": 3, "layer": 1,
        "layer_digest": str(old),
    }  # fmt: skip
    assert found[1] == {
        "change": "changed", "path": "/etc/passwd", "type": "file", "size": 4, "layer": 2,
        "layer_digest": str(new), "aspects": ["owner", "content"],
    }  # fmt: skip
    assert os.fsencode(found[3]["path"]) == b"/srv/caf\xe9"


@pytest.mark.parametrize("new", ["none", "broken", "nowhere:v1"])
def test_what_cannot_be_compared_ends_with_2(layout: Layout, root: Path, new: str) -> None:
    """[S21.26] It is 2 if that cannot be found out."""
    store_image(layout, b"no archive" * 100, tag=Tag("broken"))
    result = diff(root, "v1", new)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert invoke("diff", root / "none", f"{APP}:v1", f"{APP}:v2").exit_code == 2


def test_file_that_cannot_be_read_ends_with_2(layout: Layout, root: Path) -> None:
    copied = [archive(member(b"first"), member(b"etc/passwd", b"ROOT"), member(b"x", b"x" * 5000))]
    store_image(layout, *copied, compress=True, tag=Tag("v3"))
    assert diff(root, "v1", "v3").exit_code == 1
    blob = image_blobs(copied, compress=True)[0]
    layout.put(paths.blob_data(Digest.of(blob)), blob[:20] + bytes(20) + blob[40:])
    assert diff(root, "v1", "v3").exit_code == 2


@pytest.mark.registry
@pytest.mark.usefixtures("as_root")
def test_differences_are_those_of_diff(root: Path, tmp_path: Path) -> None:
    """[S21.26] Without the attributes they are those of `diff -r` on the unpacked images."""
    images = LayerImages(tmp_path / "oci")
    for tag, layers in (("v1", [BASE]), ("v2", [BASE, CHANGES])):
        images.add(tag, *layers, compress=True)
        unpacked(images, tag, tmp_path / tag)
    command = ["diff", "-rq", "v1/rootfs", "v2/rootfs"]
    done = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path)
    theirs = sorted(
        line.replace(b": ", b"/").split()[3 if line.startswith(b"Files") else -1]
        .replace(b"v1/rootfs", b"").replace(b"v2/rootfs", b"")
        for line in done.stdout.splitlines()
    )  # fmt: skip
    lines = diff(root, "v1", "v2", "--json", "--ignore", "owner").stdout.splitlines()
    assert sorted(os.fsencode(json.loads(line)["path"]) for line in lines) == theirs
