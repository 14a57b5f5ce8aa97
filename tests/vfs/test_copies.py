"""Repositories that are copied file by file, in any order, without a mount."""

from collections.abc import Callable
from functools import partial
from itertools import permutations
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import (
    ContentMismatch,
    ManifestRejected,
    NotFound,
    NotPermitted,
    StorageFull,
)
from blobfs.reference import Tag
from blobfs.storage.registry import Registry
from blobfs.storage.uploads.inventory import of_repository
from blobfs.vfs.kept_tags import KeptTags
from blobfs.vfs.nodes import Directory, MutableDirectory, Node, Symlink
from blobfs.vfs.tree import Tree
from blobfs.vfs.upload_handle import OpenersReport, OpenUpload
from blobfs.vfs.upload_nodes import UploadFile
from blobfs.vfs.uploads import Uploads
from blobfs.vfs.verification import Verification, Verify
from tests.support.layout import APP, image, index
from tests.support.uploads import files_below

LAYER = b"a layer"
IMAGE = image(Digest.of(LAYER))
INDEX = index(Digest.of(IMAGE))
OUTER = index(Digest.of(INDEX))
LATEST = Tag("latest")


class Copy:
    """A mount of *driver*, into which a program copies files."""

    def __init__(self, driver: StorageDriver, kept: Path | None = None) -> None:
        self.registry = Registry(driver)
        uploads = Uploads(kept=None if kept is None else KeptTags(kept))
        uploads.restore(self.registry)
        self.tree = Tree(self.registry, Verification(Verify.NONE), uploads)
        self.repository = self.registry.repository(APP)
        self.tree.made.declare(APP)

    def at(self, path: str) -> Node:
        node: Node = self.tree.root()
        for name in f"{APP}/{path}".split("/"):
            assert isinstance(node, Directory)
            node = node.lookup(name)
        return node

    def directory(self, path: str) -> MutableDirectory:
        found = self.at(path)
        assert isinstance(found, MutableDirectory)
        return found

    def write(self, path: str, content: bytes) -> None:
        """Create a file, write it and close it."""
        above, _, name = path.rpartition("/")
        node = self.directory(above).create(name)
        assert isinstance(node, UploadFile)
        opened = OpenUpload(node.upload, truncate=False)
        try:
            opened.write(0, content)
            opened.flush(lambda: OpenersReport(opener_killed=False, held_elsewhere=False))
        finally:
            opened.release()

    def rsync(self, path: str, content: bytes) -> None:
        """Write a file under a temporary name, and rename it."""
        above, _, name = path.rpartition("/")
        directory = self.directory(above)
        self.write(f"{above}/.{name}.AbC123", content)
        assert isinstance(directory, Node)
        directory.rename(f".{name}.AbC123", directory, name, replace=True)

    def layer(self, content: bytes = LAYER) -> None:
        self.write(f"_layers/sha256/{Digest.of(content).encoded}", content)

    def manifest(self, content: bytes) -> None:
        self.write(_path(content), content)

    def tag(self, content: bytes, name: str = LATEST) -> None:
        target = f"../{_path(content).removeprefix('_manifests/')}"
        self.directory("_manifests/tags").symlink(name, target)

    def history(self, *contents: bytes) -> None:
        self.directory("_manifests/history").mkdir(LATEST)
        entries = self.directory(f"_manifests/history/{LATEST}/sha256")
        for content in contents:
            digest = Digest.of(content)
            entries.symlink(digest.encoded, f"../../../revisions/sha256/{digest.encoded}")

    def revisions(self) -> set[bytes]:
        links = self.repository.manifests.links
        return {links.get(digest) for digest in links.list_unchecked("sha256")}

    def waiting(self) -> set[str]:
        found = self.at("_manifests/_uploads")
        assert isinstance(found, Directory)
        return set(found.names())


def _path(content: bytes) -> str:
    return f"_manifests/revisions/sha256/{Digest.of(content).encoded}"


def _name(content: bytes) -> str:
    return str(Digest.of(content))


@pytest.fixture
def driver() -> StorageDriver:
    return BaseDriver(InMemoryDriver())


@pytest.fixture
def copy(driver: StorageDriver) -> Copy:
    return Copy(driver)


STEPS: dict[str, Callable[[Copy], None]] = {
    "layer": Copy.layer,
    "image": lambda copy: copy.manifest(IMAGE),
    "index": lambda copy: copy.manifest(INDEX),
    "outer index": lambda copy: copy.manifest(OUTER),
    "tag": lambda copy: copy.tag(OUTER),
    "history": lambda copy: copy.history(IMAGE, OUTER),
}


