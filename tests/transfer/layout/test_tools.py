"""Layouts that other tools read and write: skopeo, umoci."""

import json
import subprocess
from pathlib import Path

import pytest

from blobfs.digest import Descriptor, Digest
from blobfs.reference import Tag
from blobfs.transfer.base import Source, Target
from blobfs.transfer.layout import LayoutSource, LayoutTarget
from tests.support import images
from tests.support.places import described
from tests.support.services import run
from tests.support.transfers import content_of, copy, read

pytestmark = pytest.mark.registry

APP = "team/app"


def put_as(repository: str, source: Source, target: Target) -> None:
    """Copy the images of the repository ``""`` into another one."""
    for digest in content_of(source)[""].blobs:
        content = read(source, "", digest)
        target.put_blob(repository, Descriptor(digest, len(content)), [content])
    for digest in sorted(
        source.revisions(""), key=lambda each: len(source.outline("", each).children)
    ):
        target.put_manifest(repository, digest, source.manifest("", digest))
    for tag in source.tags(""):
        target.tag(repository, tag, source.tagged("", tag), ())


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with plain tags and those of a repository, a manifest without a tag, and a blob."""
    directory = tmp_path_factory.mktemp("layout")
    with LayoutTarget(directory) as target:
        with LayoutSource(images.small()) as source:
            copy(source, target)
            put_as(APP, source, target)
        with LayoutSource(images.multi()) as source:
            put_as(APP, source, target)
        target.untag(APP, Tag("v2"))
        target.put_blob(APP, described(b"single"), [b"single"])
        target.finish()
    return directory


@pytest.fixture
def copied(layout: Path, tmp_path: Path) -> Path:
    """A copy of ``layout`` that a test may change."""
    with LayoutSource(layout) as source, LayoutTarget(tmp_path / "layout") as target:
        copy(source, target)
    return tmp_path / "layout"


def test_skopeo_finds_images_by_repository_and_tag(layout: Path, tmp_path: Path) -> None:
    """[S22.40] find an image by the name `repository:tag`"""
    for name in ("v1", f"{APP}:v1", f"{APP}:latest"):
        out = tmp_path / name.replace("/", "-")
        run("skopeo", "copy", "--all", f"oci:{layout}:{name}", f"dir:{out}")
        with LayoutSource(layout) as source:
            repository, _, tag = name.rpartition(":")
            found = (out / "manifest.json").read_bytes()
            assert Digest.of(found) == source.tagged(repository, Tag(tag))


def test_umoci_unpacks_changes_and_collects_and_nothing_of_ours_is_lost(
    copied: Path, tmp_path: Path
) -> None:
    """[S22.42] Entries and annotations that other tools made in `index.json` stay"""
    run("umoci", "unpack", "--rootless", "--image", f"{copied}:v1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/etc/os-release").read_text() == "ID=small\n"
    with LayoutSource(copied) as source:
        before = content_of(source)
    run("umoci", "tag", "--image", f"{copied}:v1", "v3")
    run("umoci", "gc", "--layout", copied)
    with LayoutSource(copied) as source:
        after = content_of(source)
        assert after[""].tags.pop(Tag("v3"))[0] == source.tagged("", Tag("v1"))
    assert after == before


def test_an_image_that_skopeo_adds_is_found_beside_ours(copied: Path) -> None:
    with LayoutSource(copied) as source:
        before = content_of(source)
    run("skopeo", "copy", f"oci:{images.small()}:v2", f"oci:{copied}:other/app:new")
    with LayoutSource(copied) as source:
        after = content_of(source)
        assert list(after.pop("other/app").tags) == [Tag("new")]
    assert after == before
    with LayoutTarget(copied) as target:
        target.untag("other/app", Tag("new"))
        target.finish()
    found = subprocess.run(
        ["skopeo", "inspect", f"oci:{copied}:other/app:new"], capture_output=True, check=False
    )
    assert found.returncode != 0
    name = f"other/app@{before[''].tags[Tag('v2')][0]}"
    assert json.loads(run("skopeo", "inspect", f"oci:{copied}:{name}"))["Architecture"]
