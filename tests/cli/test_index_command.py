"""``blobfs index``: indexes that are made ahead."""

import io
import json
import sys
from pathlib import Path

import pytest
from click.testing import Result

from blobfs import paths
from blobfs.cli.opening import ByteBar
from blobfs.digest import Digest
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.manifest import OCI_INDEX
from tests.support.command import invoke
from tests.support.layers import archive, image_blobs, member, store_blobs, store_image
from tests.support.layout import APP, Json, Layout, as_bytes, descriptor
from tests.support.tables import estargz, image_of

LOW = archive(member(b"etc/passwd", b"root"))
HIGH = archive(member(b"srv/data", b"x" * 1000))
DAMAGED = b"no archive" * 100


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "storage").mkdir()
    layout = Layout(FilesystemDriver.below(tmp_path / "storage"))
    store_image(layout, LOW, HIGH, compress=True, tag=Tag("v1"))
    return layout


@pytest.fixture
def storage(layout: Layout, tmp_path: Path) -> Path:
    return tmp_path / "storage"


def index(storage: Path, *arguments: object) -> Result:
    return invoke("index", storage, *arguments, "--index-dir", storage.parent / "index")


def rows(storage: Path, *arguments: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(index(storage, *arguments, "--json").stdout)
    return found


def remove_layers(layout: Layout) -> None:
    for blob in image_blobs([LOW, HIGH], compress=True)[:2]:
        layout.put(paths.blob_data(Digest.of(blob)), b"damaged")


def test_image_is_indexed_once(layout: Layout, storage: Path) -> None:
    """[S21.20] `blobfs index` makes the indexes of images ahead: a later use reads no layer."""
    [row] = rows(storage, f"{APP}:v1")
    assert isinstance(row.pop("index"), int)
    assert row == {
        "image": f"{APP}:v1", "platform": "linux/amd64", "entries": 5, "bytes": 1004,
        "layers": 2, "state": "ok",
    }  # fmt: skip
    remove_layers(layout)
    assert index(storage, f"{APP}:v1").exit_code == 0
    assert invoke("index", storage, APP, "--index-dir", storage.parent / "other").exit_code == 1


def test_repository_means_all_tags_and_platforms(layout: Layout, storage: Path) -> None:
    """[S21.20] A repository means all its tags, and an image index the images of all platforms."""
    one, other = (store_image(layout, each, tag=Tag("v2")) for each in (LOW, HIGH))
    children: list[Json] = [
        {**descriptor(digest), "platform": {"os": "linux", "architecture": name}}
        for digest, name in ((one, "amd64"), (other, "arm64"))
    ]
    document: Json = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
    layout.tag(layout.revision(as_bytes(document)), Tag("v3"))
    found = rows(storage, APP)
    assert [row["image"] for row in found] == [f"{APP}:{tag}" for tag in ("v1", "v2", "v3", "v3")]
    assert [row["bytes"] for row in found] == [1004, 1000, 4, 1000]


def test_layer_that_is_no_archive_is_a_finding(layout: Layout, storage: Path) -> None:
    """[S21.21] An image that cannot be indexed is printed with the reason, and the others are
    indexed; the exit code is 1.
    """
    store_image(layout, DAMAGED, tag=Tag("v0"))
    result = index(storage, APP, "--json")
    assert result.exit_code == 1
    damaged, good = json.loads(result.stdout)
    assert f"layer {Digest.of(DAMAGED)}: the layer is no tar archive" in damaged["state"]
    assert good["state"] == "ok"
    assert f"{APP}:v1: ok" in result.stderr.splitlines()

    quiet = index(storage, APP, "--quiet")
    assert (quiet.exit_code, quiet.stderr) == (1, "")
    assert [line.split()[0] for line in quiet.stdout.splitlines()] == ["image", f"{APP}:v0"]


def test_quiet_prints_nothing_without_a_finding(storage: Path) -> None:
    result = index(storage, f"{APP}:v1", "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_tag_that_leads_nowhere_is_a_finding(layout: Layout, storage: Path) -> None:
    layout.tag(Digest.of(b"missing"), Tag("v0"))
    layout.put(paths.tag_current_link(APP, Tag("v00")), b"damaged")
    found = rows(storage, APP)
    assert [row["state"] == "ok" for row in found] == [False, False, True]


@pytest.mark.parametrize("name", [f"{APP}:none", RepositoryName("none")])
def test_unknown_name_is_an_error(storage: Path, name: str) -> None:
    result = index(storage, name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "unknown" in result.stderr


def test_directory_that_cannot_be_used_is_an_error(storage: Path) -> None:
    (storage.parent / "index").mkdir()
    (storage.parent / "index/v1").write_text("a file")
    result = index(storage, APP)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--index-dir" in result.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_has_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = ByteBar("Indexing")
    bar.add(1)  # before and after it is nothing
    with bar.showing(100 * 2**20):
        bar.add(50 * 2**20)
    bar.add(1)
    shown = terminal.getvalue()
    assert "Indexing" in shown
    assert "50%" in shown
    assert "/s" in shown


def test_bar_is_for_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    with ByteBar("Indexing").showing(100):
        pass
    assert capsys.readouterr().err == ""


OCI = "application/vnd.oci.image"
SIGNATURE = "application/vnd.dev.cosign.simplesigning.v1+json"


@pytest.mark.parametrize(
    ("config", "layer"),
    [
        (f"{OCI}.config.v1+json", SIGNATURE),
        ("application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.v1.tar+gzip"),
        ("application/vnd.oci.empty.v1+json", f"{OCI}.layer.v1.tar"),
    ],
)
def test_things_that_are_no_images_are_skipped(
    layout: Layout, storage: Path, config: str, layer: str
) -> None:
    """[S21.20] Signatures and other things that are no images are skipped."""
    document: Json = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": descriptor(layout.layer(b"{}"), size=2, media_type=config),
        "layers": [descriptor(layout.layer(b"signature"), size=9, media_type=layer)],
    }
    layout.tag(layout.revision(as_bytes(document)), Tag("sha256-12.sig"))
    ended = index(storage, APP)
    assert ended.exit_code == 0
    assert "sha256-12.sig: skipped, it is no image" in ended.stderr
    assert index(storage, f"{APP}:sha256-12.sig").exit_code == 1


@pytest.mark.parametrize("option", [True, False])
def test_directory_of_indexes_in_the_mount_is_refused(
    storage: Path, tmp_path: Path, option: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one of the option, and the default one."""
    place = tmp_path / "mnt"
    place.mkdir()
    monkeypatch.setattr("blobfs.cli.mounting.default_indexes", lambda: place / "images")
    options = ("--index-dir", place / "images") if option else ()
    ended = invoke("mount", storage, place, *options)
    assert ended.exit_code == 1
    assert "--index-dir" in ended.stderr
    assert "is in the mount; give another directory" in ended.stderr


def test_layers_with_tables_are_read_in_full_and_compared(layout: Layout, storage: Path) -> None:
    """[S21.13] `blobfs index` reads such layers in full, too"""
    content = archive(member(b"a", b"1", mtime_ns=10**18))
    honest = estargz(content)
    lying = estargz(content, lambda document: document["entries"][0].update(uid=1))
    for tag, tabled in (("honest", honest), ("lying", lying)):
        store_blobs(layout, image_of(tabled), Tag(tag))
        listed = invoke("ls", storage, f"{APP}:{tag}", "--index-dir", storage.parent / "index")
        assert listed.stdout == "a\nstargz.index.json\n"
    assert [row["state"] for row in rows(storage, f"{APP}:honest")] == ["ok"]
    [row] = rows(storage, f"{APP}:lying")
    assert "table of contents differs from the archive: b'a'" in str(row["state"])