@pytest.mark.parametrize("order", range(0, 720, 17))
def test_repository_is_complete_in_whatever_order_it_is_copied(copy: Copy, order: int) -> None:
    """[S8.18] It is committed as soon as the last of it has come through this mount.
    [S8.20] Becomes the tag when the revision arrives.
    """
    for step in list(permutations(STEPS))[order]:
        STEPS[step](copy)
    assert copy.revisions() == {IMAGE, INDEX, OUTER}
    assert copy.repository.tags.get(LATEST) == Digest.of(OUTER)
    history = set(copy.repository.tags.history(LATEST).list_unchecked("sha256"))
    assert history == {Digest.of(IMAGE), Digest.of(OUTER)}
    assert copy.waiting() == set()
    assert list(of_repository(copy.repository)) == []


def test_order_of_rsync_leaves_nothing_behind(copy: Copy, driver: StorageDriver) -> None:
    """[S8.17] Or the temporary name that rsync gives it."""
    copy.tag(OUTER)
    for content in (OUTER, INDEX, IMAGE):
        copy.rsync(_path(content), content)
        assert copy.revisions() == set()
    copy.rsync(f"_layers/sha256/{Digest.of(LAYER).encoded}", LAYER)
    assert copy.revisions() == {IMAGE, INDEX, OUTER}
    assert copy.repository.tags.get(LATEST) == Digest.of(OUTER)
    assert files_below(driver, paths.uploads(APP)) == set()


def test_manifest_that_waits_is_shown_and_says_so(copy: Copy) -> None:
    """[S8.18] If something that it refers to is missing, the close is 0, and the manifest waits."""
    copy.manifest(IMAGE)
    node = copy.at(_path(IMAGE))
    assert isinstance(node, UploadFile)
    assert node.open().read_at(0, 10_000) == IMAGE
    assert copy.waiting() == {_name(IMAGE)}
    state = node.xattrs()["user.blobfs.state"]()
    assert state.startswith("failed: ")
    assert str(Digest.of(LAYER)) in state
    assert copy.revisions() == set()


def test_manifest_that_waits_outlives_the_mount(copy: Copy, driver: StorageDriver) -> None:
    """[S8.19] A manifest that waits is in the storage, so the end of the mount or a crash does not
    lose it.
    """
    copy.manifest(INDEX)
    copy.manifest(IMAGE)
    again = Copy(driver)
    assert again.waiting() == {_name(IMAGE), _name(INDEX)}
    again.layer()
    assert again.revisions() == {IMAGE, INDEX}
    assert files_below(driver, paths.uploads(APP)) == set()


@pytest.mark.parametrize("is_same_mount", [True, False])
def test_what_arrives_by_another_way_is_found_at_the_next_lookup(
    copy: Copy, driver: StorageDriver, is_same_mount: bool
) -> None:
    """[S8.18] Or else at the next lookup of its name."""
    copy.manifest(IMAGE)
    Registry(driver).repository(APP).layers.put(LAYER)  # as a registry does
    found = (copy if is_same_mount else Copy(driver)).at(_path(IMAGE))
    assert not isinstance(found, UploadFile)
    assert copy.revisions() == {IMAGE}


def test_blob_that_is_linked_is_one_that_arrives(copy: Copy, driver: StorageDriver) -> None:
    """[S8.18] It is committed as soon as the last of it has come through this mount. Also by ln."""
    copy.manifest(IMAGE)
    other = Registry(driver).repository("other")
    other.layers.put(LAYER)
    copy.tree.made.add(other.name)
    digest = Digest.of(LAYER)
    node: Node = copy.tree.root()
    for name in ("other", "_layers", "sha256", digest.encoded):
        assert isinstance(node, Directory)
        node = node.lookup(name)
    copy.directory("_layers/sha256").link(digest.encoded, node)
    assert copy.revisions() == {IMAGE}


def test_waiting_manifest_is_listed_among_the_uploads_and_can_be_removed(copy: Copy) -> None:
    """[S8.19] `blobfs uploads` lists it."""
    copy.manifest(IMAGE)
    [found] = of_repository(copy.repository)
    assert (found.name, found.size) == (_name(IMAGE), len(IMAGE))
    assert list(copy.repository.uploads.enumerate()) == []
    copy.directory("_manifests/revisions/sha256").unlink(Digest.of(IMAGE).encoded)
    assert list(of_repository(copy.repository)) == []
    copy.layer()
    assert copy.revisions() == set()


def test_file_with_other_bytes_than_its_name_says_is_refused(copy: Copy) -> None:
    """[S8.17] Its last close commits it, or is EBADMSG."""
    for path in (f"_layers/sha256/{Digest.of(b'x').encoded}", _path(b"x")):
        with pytest.raises(ContentMismatch):
            copy.write(path, LAYER)
    assert list(copy.repository.layers.list_unchecked("sha256")) == []


