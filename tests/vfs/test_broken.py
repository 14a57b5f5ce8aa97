"""What is broken says so when it is looked up, is listed all the same, and hides nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import (
    AccessDenied,
    BlobDamaged,
    BlobfsError,
    Exists,
    LinkDangling,
    LinkInvalid,
    StorageUnavailable,
)
from blobfs.reference import Tag
from blobfs.vfs.nodes import BrokenNode, Directory, Kind, Lifetime, MutableDirectory
from tests.support.layout import APP, LATEST, Layout, image
from tests.support.walking import children, directory, find, symlink, tree_of, walk
from tests.support.watched_driver import WatchedDriver

LAYERS, REVISIONS, INDEX = paths.layers(APP), paths.revisions(APP), paths.tag_index(APP, LATEST)
CURRENT = paths.tag_current_link(APP, LATEST)
GOOD, BROKEN = Digest.of(image(Digest.of(b"good"))), Digest.of(image(Digest.of(b"broken")))
TEXT = str(BROKEN).encode()

SHOWN_AT = {
    LAYERS: "/team/app/_layers/sha256",
    REVISIONS: "/team/app/_manifests/revisions/sha256",
    INDEX: "/team/app/_manifests/history/latest/sha256",
}


class Storage:
    """A local registry whose files can be refused, or not be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unreadable: set[str] = set()
        self.driver = WatchedDriver(BaseDriver(FilesystemDriver.below(path)), self._open)
        self.layout = Layout(self.driver)

    def make_directory(self, path: str) -> None:
        """Put a directory in a file's place."""
        self.driver.delete(path)
        self.layout.put(f"{path}/below")

    def refuse(self, path: str) -> None:
        """Put a symlink in a file's place that leads out of the storage."""
        file = self.path / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.symlink_to("/etc/hostname")

    def fail(self, path: str) -> None:
        """Let the file be unreadable."""
        self._unreadable.add(path)

    def mend(self, path: str) -> None:
        """Let the file be readable again."""
        self._unreadable.discard(path)

    def _open(self, path: str) -> None:
        if path in self._unreadable:
            raise StorageUnavailable(f"{path}: Input/output error")


Break = Callable[[Storage, str], None]
"""Breaks the file at a path, which is a link to ``BROKEN``."""

LINKS: dict[str, tuple[Break, type[BlobfsError]]] = {
    "empty": (lambda storage, link: storage.layout.put(link), LinkInvalid),
    "newline": (lambda storage, link: storage.layout.put(link, TEXT + b"\n"), LinkInvalid),
    "truncated": (lambda storage, link: storage.layout.put(link, TEXT[:-1]), LinkInvalid),
    "not ASCII": (lambda storage, link: storage.layout.put(link, b"\xff" * 71), LinkInvalid),
    "huge": (lambda storage, link: storage.layout.put(link, b"a" * 2**20), LinkInvalid),
    "directory": (lambda storage, link: storage.make_directory(link), LinkInvalid),
    "refused": (lambda storage, link: storage.refuse(link), AccessDenied),
    "unreadable": (lambda storage, link: storage.fail(link), StorageUnavailable),
}
DIGEST_LINKS: dict[str, tuple[Break, type[BlobfsError]]] = {
    **LINKS,
    "another": (
        lambda storage, link: storage.layout.put(link, str(GOOD).encode()),
        LinkInvalid,
    ),
}
BLOBS: dict[str, tuple[Break, type[BlobfsError]]] = {
    "missing blob": (
        lambda storage, _: storage.driver.delete(paths.blob_data(BROKEN)),
        LinkDangling,
    ),
    "emptied blob": (
        lambda storage, _: storage.layout.put(paths.blob_data(BROKEN)),
        BlobDamaged,
    ),
    "refused blob": (lambda storage, _: storage.refuse(paths.blob_data(BROKEN)), AccessDenied),
}
REMOVABLE = [
    pytest.param(link_set, how, error, id=f"{link_set.rpartition('/')[2]}-{name}")
    for link_set in (LAYERS, REVISIONS)
    for name, (how, error) in (DIGEST_LINKS | BLOBS).items()
]
CASES = [
    *REMOVABLE,
    *(
        pytest.param(INDEX, how, error, id=f"index-{name}")
        for name, (how, error) in DIGEST_LINKS.items()
    ),
]


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    """Two good images, each as layer, revision and in a tag's history."""
    storage = Storage(tmp_path)
    for name in (b"good", b"broken"):
        payload = image(Digest.of(name))
        storage.layout.layer(payload)
        storage.layout.tag(storage.layout.revision(payload))
    storage.layout.tag(GOOD, Tag("other"))
    yield storage
    storage.driver.close()


