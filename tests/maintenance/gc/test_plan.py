"""The plan of a collection: what is dead, and what stays although it looks dead."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName, Tag
from tests.maintenance.gc.conftest import AT_ONCE, Garbage, forbid, later
from tests.support.layout import APP, LATEST, Layout, as_bytes, descriptor, image, index

OTHER = RepositoryName("other")
TEMPORARY = "app.01234567-89ab-cdef-0123-456789abcdef.tmp"
"""A name that a temporary file may have, too."""


def tagged(layout: Layout, content: bytes, tag: Tag = LATEST) -> Digest:
    """Store an image of one layer, and tag it."""
    manifest = layout.revision(image(layout.layer(content)))
    layout.tag(manifest, tag)
    return manifest


def with_subject(subject: Digest, config: Digest) -> bytes:
    document = json.loads(image(config))
    return as_bytes(document | {"subject": descriptor(subject)})


def test_unlinked_blob_is_dead_and_a_linked_one_lives(garbage: Garbage) -> None:
    """[S19.20] A blob that a repository links in `_layers` lives, if a manifest names it or not,
    unless `--layers` removes the link.
    """
    stray = garbage.layout.blob(b"of nobody")
    garbage.layout.layer(b"copied by a person")
    tagged(garbage.layout, b"of an image")
    assert garbage.planned(later()) == {
        ("blob", "", stray),
        ("layer", APP, Digest.of(b"copied by a person")),
        ("blob", APP, Digest.of(b"copied by a person")),
    }
    options = replace(AT_ONCE, layers=False, untagged=False)
    assert garbage.planned(options) == {("blob", "", stray)}


def test_plan_changes_nothing(garbage: Garbage) -> None:
    """[S19.21] Without `--delete` or `--apply` nothing in the storage is changed."""
    stray = garbage.layout.blob(b"of nobody")
    layer = garbage.layout.layer(b"old")
    garbage.planned()
    assert garbage.has_blob(stray)
    assert garbage.has_layer(layer)


def test_young_blobs_and_links_stay(garbage: Garbage) -> None:
    """[S19.22] What was changed within `--age` stays."""
    garbage.layout.blob(b"of nobody")
    garbage.layout.layer(b"of an upload")
    garbage.layout.revision(image(garbage.layout.layer(b"config")))
    assert garbage.planned(later(age_s=60)) == set()


def test_untagged_manifest_goes_with_its_layers_and_its_history(garbage: Garbage) -> None:
    old = tagged(garbage.layout, b"old layer")
    tagged(garbage.layout, b"new layer")
    layer = Digest.of(b"old layer")
    assert garbage.planned() == {
        ("revision", APP, old),
        ("history", APP, old),
        ("layer", APP, layer),
        ("blob", APP, old),
        ("blob", APP, layer),
    }
    assert garbage.planned(replace(AT_ONCE, untagged=False)) == set()
    without_layers = garbage.planned(replace(AT_ONCE, layers=False))
    assert without_layers == {("revision", APP, old), ("history", APP, old), ("blob", APP, old)}


def test_history_of_a_deleted_revision_is_dead_without_options(garbage: Garbage) -> None:
    old = garbage.layout.blob(image(garbage.layout.layer(b"config")))
    garbage.layout.link(paths.tag_index(APP, LATEST), old)
    tagged(garbage.layout, b"new")
    options = replace(AT_ONCE, layers=False, untagged=False)
    assert garbage.planned(options) == {("history", APP, old), ("blob", APP, old)}


def test_children_of_a_tagged_index_stay(garbage: Garbage) -> None:
    """[S19.23] `--untagged` keeps the children of kept indexes, of any depth, and the referrers of
    kept manifests.
    """
    layout = garbage.layout
    child = layout.revision(image(layout.layer(b"amd64")))
    inner = layout.revision(index(child))
    layout.tag(layout.revision(index(inner)))
    assert garbage.planned() == set()


def test_referrers_of_a_kept_manifest_stay(garbage: Garbage) -> None:
    manifest = tagged(garbage.layout, b"image")
    signature = with_subject(manifest, garbage.layout.layer(b"signature"))
    referrer = garbage.layout.revision(signature)
    garbage.layout.revision(with_subject(referrer, garbage.layout.layer(b"of a signature")))
    assert garbage.planned() == set()


def test_referrer_of_a_dead_manifest_is_dead(garbage: Garbage) -> None:
    dead = garbage.layout.revision(image(garbage.layout.layer(b"config")))
    signature = garbage.layout.revision(with_subject(dead, garbage.layout.layer(b"signature")))
    found = {entry for entry in garbage.planned() if entry[0] == "revision"}
    assert found == {("revision", APP, dead), ("revision", APP, signature)}


def test_layer_that_a_manifest_names_by_an_alias_stays(garbage: Garbage) -> None:
    layout = garbage.layout
    blob = layout.layer(b"content")
    alias = Digest.of(b"content", "sha512")
    layout.link(paths.layers(APP), alias, str(blob).encode())
    layout.tag(layout.revision(image(alias)))
    assert garbage.planned() == set()


def test_blob_of_another_repository_stays(garbage: Garbage) -> None:
    tagged(garbage.layout, b"shared")
    layer = garbage.layout.layer(b"shared", OTHER)
    assert garbage.planned() == {("layer", OTHER, layer)}


@pytest.mark.parametrize(
    ("repository", "tag"), [(RepositoryName(f"team/{TEMPORARY}"), LATEST), (APP, Tag(TEMPORARY))]
)
def test_name_of_a_temporary_file_hides_no_image(
    garbage: Garbage, repository: RepositoryName, tag: Tag
) -> None:
    layout = garbage.layout
    manifest = layout.revision(image(layout.layer(b"layer", repository)), repository)
    layout.tag(manifest, tag, repository)
    assert garbage.planned() == set()


def test_blob_that_a_manifest_names_without_a_link_stays(garbage: Garbage) -> None:
    """A repair can link it again."""
    garbage.layout.tag(garbage.layout.revision(image(garbage.layout.blob(b"config"))))
    assert garbage.planned() == set()


def test_parts_of_a_child_without_a_link_stay(garbage: Garbage) -> None:
    child = garbage.layout.blob(image(garbage.layout.blob(b"config")))
    garbage.layout.tag(garbage.layout.revision(index(child)))
    assert garbage.planned() == set()


def test_digests_in_an_unknown_document_stay(garbage: Garbage) -> None:
    layer = garbage.layout.layer(b"part")
    payload = as_bytes({"schemaVersion": 2, "mediaType": "x/y", "part": str(layer)})
    garbage.layout.tag(garbage.layout.revision(payload))
    assert garbage.planned() == set()


@pytest.mark.parametrize("key", ["digest", "blob", "in_place"])
def test_blob_that_an_upload_names_stays(garbage: Garbage, key: str) -> None:
    """[S19.24] A blob that the record of an open upload names stays."""
    blob = garbage.layout.blob(b"moved")
    record = json.dumps({key: str(blob)}).encode()
    garbage.layout.put(paths.upload_record(APP, "some-id"), record)
    assert garbage.planned() == set()


def test_tagged_digest_without_a_revision_stays(garbage: Garbage) -> None:
    """A damaged tag keeps the manifest, so that a repair can link it."""
    garbage.layout.tag(garbage.layout.blob(image(garbage.layout.layer(b"config"))))
    assert garbage.planned() == set()


def test_repository_with_a_missing_manifest_keeps_its_links(garbage: Garbage) -> None:
    """[S19.25] A repository keeps all its links if a link or a manifest of it cannot be read."""
    garbage.layout.layer(b"perhaps of the missing manifest")
    garbage.layout.link(paths.revisions(APP), Digest.of(b"missing"))
    with garbage.collection().planned() as plan:
        assert not list(plan.entries())
        assert "is missing" in plan.skipped[APP]


def test_repository_with_an_empty_link_keeps_its_links(garbage: Garbage) -> None:
    layer = garbage.layout.layer(b"old")
    garbage.layout.link(paths.layers(APP), garbage.layout.blob(b"linked by nothing"), b"")
    garbage.layout.layer(b"old", OTHER)
    with garbage.collection().planned() as plan:
        assert {(e.kind, e.repository) for e in plan.entries()} == {("layer", OTHER)}
        assert list(plan.skipped) == [APP]
    assert garbage.has_layer(layer)


def test_repository_of_an_old_registry_keeps_its_links(garbage: Garbage) -> None:
    """Registry 2.1.0 linked manifests as layers."""
    layout = garbage.layout
    layout.tag(layout.layer(image(layout.layer(b"config"))))
    layout.layer(b"old")
    with garbage.collection().planned() as plan:
        assert not list(plan.entries())
        assert "old registry" in plan.skipped[APP]


def test_unreadable_directory_keeps_all_blobs(garbage: Garbage) -> None:
    """[S19.26] No blob is deleted while a directory or an alias that may link one cannot be
    read.
    """
    garbage.layout.blob(b"of nobody")
    repositories = Path(garbage.url) / paths.REPOSITORIES[1:]
    (repositories / "elsewhere").symlink_to("/")
    with garbage.collection().planned() as plan:
        assert plan.blocked is not None
        assert "elsewhere" in plan.blocked
        assert not plan.due(time.time() + 1)


def test_manifest_that_access_is_denied_to_keeps_all_blobs(garbage: Garbage) -> None:
    """[S19.26] None is deleted while access to a manifest is denied."""
    manifest = garbage.layout.revision(image(garbage.layout.blob(b"config")))
    garbage.layout.tag(manifest)
    forbid(garbage, manifest)
    with garbage.collection().planned() as plan:
        assert plan.blocked is not None
        assert str(manifest) in plan.blocked
        assert not plan.due(time.time() + 1)


def test_unreadable_directory_beside_the_blobs_keeps_none(garbage: Garbage) -> None:
    """Such as lost+found of a file system of the blobs, which only root can read."""
    blob = garbage.layout.blob(b"of nobody")
    (Path(garbage.url) / paths.BLOBS[1:] / "lost+found").symlink_to("/")
    assert garbage.delete().blocked is None
    assert not garbage.has_blob(blob)


def test_damaged_alias_keeps_all_blobs(garbage: Garbage) -> None:
    garbage.layout.blob(b"content")
    garbage.layout.link(paths.layers(APP), Digest.of(b"content", "sha512"), b"")
    with garbage.collection().planned() as plan:
        assert plan.blocked is not None


def test_grace_spans_runs(garbage: Garbage) -> None:
    """[S19.27] `--grace` begins when a run finds that a blob has no link, also a dry run."""
    garbage.layout.blob(b"of nobody")
    dues = []
    for _ in range(2):
        with garbage.collection(later(grace_s=3600)).planned() as plan:
            [entry] = plan.entries()
            assert entry.due is not None
            assert plan.due(entry.due - 1) == {}
            assert plan.due(entry.due) == {entry.digest: 9}
            dues.append(entry.due)
    assert dues[0] == dues[1] <= time.time() + 3600


def test_grace_begins_anew_for_a_blob_that_was_linked_meanwhile(garbage: Garbage) -> None:
    blob = garbage.layout.blob(b"of nobody")
    options = later(grace_s=3600)
    with garbage.collection(options).planned() as plan:
        [first] = plan.entries()
    garbage.layout.link(paths.layers(APP), blob)
    garbage.planned(options)
    os.remove(Path(garbage.url) / paths.link(paths.layers(APP), blob)[1:])
    with garbage.collection(options).planned() as plan:
        [second] = plan.entries()
    assert first.due is not None
    assert second.due is not None
    assert second.due > first.due


def test_grace_begins_anew_with_a_removal_while_another_directory_is_unreadable(
    garbage: Garbage,
) -> None:
    blob = garbage.layout.blob(b"of nobody")
    with garbage.collection().planned() as plan:
        [entry] = plan.entries()
    garbage.layout.link(paths.layers(APP), blob)
    unreadable = Path(garbage.url) / paths.REPOSITORIES[1:] / "elsewhere"
    unreadable.symlink_to("/")
    assert garbage.delete(later(grace_s=3600)).links == {(APP, "layer"): 1}
    unreadable.unlink()
    with garbage.collection(later(grace_s=3600)).planned() as plan:
        assert plan.due(time.time()) == {}
        [again] = plan.entries()
    assert entry.due is not None
    assert again.due is not None
    assert again.due > entry.due + 3600


def test_repository_whose_name_is_invalid_keeps_its_links(garbage: Garbage) -> None:
    layer = garbage.layout.blob(b"old")
    garbage.layout.link(f"{paths.REPOSITORIES}/Team/_layers", layer)
    with garbage.collection().planned() as plan:
        assert not list(plan.entries())
        assert list(plan.skipped) == ["Team"]
