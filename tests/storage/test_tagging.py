"""What is tagged, untagged and renamed, and that no failure on the way shows."""

from contextlib import suppress
from itertools import count

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import BlobfsError, LinkInvalid, StorageUnavailable, TagUnknown
from blobfs.reference import Tag
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.tagstore import TagStore
from tests.support.failing_driver import Crash, TroubledDriver
from tests.support.files import content_of
from tests.support.layout import APP, LATEST, Layout
from tests.support.uploads import files_below

OLD, NEW, OTHER = Digest.of(b"old"), Digest.of(b"new"), Digest.of(b"other")
STABLE = Tag("stable")
TAGS = paths.tags(APP)


@pytest.fixture
def tags(driver: StorageDriver) -> TagStore:
    return _tags(driver)


def _tags(driver: StorageDriver) -> TagStore:
    return TagStore(driver, BlobStore(driver), APP)


def _history(tags: TagStore, tag: Tag) -> set[Digest]:
    history = tags.history(tag)
    return {digest for name in history.algorithms() for digest in history.enumerate(name)}


def _tag_or_none(tags: TagStore, tag: Tag) -> Digest | None:
    try:
        return tags.get(tag)
    except TagUnknown:
        return None


def _empty(driver: StorageDriver) -> None:
    with suppress(BlobfsError):
        driver.delete("/docker")


def test_tag_is_laid_out_as_a_registry_does(driver: StorageDriver, tags: TagStore) -> None:
    tags.tag(LATEST, NEW)
    files = {path: content_of(driver, f"{TAGS}/{path}") for path in files_below(driver, TAGS)}
    assert files == {
        "latest/current/link": str(NEW).encode(),
        f"latest/index/sha256/{NEW.encoded}/link": str(NEW).encode(),
    }


def test_tag_may_stand_for_a_sha512_digest(tags: TagStore) -> None:
    digest = Digest.of(b"new", "sha512")
    tags.tag(LATEST, digest)
    assert tags.get(LATEST) == digest
    assert _history(tags, LATEST) == {digest}


def test_retagging_keeps_the_history(tags: TagStore) -> None:
    tags.tag(LATEST, OLD)
    tags.tag(LATEST, NEW)
    assert tags.get(LATEST) == NEW
    assert _history(tags, LATEST) == {OLD, NEW}


def test_tag_can_go_back(tags: TagStore) -> None:
    for digest in (OLD, NEW, OLD):
        tags.tag(LATEST, digest)
    assert tags.get(LATEST) == OLD
    assert _history(tags, LATEST) == {OLD, NEW}


def test_damaged_tag_can_be_set_anew(layout: Layout, tags: TagStore) -> None:
    layout.put(paths.tag_current_link(APP, LATEST), b"")
    with pytest.raises(LinkInvalid):
        tags.get(LATEST)
    tags.tag(LATEST, NEW)
    assert tags.get(LATEST) == NEW


def test_index_is_written_before_the_current_link(driver: StorageDriver) -> None:
    troubled = TroubledDriver(driver)
    _tags(troubled).tag(LATEST, NEW)
    put = [call.path.removeprefix(TAGS) for call in troubled.calls if call.method == "put_content"]
    assert put == [f"/latest/index/sha256/{NEW.encoded}/link", "/latest/current/link"]


@pytest.mark.parametrize("crash", [False, True], ids=["failure", "crash"])
@pytest.mark.parametrize("done", [False, True], ids=["undone", "done"])
def test_interrupted_retagging_shows_the_old_or_the_new(
    driver: StorageDriver, crash: bool, done: bool
) -> None:
    for number in count(1):
        _empty(driver)
        tags = _tags(driver)
        tags.tag(LATEST, OLD)
        troubled = TroubledDriver(driver, fail_at=number, done=done, crash=crash)
        with suppress(StorageUnavailable, Crash):
            _tags(troubled).tag(LATEST, NEW)
        assert tags.get(LATEST) in (OLD, NEW)
        assert tags.get(LATEST) in _history(tags, LATEST)
        tags.tag(LATEST, NEW)
        assert _history(tags, LATEST) == {OLD, NEW}
        if not troubled.failed:
            break