def root_of(driver: StorageDriver) -> Directory:
    return tree_of(driver, expose_blobs=True).root()


@pytest.mark.parametrize(("link_set", "break_it", "error"), CASES)
def test_broken_digest_says_so_when_it_is_looked_up(
    storage: Storage, link_set: str, break_it: Break, error: type[BlobfsError]
) -> None:
    break_it(storage, paths.link(link_set, BROKEN))
    with pytest.raises(error, match=BROKEN.encoded):
        find(root_of(storage.driver), f"{SHOWN_AT[link_set]}/{BROKEN.encoded}")


@pytest.mark.parametrize(("link_set", "break_it", "error"), CASES)
def test_broken_digest_is_listed_and_hides_nothing(
    storage: Storage, link_set: str, break_it: Break, error: type[BlobfsError]
) -> None:
    before = [path for path, _ in walk(root_of(storage.driver), "/team")]
    break_it(storage, paths.link(link_set, BROKEN))
    root = root_of(storage.driver)
    assert [path for path, _ in walk(root, "/team")] == before
    listed = children(root, SHOWN_AT[link_set])
    assert isinstance(listed[BROKEN.encoded].node, BrokenNode)
    assert not isinstance(listed[GOOD.encoded].node, BrokenNode)


@pytest.mark.parametrize(("break_it", "error"), LINKS.values(), ids=LINKS)
def test_broken_tag_says_so_when_it_is_read(
    storage: Storage, break_it: Break, error: type[BlobfsError]
) -> None:
    break_it(storage, CURRENT)
    tag = symlink(root_of(storage.driver), "/team/app/_manifests/tags/latest")
    with pytest.raises(error, match=CURRENT):
        tag.target()


@pytest.mark.parametrize(("break_it", "error"), LINKS.values(), ids=LINKS)
def test_broken_tag_is_listed_and_hides_nothing(
    storage: Storage, break_it: Break, error: type[BlobfsError]
) -> None:
    break_it(storage, CURRENT)
    listed = children(root_of(storage.driver), "/team/app/_manifests/tags")
    assert sorted(listed) == ["latest", "other"]
    assert {child.attr.kind for child in listed.values()} == {Kind.SYMLINK}


def test_broken_tag_is_a_symlink_that_the_kernel_does_not_keep(storage: Storage) -> None:
    storage.layout.put(CURRENT)
    listed = children(root_of(storage.driver), "/team/app/_manifests/tags")
    attr = listed["latest"].attr
    assert (attr.kind, attr.size, attr.lifetime) == (Kind.SYMLINK, 0, Lifetime.MOMENT)


