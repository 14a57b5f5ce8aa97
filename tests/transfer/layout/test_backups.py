"""Backups of a whole registry in a layout or an archive, and what is restored from them."""

import json
import tarfile
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName
from blobfs.transfer.layout.entries import REF_NAME
from tests.support.copies import Copies

OTHER = RepositoryName("other")


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    """A source with one of everything that a registry may have."""
    copies = Copies(tmp_path)
    old = copies.put_image("v1", b"config", b"old layer")
    new = copies.put_image("v1", b"config", b"layer")
    copies.put_index("multi", old, new)
    copies.put_referrer(new, b"attestation")
    copies.put_image("", b"config", b"of no tag")
    copies.put_image("v1", b"config", b"layer", name=OTHER)
    copies.layout.layer(b"single", OTHER)
    copies.layout.layer(b"only a blob", RepositoryName("only/blobs"))
    named_twice = copies.layout.layer(b"named twice", OTHER)
    alias = Digest.of(b"named twice", "sha512")
    copies.layout.link(paths.layers(OTHER), alias, str(named_twice).encode())
    return copies


def run(copies: Copies, command: str, source: object, target: object, *options: object) -> None:
    result = copies.between(command, source, target, *options)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("place", ["oci:{}/layout", "oci-archive:{}/archive.tar"])
def test_a_whole_registry_comes_back_from_its_backup(copies: Copies, place: str) -> None:
    """[S22.41] A copy of it into a new storage has the same files

    [S22.9] with the history of tags, manifests without a tag, and single blobs
    """
    backup = place.format(copies.directory)
    run(copies, "backup", copies.source, backup)
    run(copies, "restore", backup, copies.target)
    assert copies.files(copies.target) == copies.files(copies.source)
    before = {path: path.stat().st_ino for path in copies.directory.glob("layout/blobs/*/*")}
    copies.put_image("v3", b"config", b"another")
    run(copies, "backup", copies.source, backup)
    assert {path: path.stat().st_ino for path in before} == before
    run(copies, "restore", backup, copies.target)
    assert copies.files(copies.target) == copies.files(copies.source)
    one = copies.directory / "one"
    run(copies, "restore", f"{backup}!/team/app:v1", one)
    assert set(copies.tags(one)) == {"team/app:v1"}


def test_one_tag_of_a_backup_is_restored(copies: Copies) -> None:
    """[S22.40] find an image by the name `repository:tag`"""
    backup = copies.directory / "layout"
    run(copies, "backup", copies.source, f"oci:{backup}")
    run(copies, "cp", f"oci:{backup}:team/app:v1", f"{copies.target}!/new:v2")
    assert set(copies.tags()) == {"new:v2"}
    run(copies, "cp", f"{copies.source}!/team/app:v1", f"oci:{copies.directory}/plain:v7")
    run(copies, "cp", f"oci:{copies.directory}/plain:v7", f"{copies.target}!/plain:v8")
    assert set(copies.tags()) == {"new:v2", "plain:v8"}


def test_the_only_image_of_a_layout_needs_no_name(copies: Copies) -> None:
    """[S22.46] The only image of a layout needs no name"""
    one, untagged = f"oci:{copies.directory}/one", f"oci-archive:{copies.directory}/untagged.tar"
    run(copies, "cp", f"{copies.source}!/other:v1", one)
    run(copies, "cp", one, f"{copies.target}!/new:v2")
    index = copies.tags(copies.source)["team/app:multi"]
    run(copies, "cp", f"{copies.source}!/team/app@{index}", untagged)
    run(copies, "cp", untagged, f"{copies.target}!/new:v3")
    assert copies.tags() == {"new:v2": copies.tags(copies.source)["other:v1"], "new:v3": index}
    run(copies, "cp", f"{copies.source}!/team/app:v1", one)
    result = copies.between("cp", one, f"{copies.target}!/new:v4")
    assert result.exit_code == 1
    assert f"other:v1, team/app:v1; name one, as {one}:NAME" in result.stderr


def test_entries_without_a_valid_name_can_be_left_out(copies: Copies) -> None:
    layout = copies.directory / "layout"
    run(copies, "cp", f"{copies.source}!/other:v1", f"oci:{layout}")
    index = json.loads((layout / "index.json").read_bytes())
    entry = index["manifests"][0]
    for name in ("../../x:v1", "a\x1b[31m:b", "x" * 5000):
        index["manifests"].append({**entry, "annotations": {REF_NAME: name}})
    (layout / "index.json").write_text(json.dumps(index))
    result = copies.between("cp", f"oci:{layout}", copies.target)
    assert result.exit_code == 1
    assert "--include '?*'" in result.stderr
    run(copies, "cp", f"oci:{layout}", copies.target, "--include", "?*")
    assert set(copies.tags()) == {"other:v1"}


def test_an_archive_is_refused_by_cp_and_made_anew_by_sync(copies: Copies) -> None:
    """[S22.44] `cp` refuses an archive that exists; `sync` makes a new one of it and the copy"""
    file = copies.directory / "copy.tar"
    run(copies, "cp", f"{copies.source}!/other:v1", f"oci-archive:{file}")
    result = copies.between("cp", copies.source, f"oci-archive:{file}")
    assert result.exit_code == 1
    assert "use sync" in result.stderr
    run(copies, "sync", f"{copies.source}!/team/app:v1", f"oci-archive:{file}")
    run(copies, "cp", f"oci-archive:{file}", copies.target)
    assert set(copies.tags()) == {"other:v1", "team/app:v1"}
    with tarfile.open(file) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))
