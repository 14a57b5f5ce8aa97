"""Disk usage: bytes of a repository, a prefix and a tag, each blob once."""

from pathlib import Path

from blobfs import paths
from blobfs.digest import Digest
from blobfs.inventory.inventory import Inventory
from blobfs.maintenance import usage
from blobfs.maintenance.usage import StorageUsage, Usage
from blobfs.reference import RepositoryName, Tag
from tests.support.layout import Layout, image, index

A, B, BELOW = (RepositoryName(name) for name in ("team/a", "team/b", "team/a/below"))


def of_storage(directory: Path) -> StorageUsage:
    with Inventory.taken(str(directory)) as inventory:
        return usage.of_storage(inventory)


def of_tags(directory: Path, repository: str) -> dict[str, tuple[int, int]]:
    with Inventory.taken(str(directory)) as inventory:
        return {tag.name: (tag.size, tag.freed) for tag in usage.of_tags(inventory, repository)}


def sizes(found: Usage) -> tuple[int, int, int]:
    return found.size, found.freed, found.shared


def test_blob_of_two_repositories_is_shared_by_both(layout: Layout, tmp_path: Path) -> None:
    """[S19.40] `bytes` is what the line's repositories link, `freed` what nothing else links."""
    shared = layout.layer(b"x" * 100, A)
    layout.link(paths.layers(B), shared)
    layout.layer(b"own", A)
    found = of_storage(tmp_path)
    assert sizes(found.repositories[A]) == (103, 3, 100)
    assert sizes(found.repositories[B]) == (100, 0, 100)
    assert found.size == 103


def test_prefix_frees_what_only_repositories_below_it_share(layout: Layout, tmp_path: Path) -> None:
    """[S19.41] A prefix is counted together with everything below it."""
    shared = layout.layer(b"x" * 100, A)
    layout.link(paths.layers(BELOW), shared)
    layout.layer(b"own", B)
    found = of_storage(tmp_path)
    assert sizes(found.repositories[A]) == (100, 0, 100)
    assert sizes(found.prefixes["team/a"]) == (100, 100, 0)
    assert sizes(found.prefixes["team"]) == (103, 103, 0)


def test_blob_that_is_layer_and_revision_counts_once(layout: Layout, tmp_path: Path) -> None:
    payload = image(layout.layer(b"config", A))
    layout.link(paths.layers(A), layout.revision(payload, A))
    assert of_storage(tmp_path).repositories[A].size == len(payload) + 6


def test_alias_counts_as_the_blob_that_it_names(layout: Layout, tmp_path: Path) -> None:
    blob = layout.layer(b"content", A)
    layout.link(paths.layers(A), Digest.of(b"content", "sha512"), str(blob).encode())
    assert sizes(of_storage(tmp_path).repositories[A]) == (7, 7, 0)


def test_missing_blob_counts_with_no_bytes(layout: Layout, tmp_path: Path) -> None:
    layout.link(paths.layers(A), Digest.of(b"gone"))
    found = of_storage(tmp_path).repositories[A]
    assert (found.layers, found.size) == (1, 0)


def test_what_no_repository_has_is_told_apart(layout: Layout, tmp_path: Path) -> None:
    layout.blob(b"unlinked")
    layout.put(paths.upload_data(A, "id"), b"half")
    found = of_storage(tmp_path)
    assert (found.size, found.unlinked, found.uploads) == (8, 8, 4)


def test_empty_storage_uses_nothing(tmp_path: Path) -> None:
    found = of_storage(tmp_path)
    assert (found.repositories, found.size) == ({}, 0)


def test_tag_frees_what_no_other_tag_leads_to(layout: Layout, tmp_path: Path) -> None:
    """[S19.42] A tag's `freed` is what no other tag of its repository leads to."""
    base, one, two = (layout.layer(text, A) for text in (b"base" * 10, b"one", b"twotwo"))
    first, second = image(base, one), image(base, two)
    layout.tag(layout.revision(first, A), Tag("v1"), A)
    layout.tag(layout.revision(second, A), Tag("v2"), A)
    assert of_tags(tmp_path, A) == {
        "v1": (43 + len(first), 3 + len(first)),
        "v2": (46 + len(second), 6 + len(second)),
    }


def test_tag_of_an_index_has_the_images_of_all_platforms(layout: Layout, tmp_path: Path) -> None:
    children = [image(layout.layer(text, A)) for text in (b"arm", b"amd64")]
    digests = [layout.revision(child, A) for child in children]
    top = index(*digests)
    layout.tag(layout.revision(top, A), Tag("v1"), A)
    size = 8 + sum(map(len, children)) + len(top)
    assert of_tags(tmp_path, A) == {"v1": (size, size)}


def test_tag_does_not_free_what_another_repository_links(layout: Layout, tmp_path: Path) -> None:
    layer = layout.layer(b"layer", A)
    payload = image(layer)
    layout.tag(layout.revision(payload, A), Tag("v1"), A)
    layout.link(paths.layers(B), layer)
    assert of_tags(tmp_path, A) == {"v1": (5 + len(payload), len(payload))}


def test_removal_of_a_repository_frees_what_was_said(layout: Layout, tmp_path: Path) -> None:
    shared = layout.layer(b"x" * 100, A)
    layout.link(paths.layers(B), shared)
    layout.tag(layout.revision(image(layout.layer(b"own", A)), A), Tag("v1"), A)
    before = of_storage(tmp_path)
    layout.driver.delete(paths.repository(A))
    assert of_storage(tmp_path).unlinked == before.repositories[A].freed
