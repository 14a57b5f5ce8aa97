"""``blobfs cp`` between two directories."""

import json
import time
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName, Tag
from tests.support.command import invoke
from tests.support.copies import Copies, counts, events
from tests.support.layout import APP

OTHER = RepositoryName("other")


def test_an_image_is_copied_with_all_that_belongs_to_it(copies: Copies) -> None:
    """[S22.1] its config and layers, the children of an index, referrers, and tags of signatures"""
    child = copies.put_image("", b"config", b"layer")
    other = copies.put_image("", b"config 2", b"layer")
    top = copies.put_index("v1", child, other)
    referrer = copies.put_referrer(top, b"attestation")
    copies.put_referrer(referrer, b"of the referrer")
    copies.put_image(f"sha256-{child.encoded}.sig", b"signature", b"signature layer")
    copies.put_image("v2", b"another", b"image")
    assert copies.cp(source="!/team/app:v1").exit_code == 0
    expected = copies.files(copies.source)
    found = copies.files(copies.target)
    assert {path: found[path] for path in found if path in expected} == found
    assert set(copies.tags()) == {"team/app:v1", f"team/app:sha256-{child.encoded}.sig"}
    missing = {content for path, content in expected.items() if path not in found}
    assert {b"another", b"image"} <= missing
    assert not {b"attestation", b"of the referrer", b"signature"} & missing


def test_a_second_run_sends_nothing(copies: Copies) -> None:
    """[S22.3] a blob of several repositories is sent once"""
    copies.put_image("v1", b"config", b"layer")
    copies.put_image("v1", b"config", b"layer", name=OTHER)
    first = counts(copies.cp("--json"))
    assert first["blob"] == {"there": 0, "linked": 2, "copied": 0, "sent": 2, "bytes": 11}
    before = {path: (copies.target / path).stat().st_ino for path in copies.target.rglob("*")}
    second = counts(copies.cp("--json"))
    assert [second[kind]["sent"] for kind in second] == [0, 0, 0]
    assert second["blob"]["there"] == 4
    assert before == {
        path: (copies.target / path).stat().st_ino for path in copies.target.rglob("*")
    }
    assert copies.files(copies.source) == copies.files(copies.target)


def test_a_wrong_blob_leaves_out_its_images_only(copies: Copies) -> None:
    """[S22.4] It is listed with these images. Everything else is copied"""
    bad = copies.put_image("bad", b"config", b"layer")
    copies.put_index("multi", bad)
    copies.put_image("good", b"config", b"another layer")
    damaged = Digest.of(b"layer")
    copies.blob(copies.source, damaged).write_bytes(b"LAYER")
    result = copies.cp()
    assert result.exit_code == 1
    [line] = [line for line in result.stderr.splitlines() if str(damaged) in line]
    assert line.endswith("left out: team/app:bad, team/app:multi")
    assert set(copies.tags()) == {"team/app:good"}
    assert str(bad) not in "".join(copies.files(copies.target))
    assert not copies.blob(copies.target, damaged).exists()
    assert invoke("verify", "--content", copies.target).exit_code == 0


