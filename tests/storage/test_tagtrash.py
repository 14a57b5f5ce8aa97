"""Removed tags in the trash of a repository."""

from collections.abc import Callable

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import (
    BlobfsError,
    Exists,
    LinkInvalid,
    ManifestUnknown,
    StorageUnavailable,
    TagUnknown,
    TooLarge,
)
from blobfs.reference import Tag
from blobfs.storage import tagtrash
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from tests.support.failing_driver import Call, TroubledDriver
from tests.support.layout import APP, LATEST, Layout, image

CURRENT = paths.tag_current_link(APP, LATEST)


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
    assert list(repository.trash.enumerate()) == []


def test_damaged_tag_leaves_nothing_in_the_trash(
    layout: Layout, repository: Repository, revisions: list[Digest]
) -> None:
    layout.put(CURRENT, b"damaged")
    with pytest.raises(LinkInvalid):
        repository.trash.put(LATEST, revisions[1])
    assert list(repository.trash.enumerate()) == []


def test_tag_that_is_removed_or_damaged_meanwhile_leaves_nothing_in_the_trash(
    driver: StorageDriver, layout: Layout, troubled: TroubledDriver, revisions: list[Digest]
) -> None:
    changes: dict[type[BlobfsError], Callable[[], object]] = {
        LinkInvalid: lambda: layout.put(CURRENT, b"damaged"),
        TagUnknown: lambda: driver.delete(CURRENT),
    }
    repository = Registry(troubled).repository(APP)
    for error, change in changes.items():

        def change_at_the_write(call: Call, change: Callable[[], object] = change) -> None:
            if call.method == "put_content":
                change()

        layout.tag(revisions[1])
        troubled.on_call = change_at_the_write
        with pytest.raises(error):
            repository.trash.put(LATEST, revisions[1])
        assert list(repository.trash.enumerate()) == []


def test_failure_before_the_removal_leaves_nothing_in_the_trash(
    troubled: TroubledDriver, repository: Repository, revisions: list[Digest]
) -> None:
    troubled.fail_method, troubled.done = "put_content", True
    with pytest.raises(StorageUnavailable):
        Registry(troubled).repository(APP).trash.put(LATEST, revisions[1])
    assert list(repository.trash.enumerate()) == []
    assert repository.tags.get(LATEST) == revisions[1]


def test_failure_of_the_removal_keeps_the_tag_in_the_trash(
    troubled: TroubledDriver, repository: Repository, revisions: list[Digest]
) -> None:
    troubled.fail_method, troubled.done = "delete", True
    with pytest.raises(StorageUnavailable):
        Registry(troubled).repository(APP).trash.put(LATEST, revisions[1])
    assert repository.trash.restore(LATEST).digest == revisions[1]
    assert history(repository) == set(revisions)


def test_tag_whose_history_is_too_long_for_the_trash_is_not_removed(
    repository: Repository, revisions: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tagtrash, "_LARGEST", 100)
    with pytest.raises(TooLarge, match="2 revisions"):
        repository.trash.put(LATEST, revisions[1])
    assert repository.tags.get(LATEST) == revisions[1]
    assert history(repository) == set(revisions)
    assert list(repository.trash.enumerate()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b'{"tag": "../x"}', b"[" * 100_000])
def test_damaged_file_is_left_out(layout: Layout, repository: Repository, content: bytes) -> None:
    layout.put(f"{paths.trash(APP)}/1-x", content)
    assert list(repository.trash.enumerate()) == []


def test_directory_in_the_trash_is_left_out(
    layout: Layout, repository: Repository, revisions: list[Digest]
) -> None:
    layout.put(f"{paths.trash(APP)}/1-x/below")
    trashed = repository.trash.put(LATEST, revisions[1])
    assert list(repository.trash.enumerate()) == [trashed]


def test_repository_with_nothing_but_trash_can_be_removed(layout: Layout) -> None:
    registry = Registry(layout.driver)
    layout.put(f"{paths.trash(APP)}/1-x", b"{}")
    registry.remove_empty(APP)
    assert list(registry.enumerate()) == []
