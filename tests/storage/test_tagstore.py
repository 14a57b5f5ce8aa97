"""What a tag stands for, has stood for, and which tags there are."""

from collections.abc import Callable

import pytest

from blobfs import paths
from blobfs.digest import ALGORITHMS, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import LinkInvalid, TagUnknown
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.tagstore import TagStore
from tests.support.layout import APP, LATEST, Layout

OLD, NEW = Digest.of(b"old"), Digest.of(b"new")
CURRENT = paths.tag_current_link(APP, LATEST)


@pytest.fixture
def tags(driver: StorageDriver) -> TagStore:
    return TagStore(driver, BlobStore(driver), APP)


def test_tag_stands_for_a_digest_which_need_not_exist(layout: Layout, tags: TagStore) -> None:
    layout.tag(NEW)
    assert tags.get(LATEST) == NEW


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tag_may_stand_for_a_digest_of_any_algorithm(
    layout: Layout, tags: TagStore, algorithm: str
) -> None:
    digest = Digest.of(b"new", algorithm)
    layout.tag(digest)
    assert tags.get(LATEST) == digest


def test_retagged_tag_stands_for_the_latest(layout: Layout, tags: TagStore) -> None:
    layout.tag(OLD)
    layout.tag(NEW)
    assert tags.get(LATEST) == NEW
    layout.tag(OLD)
    assert tags.get(LATEST) == OLD


def test_unknown_tag_is_named(layout: Layout, tags: TagStore) -> None:
    layout.tag(NEW, Tag("other"))
    layout.tag(NEW, LATEST, RepositoryName("other"))
    acts: tuple[Callable[[Tag], object], ...] = (tags.get, tags.mtime_ns)
    for act in acts:
        with pytest.raises(TagUnknown, match=LATEST):
            act(LATEST)


def test_tag_without_a_current_link_is_unknown(layout: Layout, tags: TagStore) -> None:
    layout.link(paths.tag_index(APP, LATEST), OLD)
    acts: tuple[Callable[[Tag], object], ...] = (tags.get, tags.mtime_ns)
    for act in acts:
        with pytest.raises(TagUnknown):
            act(LATEST)


@pytest.mark.parametrize(
    "content",
    [b"", str(NEW).encode() + b"\n", str(NEW).encode()[:-1], b"\xff", b"a" * 2**20],
    ids=["empty", "newline-terminated", "truncated", "not ASCII", "huge"],
)
def test_malformed_current_link_is_invalid_and_named(
    layout: Layout, tags: TagStore, content: bytes
) -> None:
    layout.put(CURRENT, content)
    with pytest.raises(LinkInvalid, match=CURRENT):
        tags.get(LATEST)
    assert list(tags.enumerate()) == [LATEST]


def test_directory_in_place_of_a_current_link_is_invalid(layout: Layout, tags: TagStore) -> None:
    layout.put(f"{CURRENT}/below")
    with pytest.raises(LinkInvalid, match=CURRENT):
        tags.get(LATEST)
    assert list(tags.enumerate()) == [LATEST]


def test_stat_is_of_the_current_link(layout: Layout, tags: TagStore) -> None:
    layout.tag(NEW)
    assert tags.mtime_ns(LATEST) == layout.driver.stat(CURRENT).mtime_ns


def test_enumerate_finds_every_tag(layout: Layout, tags: TagStore) -> None:
    stored = {Tag(name) for name in ("latest", "v1", "V1", "_under", "a.b-c", "0", "x" * 128)}
    for tag in stored:
        layout.tag(NEW, tag)
    found = list(tags.enumerate())
    assert set(found) == stored
    assert len(found) == len(stored)


def test_nothing_is_tagged_in_an_empty_repository(tags: TagStore) -> None:
    assert list(tags.enumerate()) == []


@pytest.mark.parametrize(
    "stray",
    [
        "README",
        "other/README",
        "other/current",
        "other/current/other",
        f"other/index/sha256/{OLD.encoded}/link",
        ".hidden/current/link",
        "-dash/current/link",
        "x" * 129 + "/current/link",
    ],
    ids=lambda stray: stray[:24],
)
def test_enumerate_passes_over_what_is_no_tag(layout: Layout, tags: TagStore, stray: str) -> None:
    layout.tag(NEW)
    layout.put(f"{paths.tags(APP)}/{stray}", str(NEW).encode())
    assert list(tags.enumerate()) == [LATEST]


def test_enumerate_passes_over_an_untagged_tag(layout: Layout, tags: TagStore) -> None:
    layout.tag(NEW)
    layout.tag(OLD, Tag("gone"))
    layout.driver.delete(paths.tag_current_link(APP, Tag("gone")))
    assert list(tags.enumerate()) == [LATEST]


def test_candidates_may_have_been_untagged(layout: Layout, tags: TagStore) -> None:
    layout.tag(NEW)
    layout.driver.delete(CURRENT)
    assert list(tags.list_unchecked()) == [LATEST]


def test_history_has_every_digest_the_tag_has_stood_for(layout: Layout, tags: TagStore) -> None:
    layout.tag(OLD)
    layout.tag(NEW)
    layout.tag(OLD, Tag("other"))
    assert set(tags.history(LATEST).enumerate("sha256")) == {OLD, NEW}
    assert set(tags.history(Tag("other")).enumerate("sha256")) == {OLD}


def test_unknown_tag_has_no_history(tags: TagStore) -> None:
    assert list(tags.history(LATEST).enumerate("sha256")) == []