@pytest.mark.parametrize("break_it", [how for how, _ in LINKS.values()], ids=LINKS)
def test_broken_tag_is_replaced_and_removed(storage: Storage, break_it: Break) -> None:
    """[S8.8] `ln -sfn`, `mv`, `rm` and a manifest that is put replace or remove a damaged tag. By
    ln -s and mv over it, and by rm.
    """
    tags = directory(root_of(storage.driver), "/team/app/_manifests/tags")
    assert isinstance(tags, MutableDirectory)
    target = f"../revisions/sha256/{GOOD.encoded}"
    for replaces in (True, False):
        break_it(storage, CURRENT)
        tags.lookup("latest").attr()
        if replaces:
            tags.symlink("new", target)
            with pytest.raises(Exists):
                tags.rename("new", tags, "latest", replace=False)
            tags.rename("new", tags, "latest", replace=True)
            storage.mend(CURRENT)
            assert symlink(tags, "/latest").target() == target
        else:
            tags.unlink("latest")
            assert "latest" not in children(tags)


@pytest.mark.parametrize(("link_set", "break_it", "error"), REMOVABLE)
def test_broken_layer_or_revision_is_removed_where_deleting_is_allowed(
    storage: Storage, link_set: str, break_it: Break, error: type[BlobfsError]
) -> None:
    """[S8.8] With `--allow-delete` `rm` removes a damaged layer or manifest."""
    break_it(storage, paths.link(link_set, BROKEN))
    links = directory(tree_of(storage.driver, allow_delete=True).root(), SHOWN_AT[link_set])
    assert isinstance(links, MutableDirectory)
    node = links.lookup(BROKEN.encoded)
    assert isinstance(node, BrokenNode)
    assert isinstance(node.failure(), error)
    links.unlink(BROKEN.encoded)
    storage.mend(paths.link(link_set, BROKEN))
    assert set(children(links)) == {GOOD.encoded}


@pytest.mark.parametrize("break_it", [how for how, _ in LINKS.values()], ids=LINKS)
def test_broken_history_is_mended_by_the_next_tagging(storage: Storage, break_it: Break) -> None:
    """[S8.8] The history of a tag goes with it, or is mended as its entries are written again."""
    link = paths.link(INDEX, GOOD)
    break_it(storage, link)
    tags = directory(root_of(storage.driver), "/team/app/_manifests/tags")
    assert isinstance(tags, MutableDirectory)
    tags.symlink("new", f"../revisions/sha256/{GOOD.encoded}")
    tags.rename("new", tags, "latest", replace=True)
    storage.mend(link)
    assert storage.driver.read_at(link, 0, 99) == str(GOOD).encode()


def test_damaged_blob_is_listed_in_the_global_store(storage: Storage) -> None:
    storage.layout.put(paths.blob_data(BROKEN))
    root = root_of(storage.driver)
    shard = f"/_blobs/sha256/{BROKEN.encoded[:2]}"
    assert isinstance(children(root, shard)[BROKEN.encoded].node, BrokenNode)
    with pytest.raises(BlobDamaged, match=BROKEN.encoded):
        find(root, f"{shard}/{BROKEN.encoded}")


def test_repository_that_leads_out_of_the_storage_hides_nothing(storage: Storage) -> None:
    (storage.path / paths.repository("team/outside")[1:]).symlink_to("/etc")
    root = root_of(storage.driver)
    assert sorted(children(root, "/team")) == ["app", "outside"]
    with pytest.raises(AccessDenied):
        find(root, "/team/outside")


def test_marker_that_leads_out_of_the_storage_hides_nothing(storage: Storage) -> None:
    (storage.path / paths.uploads(APP)[1:]).symlink_to("/etc")
    root = root_of(storage.driver)
    assert set(children(root, "/team/app")) == set(paths.MARKERS)
    assert set(children(root, SHOWN_AT[LAYERS])) == {GOOD.encoded, BROKEN.encoded}


def test_repaired_digest_is_a_file_again(storage: Storage) -> None:
    path = f"{SHOWN_AT[LAYERS]}/{BROKEN.encoded}"
    storage.layout.put(paths.link(LAYERS, BROKEN))
    root = root_of(storage.driver)
    with pytest.raises(LinkInvalid):
        find(root, path)
    storage.layout.link(LAYERS, BROKEN)
    assert find(root, path).key == str(BROKEN)
