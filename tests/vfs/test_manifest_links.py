"""Tags and their history as symlinks to revisions."""

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import NotFound
from blobfs.reference import RepositoryName, Tag
from blobfs.vfs.nodes import Directory, Kind
from tests.support.layout import APP, LATEST, Layout, image
from tests.support.walking import follow, names, symlink

OLD, NEW = image(Digest.of(b"old")), image(Digest.of(b"new"))
TAG = "/team/app/_manifests/tags/latest"
HISTORY = "/team/app/_manifests/history/latest"


def test_tag_leads_to_its_revision(layout: Layout, root: Directory) -> None:
    digest = layout.revision(NEW)
    layout.tag(digest)
    assert symlink(root, TAG).target() == f"../revisions/sha256/{digest.encoded}"
    assert follow(root, TAG).key == str(digest)


def test_tag_of_a_nested_repository_leads_to_its_own_revision(
    layout: Layout, root: Directory
) -> None:
    name = RepositoryName("team/app/debug/deeper")
    digest = layout.revision(NEW, name)
    layout.tag(digest, LATEST, name)
    assert follow(root, f"/{name}/_manifests/tags/latest").key == str(digest)


def test_tag_may_lead_to_a_revision_of_another_algorithm(layout: Layout, root: Directory) -> None:
    digest = layout.link(paths.revisions(APP), layout.blob(NEW, "sha512"))
    layout.tag(digest)
    assert follow(root, TAG).key == str(digest)
    assert follow(root, f"{HISTORY}/sha512/{digest.encoded}").key == str(digest)


def test_moved_tag_leads_to_the_newer_revision(layout: Layout, root: Directory) -> None:
    layout.tag(layout.revision(OLD))
    before = symlink(root, TAG)
    digest = layout.revision(NEW)
    layout.tag(digest)
    assert follow(root, TAG).key == str(digest)
    assert symlink(root, TAG).key == before.key


def test_tag_of_a_deleted_revision_is_there_and_leads_nowhere(
    layout: Layout, root: Directory
) -> None:
    digest = layout.revision(NEW)
    layout.tag(digest)
    layout.driver.delete(paths.link(paths.revisions(APP), digest))
    assert names(root, "/team/app/_manifests/tags") == ["latest"]
    with pytest.raises(NotFound):
        follow(root, TAG)


def test_history_has_every_revision_that_the_tag_has_stood_for(
    layout: Layout, root: Directory
) -> None:
    digests = [layout.revision(payload) for payload in (OLD, NEW)]
    for digest in digests:
        layout.tag(digest)
    layout.tag(digests[0], Tag("other"))
    assert names(root, HISTORY) == ["sha256"]
    assert names(root, f"{HISTORY}/sha256") == sorted(digest.encoded for digest in digests)
    assert names(root, "/team/app/_manifests/history/other/sha256") == [digests[0].encoded]


def test_history_leads_to_revisions(layout: Layout, root: Directory) -> None:
    digest = layout.revision(OLD)
    layout.tag(digest)
    path = f"{HISTORY}/sha256/{digest.encoded}"
    assert symlink(root, path).target() == f"../../../revisions/sha256/{digest.encoded}"
    assert follow(root, path).key == str(digest)


def test_history_of_an_unknown_tag_is_not_found(layout: Layout, root: Directory) -> None:
    layout.tag(layout.revision(NEW), Tag("other"))
    layout.link(paths.tag_index(APP, LATEST), Digest.of(OLD))
    with pytest.raises(NotFound):
        symlink(root, HISTORY)


def test_history_has_what_is_in_the_index_only(layout: Layout, root: Directory) -> None:
    layout.tag(layout.revision(NEW))
    other = layout.revision(OLD)
    with pytest.raises(NotFound):
        symlink(root, f"{HISTORY}/sha256/{other.encoded}")


def test_symlink_s_size_is_the_length_of_its_target(layout: Layout, root: Directory) -> None:
    digest = layout.revision(NEW)
    layout.tag(digest)
    for path in (TAG, f"{HISTORY}/sha256/{digest.encoded}"):
        attr = symlink(root, path).attr()
        assert (attr.kind, attr.size) == (Kind.SYMLINK, len(symlink(root, path).target()))


def test_symlink_has_no_attributes_as_linux_allows_it_none(layout: Layout, root: Directory) -> None:
    layout.tag(layout.revision(NEW))
    assert symlink(root, TAG).xattrs() == {}


def test_time_of_a_tag_is_when_it_was_moved(
    layout: Layout, root: Directory, driver: StorageDriver
) -> None:
    layout.tag(layout.revision(NEW))
    link = paths.tag_current_link(APP, LATEST)
    assert symlink(root, TAG).attr().mtime_ns == driver.stat(link).mtime_ns