def test_what_is_no_manifest_does_not_wait(copy: Copy) -> None:
    """[S8.18] Anything else that is wrong with it is EINVAL, as in 8.2."""
    with pytest.raises(ManifestRejected):
        copy.manifest(b"no manifest")


@pytest.mark.parametrize("name", ["new", "0" * 63, ".0.AbC123", "sha256:" + "0" * 64])
def test_file_is_made_only_under_a_digest(copy: Copy, name: str) -> None:
    """[S8.17] Any other name is EPERM."""
    for directory in ("_layers/sha256", "_manifests/revisions/sha256"):
        with pytest.raises(NotPermitted):
            copy.directory(directory).create(name)


def test_file_that_is_copied_again_replaces_what_was_left_of_it(copy: Copy) -> None:
    """[S8.17] What was left of an earlier copy is replaced."""
    path = f"_layers/sha256/{Digest.of(LAYER).encoded}"
    with pytest.raises(ContentMismatch):
        copy.write(path, LAYER[:3])
    copy.layer()
    assert set(copy.repository.layers.list_unchecked("sha256")) == {Digest.of(LAYER)}


def test_tag_that_waits_is_shown_and_not_stored(copy: Copy, driver: StorageDriver) -> None:
    """[S8.20] A tag whose revision is not there yet waits: the mount shows it, and nobody else
    does.
    """
    copy.tag(IMAGE)
    node = copy.at(f"_manifests/tags/{LATEST}")
    assert isinstance(node, Symlink)
    assert node.target() == f"../revisions/sha256/{Digest.of(IMAGE).encoded}"
    with pytest.raises(NotFound):
        Copy(driver).at(f"_manifests/tags/{LATEST}")
    copy.directory("_manifests/tags").unlink(LATEST)
    with pytest.raises(NotFound):
        copy.at(f"_manifests/tags/{LATEST}")


def test_tag_follows_a_revision_that_arrives_elsewhere(copy: Copy, driver: StorageDriver) -> None:
    """[S8.20] Becomes the tag when the revision arrives, or at the next lookup after that."""
    copy.tag(IMAGE)
    other = Copy(driver)
    other.layer()
    other.manifest(IMAGE)
    copy.at(f"_manifests/tags/{LATEST}")
    assert other.repository.tags.get(LATEST) == Digest.of(IMAGE)


def test_symlink_of_rsync_replaces_a_tag(copy: Copy) -> None:
    """[S8.20] A symlink under the temporary name of rsync is taken."""
    copy.layer()
    copy.manifest(IMAGE)
    copy.manifest(INDEX)
    copy.tag(IMAGE)
    copy.tag(INDEX, f".{LATEST}.AbC123")
    tags = copy.directory("_manifests/tags")
    assert isinstance(tags, Node)
    tags.rename(f".{LATEST}.AbC123", tags, LATEST, replace=True)
    assert copy.repository.tags.get(LATEST) == Digest.of(INDEX)
    assert list(tags.names()) == [LATEST]  # type: ignore[attr-defined]


def test_file_of_tar_becomes_a_tag(copy: Copy) -> None:
    """[S8.20] As is the file that tar makes in place of a symlink until its end."""
    tags = copy.directory("_manifests/tags")
    made = tags.create(LATEST)
    assert copy.at(f"_manifests/tags/{LATEST}").key == made.key
    tags.unlink(LATEST)
    copy.layer()
    copy.manifest(IMAGE)
    copy.tag(IMAGE)
    assert copy.repository.tags.get(LATEST) == Digest.of(IMAGE)
    assert copy.waiting() == set()


@pytest.mark.parametrize("content", [LAYER, b"another"])
def test_blob_gets_its_name_of_another_algorithm(copy: Copy, content: bytes) -> None:
    """[S8.23] `ln` gives a blob its name of another algorithm too, after reading it, and EBADMSG
    if it is not the blob's.
    """
    copy.layer()
    alias = Digest.of(content, "sha512")
    copy.directory("_layers").mkdir("sha512")
    link = partial(
        copy.directory("_layers/sha512").link,
        alias.encoded,
        copy.at(f"_layers/sha256/{Digest.of(LAYER).encoded}"),
    )
    if content == LAYER:
        link()
        assert copy.repository.layers.resolve(alias) == Digest.of(LAYER)
    else:
        with pytest.raises(ContentMismatch):
            link()


