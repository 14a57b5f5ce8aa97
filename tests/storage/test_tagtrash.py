"""Removed tags in the trash of a repository."""

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.errors import Exists, ManifestUnknown, TagUnknown
from blobfs.reference import Tag
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from tests.support.layout import APP, LATEST, Layout, image


@pytest.fixture
def repository(layout: Layout) -> Repository:
    return Registry(layout.driver).repository(APP)


@pytest.fixture
def revisions(layout: Layout) -> list[Digest]:
    """Two revisions; the tag has the second one, and had the first."""
    found = [layout.revision(image(layout.layer(text))) for text in (b"1", b"2")]
    for revision in found:
        layout.tag(revision)
    return found


def history(repository: Repository) -> set[Digest]:
    return set(repository.tags.history(LATEST).enumerate("sha256"))


def test_tag_comes_back_with_its_history(repository: Repository, revisions: list[Digest]) -> None:
    """[S19.44] `blobfs undelete` brings a tag back, with its history."""
    repository.trash.put(LATEST, revisions[1])
    assert not repository.tags.exists(LATEST)
    repository.trash.restore(LATEST)
    assert repository.tags.get(LATEST) == revisions[1]
    assert history(repository) == set(revisions)
    assert list(repository.trash.enumerate()) == []


def test_tag_that_has_changed_is_not_removed(
    repository: Repository, revisions: list[Digest]
) -> None:
    with pytest.raises(Exists, match="changed"):
        repository.trash.put(LATEST, revisions[0])
    assert repository.tags.get(LATEST) == revisions[1]
    assert list(repository.trash.enumerate()) == []


def test_tag_whose_manifest_is_gone_cannot_come_back(
    repository: Repository, revisions: list[Digest]
) -> None:
    trashed = repository.trash.put(LATEST, revisions[1])
    assert repository.trash.can_restore(trashed)
    repository.manifests.links.delete(revisions[1])
    assert not repository.trash.can_restore(trashed)
    with pytest.raises(ManifestUnknown):
        repository.trash.restore(LATEST)


def test_tag_that_exists_again_is_replaced_only_on_request(
    repository: Repository, revisions: list[Digest]
) -> None:
    repository.trash.put(LATEST, revisions[1])
    repository.tags.tag(LATEST, revisions[0])
    with pytest.raises(Exists):
        repository.trash.restore(LATEST)
    repository.trash.restore(LATEST, replace=True)
    assert repository.tags.get(LATEST) == revisions[1]


def test_last_removal_comes_back_first(repository: Repository, revisions: list[Digest]) -> None:
    repository.trash.put(LATEST, revisions[1])
    repository.tags.tag(LATEST, revisions[0])
    repository.trash.put(LATEST, revisions[0])
    assert repository.trash.restore(LATEST).digest == revisions[0]


def test_tag_that_is_not_in_the_trash_is_unknown(repository: Repository) -> None:
    with pytest.raises(TagUnknown):
        repository.trash.restore(Tag("none"))


def test_unknown_tag_leaves_nothing_in_the_trash(
    repository: Repository, revisions: list[Digest]
) -> None:
    with pytest.raises(TagUnknown):
        repository.trash.put(Tag("none"), revisions[0])


@pytest.mark.parametrize("content", [b"", b"{}", b'{"tag": "../x"}', b"[" * 100_000])
def test_damaged_file_is_left_out(layout: Layout, repository: Repository, content: bytes) -> None:
    layout.put(f"{paths.trash(APP)}/1-x", content)
    assert list(repository.trash.enumerate()) == []


def test_repository_with_nothing_but_trash_can_be_removed(layout: Layout) -> None:
    registry = Registry(layout.driver)
    layout.put(f"{paths.trash(APP)}/1-x", b"{}")
    registry.remove_empty(APP)
    assert list(registry.enumerate()) == []
