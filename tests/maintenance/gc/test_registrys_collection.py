"""``docker-registry garbage-collect`` and ``blobfs gc`` on the same storage."""

import json
import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.cache.memory import NoCache
from blobfs.digest import Digest
from blobfs.drivers.factory import driver_for
from blobfs.inventory import scanning
from blobfs.maintenance.gc.collector import Collection, Options
from blobfs.reference import Tag
from tests.support.layout import APP, Layout, as_bytes, descriptor, image, index
from tests.support.services import run

pytestmark = pytest.mark.registry

_YEAR_S = 365 * 86400


def lay_out(root: Path) -> dict[str, Digest]:
    """Store what a collection may take for garbage, and what is; returns the blobs by name."""
    with closing(driver_for(str(root))) as driver:
        layout = Layout(driver)
        blobs = {"config": layout.layer(b"config"), "child's layer": layout.layer(b"child")}
        blobs["child"] = layout.revision(image(blobs["config"], blobs["child's layer"]))
        blobs["index"] = layout.revision(index(blobs["child"]))
        layout.tag(blobs["index"], Tag("index"))
        blobs["signature"] = layout.layer(b"signature")
        of = {"subject": descriptor(blobs["index"])}
        referrer = json.loads(image(blobs["config"], blobs["signature"])) | of
        blobs["referrer"] = layout.revision(as_bytes(referrer))
        blobs["aliased"] = layout.layer(b"aliased")
        alias = Digest.of(b"aliased", "sha512")
        layout.link(paths.layers(APP), alias, str(blobs["aliased"]).encode())
        blobs["user of an alias"] = layout.revision(image(blobs["config"], alias))
        layout.tag(blobs["user of an alias"], Tag("alias"))
        blobs["copied by a person"] = layout.layer(b"copied")
        blobs["old layer"] = layout.layer(b"old")
        blobs["old"] = layout.revision(image(blobs["old layer"]))
        blobs["of nobody"] = layout.blob(b"of nobody")
        for file in root.rglob("*"):
            os.utime(file, (file.stat().st_mtime - _YEAR_S,) * 2)
        blobs["of a push"] = layout.layer(b"of a push")  # whose manifest comes next
    return blobs


def names(root: Path, blobs: dict[str, Digest]) -> set[str]:
    return {name for name, d in blobs.items() if (root / paths.blob_data(d)[1:]).exists()}


def blobfs_collects(root: Path, *, layers: bool = False, untagged: bool = False) -> None:
    options = Options(layers, untagged, age_s=86400, grace_s=0, settle_s=0)
    Collection(str(root), root.with_suffix(".db"), options, NoCache()).run()
    scanning.close_all()


def registry_collects(root: Path) -> None:
    config = root.with_suffix(".yml")
    storage = {"filesystem": {"rootdirectory": str(root)}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage}))
    run("docker-registry", "garbage-collect", "--delete-untagged", config)


def test_only_garbage_is_deleted_where_a_registry_deletes_images_in_use(tmp_path: Path) -> None:
    """A registry 2.8 deletes parts of tagged images, and of pushes that go on.

    It keeps the child of a tagged index and deletes the child's link and layers. It knows neither
    referrers nor aliases, and no age.
    """
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    blobs = lay_out(ours)
    shutil.copytree(ours, theirs)
    blobfs_collects(ours, untagged=True)
    registry_collects(theirs)
    assert blobs.keys() - names(ours, blobs) == {"old", "of nobody"}
    assert names(ours, blobs) - names(theirs, blobs) == {
        "child's layer", "referrer", "signature", "aliased", "of a push",
        "copied by a person", "old layer",
    }  # fmt: skip
    assert names(theirs, blobs) <= names(ours, blobs)
    blobfs_collects(ours, layers=True)
    gone = {"old", "of nobody", "old layer", "copied by a person"}
    assert blobs.keys() - names(ours, blobs) == gone


def test_registry_ignores_a_blob_that_is_set_aside(tmp_path: Path) -> None:
    root = tmp_path / "storage"
    root.mkdir()
    blobs = lay_out(root)
    data = root / paths.blob_data(blobs["of nobody"])[1:]
    aside = data.rename(data.with_name("data.aside"))
    registry_collects(root)
    assert aside.exists()