def test_tag_that_waits_is_kept_for_the_next_mount(tmp_path: Path) -> None:
    """[S8.25] Tags that wait at the end of a mount are kept in `--state-dir` for the next one"""
    driver, kept = BaseDriver(InMemoryDriver()), tmp_path / "state" / "tags"
    copy = Copy(driver, kept)
    copy.tag(IMAGE)
    copy.directory("_manifests/history").mkdir(LATEST)
    copy.tree.uploads.waiting_tags(copy.repository).add_history(LATEST, Digest.of(INDEX))
    waiting = copy.tree.uploads.waiting()
    for _ in range(2):
        copy.tree.uploads.suspend(1.0)
        copy = Copy(driver, kept)
        assert copy.tree.uploads.waiting() == waiting
    copy.layer()
    copy.manifest(IMAGE)
    assert copy.repository.tags.get(LATEST) == Digest.of(IMAGE)
    assert set(copy.repository.tags.history(LATEST).enumerate_all()) == {
        Digest.of(IMAGE), Digest.of(INDEX),
    }  # fmt: skip
    copy.tree.uploads.suspend(1.0)
    assert not kept.exists()


@pytest.mark.parametrize(
    ("uploads", "name", "place"),
    [
        ("_uploads", _name(LAYER), f"_layers/sha256/{Digest.of(LAYER).encoded}"),
        ("_manifests/_uploads", _name(IMAGE), _path(IMAGE)),
        ("_manifests/_uploads", LATEST, f"_manifests/tags/{LATEST}"),
    ],
    ids=["layer", "manifest", "tag"],
)
def test_upload_that_is_no_copy_is_not_found_elsewhere(
    copy: Copy, uploads: str, name: str, place: str
) -> None:
    """[S8.17] An upload that was begun in `_uploads` is found only there before its commit."""
    node = copy.directory(uploads).create(name)
    assert isinstance(node, UploadFile)
    with pytest.raises(NotFound):
        copy.at(place)
    above, _, last = place.rpartition("/")
    with pytest.raises((NotFound, NotPermitted)):
        copy.directory(above).unlink(last)
    assert copy.at(f"{uploads}/{name}") == node


def test_copied_file_and_its_upload_are_two_files(copy: Copy, driver: StorageDriver) -> None:
    """[S7.2] By a rename onto `../_layers/<algorithm>/<hex>`. rename(2) does nothing between two
    names of one file.
    """
    with pytest.raises(ContentMismatch):
        copy.write(f"_layers/sha256/{Digest.of(LAYER).encoded}", LAYER[:3])
    upload = copy.at(f"_uploads/{_name(LAYER)}")
    assert upload.key != copy.at(f"_layers/sha256/{Digest.of(LAYER).encoded}").key
    assert isinstance(upload, UploadFile)
    opened = OpenUpload(upload.upload, truncate=False)
    opened.write(3, LAYER[3:])
    opened.fail(StorageFull("no room"))
    opened.release()
    layers = copy.at("_layers/sha256")
    copy.directory("_uploads").rename(_name(LAYER), layers, Digest.of(LAYER).encoded, replace=True)
    assert copy.repository.layers.get(Digest.of(LAYER)) == LAYER
    assert files_below(driver, paths.uploads(APP)) == set()


def test_what_waits_is_listed_with_what_it_waits_for(copy: Copy) -> None:
    """[S8.26] lists the tags, entries of histories and manifests that wait in this mount"""
    copy.tag(IMAGE)
    copy.tree.uploads.waiting_tags(copy.repository).add_history(LATEST, Digest.of(INDEX))
    copy.manifest(IMAGE)
    assert [(each["kind"], each["waits_for"]) for each in copy.tree.uploads.waiting()] == [
        ("tag", str(Digest.of(IMAGE))), ("history", LATEST), ("manifest", str(Digest.of(LAYER))),
    ]  # fmt: skip
    copy.layer()
    assert copy.tree.uploads.waiting() == []


def test_tag_that_was_set_elsewhere_meanwhile_stays(
    copy: Copy, caplog: pytest.LogCaptureFixture
) -> None:
    """[S8.25] A tag that was set elsewhere meanwhile stays as it is, and the log says so."""
    copy.tag(IMAGE)
    copy.repository.tags.tag(LATEST, Digest.of(OUTER))
    copy.layer()
    copy.manifest(IMAGE)
    assert copy.repository.tags.get_now(LATEST) == Digest.of(OUTER)
    assert f"tag {LATEST} of {APP} was set elsewhere" in caplog.text
    assert copy.tree.uploads.waiting() == []


@pytest.mark.parametrize("place", ["damaged", "no directory"])
def test_tags_that_cannot_be_kept_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    kept = tmp_path / "tags"
    if place == "damaged":
        kept.write_text('[1, 2, 3, 4]\nno JSON\n["../a", "v1", "sha256:x", 1]\n')
        Copy(BaseDriver(InMemoryDriver()), kept)
        assert caplog.text.count("a line is damaged") == 2
        assert "a tag that waited is lost" in caplog.text
    else:
        kept.write_text("")
        copy = Copy(BaseDriver(InMemoryDriver()), kept / "below")
        copy.tag(IMAGE)
        copy.tree.uploads.suspend(1.0)
        assert f"tag {LATEST} of {APP} is lost" in caplog.text