@pytest.mark.parametrize("damage", ["blob", "manifest", "link"])
def test_what_is_missing_is_a_failure(copies: Copies, damage: str) -> None:
    """[S22.4] What is missing, wrong or unreadable keeps the images that need it out"""
    digest = copies.put_image("bad", b"config", b"layer")
    copies.put_image("good", b"config", b"another layer")
    if damage == "link":
        copies.layout.tag(Digest.of(b"missing"), Tag("bad"))
    else:
        gone = digest if damage == "manifest" else Digest.of(b"layer")
        copies.blob(copies.source, gone).unlink()
    result = copies.cp("--json")
    assert result.exit_code == 1
    assert [failure["images"] for failure in events(result, "failure")] == [["team/app:bad"]]
    assert set(copies.tags()) == {"team/app:good"}


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("", "", {"other:v1", "team/app:v1", "team/app:v2"}),
        ("!/team/app", "", {"team/app:v1", "team/app:v2"}),
        ("!/team/app:v1", "", {"team/app:v1"}),
        ("!/team/app:v1", "!/app:stable", {"app:stable"}),
        ("!/team/app", "!/app", {"app:v1", "app:v2"}),
        ("!/team/", "", {"team/app:v1", "team/app:v2"}),
        ("!/team/", "!/old/", {"old/app:v1", "old/app:v2"}),
        ("", "!/old/", {"old/other:v1", "old/team/app:v1", "old/team/app:v2"}),
    ],
)
def test_parts_and_names(copies: Copies, source: str, target: str, expected: set[str]) -> None:
    """[S22.7] with `!/prefix/` their names are below that prefix"""
    copies.put_image("v1", b"config", b"layer")
    copies.put_image("v2", b"config", b"layer")
    copies.put_image("v1", b"config", b"layer", name=OTHER)
    result = copies.cp(source=source, target=target)
    assert result.exit_code == 0, result.output
    assert set(copies.tags()) == expected


def test_a_clash_of_names_is_refused_before_anything_is_written(copies: Copies) -> None:
    """[S22.7] Two repositories that would get one name are refused before anything is written"""
    copies.put_image("v1", b"config", b"layer")
    copies.put_image("v1", b"config", b"layer", name=OTHER)
    result = copies.cp(target="!/app")
    assert result.exit_code == 1
    assert "two repositories" in result.stderr
    assert not copies.target.exists()


def test_a_place_is_not_copied_into_itself(copies: Copies) -> None:
    """[S22.7] So is a copy of a place into itself or into a directory inside it"""
    copies.put_image("v1", b"config", b"layer")
    for target in (copies.source, copies.source / "docker", copies.source.parent):
        result = copies.between("cp", copies.source, target)
        assert result.exit_code == 1
        assert "give " in result.stderr
    name = f"{copies.source}!/copy/"
    assert copies.between("cp", copies.source, name).exit_code == 0
    assert set(copies.tags(copies.source)) == {"team/app:v1", "copy/team/app:v1"}