def test_untagged_tag_is_unknown(tags: TagStore) -> None:
    tags.tag(LATEST, NEW)
    tags.untag(LATEST)
    with pytest.raises(TagUnknown):
        tags.get(LATEST)
    assert list(tags.enumerate()) == []


def test_untagging_removes_the_history(driver: StorageDriver, tags: TagStore) -> None:
    tags.tag(LATEST, OLD)
    tags.tag(LATEST, NEW)
    tags.untag(LATEST)
    assert files_below(driver, TAGS) == set()


def test_untagging_leaves_the_other_tags(tags: TagStore) -> None:
    tags.tag(LATEST, NEW)
    tags.tag(Tag("latest-1"), NEW)
    tags.untag(LATEST)
    assert list(tags.enumerate()) == ["latest-1"]


def test_damaged_tag_can_be_removed(layout: Layout, tags: TagStore) -> None:
    layout.put(paths.tag_current_link(APP, LATEST), b"")
    tags.untag(LATEST)
    assert list(tags.enumerate()) == []


def test_unknown_tag_is_not_removed(tags: TagStore) -> None:
    tags.tag(STABLE, NEW)
    with pytest.raises(TagUnknown, match=LATEST):
        tags.untag(LATEST)


def test_renamed_tag_stands_for_the_same(tags: TagStore) -> None:
    tags.tag(LATEST, NEW)
    tags.rename(LATEST, STABLE)
    assert tags.get(STABLE) == NEW
    assert list(tags.enumerate()) == [STABLE]


def test_renamed_tag_takes_its_history_along(tags: TagStore) -> None:
    for digest in (OLD, Digest.of(b"old", "sha512"), NEW):
        tags.tag(LATEST, digest)
    tags.rename(LATEST, STABLE)
    assert _history(tags, STABLE) == {OLD, Digest.of(b"old", "sha512"), NEW}
    assert _history(tags, LATEST) == set()


def test_tag_that_is_renamed_over_keeps_its_history(tags: TagStore) -> None:
    tags.tag(STABLE, OTHER)
    tags.tag(LATEST, NEW)
    tags.rename(LATEST, STABLE)
    assert tags.get(STABLE) == NEW
    assert _history(tags, STABLE) == {OTHER, NEW}


def test_rename_to_the_same_name_changes_nothing(tags: TagStore) -> None:
    tags.tag(LATEST, OLD)
    tags.tag(LATEST, NEW)
    tags.rename(LATEST, LATEST)
    assert tags.get(LATEST) == NEW
    assert _history(tags, LATEST) == {OLD, NEW}


def test_unknown_tag_is_not_renamed(driver: StorageDriver, tags: TagStore) -> None:
    for new in (STABLE, LATEST):
        with pytest.raises(TagUnknown, match=LATEST):
            tags.rename(LATEST, new)
    assert files_below(driver, TAGS) == set()


@pytest.mark.parametrize("crash", [False, True], ids=["failure", "crash"])
@pytest.mark.parametrize("done", [False, True], ids=["undone", "done"])
def test_interrupted_rename_loses_no_history(
    driver: StorageDriver, crash: bool, done: bool
) -> None:
    for number in count(1):
        _empty(driver)
        tags = _tags(driver)
        tags.tag(LATEST, OLD)
        tags.tag(LATEST, NEW)
        troubled = TroubledDriver(driver, fail_at=number, done=done, crash=crash)
        with suppress(StorageUnavailable, Crash):
            _tags(troubled).rename(LATEST, STABLE)
        standing = [tag for tag in (LATEST, STABLE) if _tag_or_none(tags, tag) == NEW]
        assert any(_history(tags, tag) == {OLD, NEW} for tag in standing)
        if not troubled.failed:
            break