def test_a_dry_run_shows_what_would_be_sent(copies: Copies) -> None:
    """[S22.10] With `--dry-run` the places are read, and nothing is changed"""
    copies.put_image("v1", b"config", b"layer")
    copies.put_image("v1", b"config", b"layer", name=OTHER)
    result = copies.cp("--dry-run", "--json")
    assert not copies.target.exists()
    assert not copies.has_journal()
    [other, app] = map(json.loads, result.stdout.splitlines())
    assert other == {"event": "plan", "repository": "other", "tags": 1, "blobs": 2, "bytes": 11}
    assert app == {"event": "plan", "repository": "team/app", "tags": 1, "blobs": 0, "bytes": 0}
    copies.cp()
    result = copies.cp("--dry-run")
    assert result.stdout.split() == ["repository", "tags", "blobs", "bytes"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--include", "team/*"), {"team/app:v1", "team/app:v2"}),
        (("--include", "*:v[12]", "--exclude", "other"), {"team/app:v1", "team/app:v2"}),
        (("--exclude", "*:v1"), {"team/app:v2"}),
        (("--newer-than", "1h"), {"team/app:v1", "team/app:v2", "other:v1"}),
        (("--newer-than", "0s"), set()),
    ],
)  # fmt: skip
def test_tags_are_selected(copies: Copies, options: tuple[str, ...], expected: set[str]) -> None:
    """[S22.22] A pattern with a colon is for `repository:tag`, another one for the repository"""
    copies.put_image("v1", b"config", b"layer")
    copies.put_image("v2", b"config", b"another")
    copies.put_image("v1", b"config", b"layer", name=OTHER)
    assert copies.cp(*options).exit_code == 0
    assert (copies.tags() if expected else {}).keys() == expected


def test_history_and_everything(copies: Copies) -> None:
    """[S22.23] `--history` copies the images that a tag named before, too"""
    old = copies.put_image("v1", b"config", b"old")
    copies.put_image("v1", b"config", b"new")
    copies.put_image("", b"untagged", b"layer")
    copies.layout.layer(b"single")
    gone = copies.put_image("v1", b"config", b"newest")
    copies.layout.link(paths.tag_index(APP, Tag("v1")), Digest("sha256", "0" * 64))
    assert copies.cp(source="!/team/app:v1").exit_code == 0
    assert not copies.blob(copies.target, old).exists()
    assert copies.cp("--history", source="!/team/app:v1").exit_code == 0
    assert copies.blob(copies.target, old).exists()
    assert copies.blob(copies.target, gone).exists()
    assert not copies.blob(copies.target, Digest.of(b"single")).exists()
    assert copies.cp("--all").exit_code == 0
    left = copies.files(copies.source).keys() - copies.files(copies.target)
    assert [path.count("0" * 64) for path in left] == [1]


def test_a_digest_is_a_manifest_or_a_blob(copies: Copies) -> None:
    """[S22.7] An image or a blob can be named by its digest"""
    digest = copies.put_image("v1", b"config", b"layer")
    blob = Digest.of(b"layer")
    copies.target.mkdir()
    assert copies.cp(source=f"!/team/app@{blob}").exit_code == 0
    assert copies.blob(copies.target, blob).exists()
    assert copies.tags() == {}
    assert copies.cp(source=f"!/team/app@{digest}", target="!/app:new").exit_code == 0
    assert copies.tags() == {"app:new": str(digest)}


def test_wrong_bytes_in_the_target_are_replaced_where_it_is_verified(copies: Copies) -> None:
    """[S22.24] With `--verify-target` the blobs that are there are read"""
    copies.put_image("v1", b"config", b"layer")
    copies.cp()
    blob = copies.blob(copies.target, Digest.of(b"layer"))
    blob.write_bytes(b"LAYER")
    assert counts(copies.cp("--json"))["blob"]["sent"] == 0
    assert counts(copies.cp("--json", "--verify-target"))["blob"] == {
        "there": 1, "linked": 0, "copied": 0, "sent": 1, "bytes": 5,
    }  # fmt: skip
    assert blob.read_bytes() == b"layer"


def test_the_rate_is_limited(copies: Copies) -> None:
    """[S22.25] `--bwlimit` bounds the bytes per second that a process sends"""
    copies.put_image("v1", b"config", *(bytes([n]) * 1000 for n in range(12)))
    began = time.monotonic()
    assert copies.cp("--bwlimit", "10K").exit_code == 0
    assert time.monotonic() - began > 0.9


def test_a_copy_that_selects_nothing_says_so(copies: Copies) -> None:
    """A pattern with a mistake is no backup."""
    copies.put_image("v1", b"config", b"layer")
    result = copies.cp("--include", "team/ap:*")
    assert result.exit_code == 0
    assert "nothing was selected" in result.stderr
    assert "nothing was selected" not in copies.cp("--include", "team/app:*").stderr


def test_a_copy_of_nothing_that_exists_leaves_no_target(copies: Copies, tmp_path: Path) -> None:
    copies.put_image("v1", b"config", b"layer")
    target = tmp_path / "new"
    found = invoke("cp", f"{copies.source}!/{APP}:unknown", target)
    assert found.exit_code == 1
    assert "unknown tag" in found.stderr
    assert not target.exists()


def test_times_of_tags_need_a_storage(copies: Copies) -> None:
    copies.put_image("v1", b"config", b"layer")
    layout = f"oci:{copies.directory}/layout"
    assert copies.between("cp", copies.source, layout).exit_code == 0
    result = invoke("cp", layout, copies.target, "--newer-than", "1d")
    assert result.exit_code == 1
    assert "omit --newer-than" in result.stderr
