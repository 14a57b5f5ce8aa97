"""The whole of a tree with everything in it: names, keys, lifetimes and times."""

import os
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import NotFound
from blobfs.reference import RepositoryName
from blobfs.storage.registry import Registry
from blobfs.vfs.control import Report
from blobfs.vfs.nodes import Directory, Kind, Lifetime
from blobfs.vfs.tree import Tree
from blobfs.vfs.verification import Verification, Verify
from tests.support.layout import APP, LATEST, Layout
from tests.support.stocked_repository import IMAGE, LAYER, stock
from tests.support.walking import children, directory, find, tree_of, walk


@pytest.fixture
def stocked(layout: Layout, driver: StorageDriver) -> Directory:
    """Everything there is, with the global store and a file in the control directory."""
    stock(layout)
    stock(layout, RepositoryName("team/app/debug"))
    tree = Tree(
        Registry(driver),
        Verification(Verify.NONE),
        expose_blobs=True,
        control={"version": Report(lambda: "1.0")},
    )
    return tree.root()


DIRECTORIES = [
    "/",
    "/team",
    "/team/app",
    "/team/app/_layers",
    "/team/app/_layers/sha256",
    "/team/app/_layers/sha512",
    "/team/app/_manifests",
    "/team/app/_manifests/revisions",
    "/team/app/_manifests/revisions/sha256",
    "/team/app/_manifests/tags",
    "/team/app/_manifests/history",
    "/team/app/_manifests/history/latest",
    "/team/app/_manifests/history/latest/sha256",
    "/team/app/_manifests/_uploads",
    "/team/app/_uploads",
    "/_blobs",
    "/_blobs/sha256",
    f"/_blobs/sha256/{LAYER.encoded[:2]}",
    "/.blobfs",
]

HOSTILE = [
    "",
    ".",
    "..",
    "/",
    "//",
    "a/b",
    "app/_layers",
    "team/app",
    "../team",
    "latest/current",
    f"sha256/{LAYER.encoded}",
    "/etc/passwd",
    "\0",
    f"{LAYER.encoded}\0",
    "\n",
    "latest\n",
    f"{LAYER.encoded}\n",
    f"{LAYER.encoded} ",
    LAYER.encoded.upper(),
    LAYER.encoded[:-1],
    f"{LAYER.encoded}0",
    str(Digest.of(b"missing")),
    Digest.of(b"missing").encoded,
    "\udc80",
    "\udcff" * 85,
    "\ud800",
    "é",
    "٣" * 64,
    "x" * 300,
    "x" * 100_000,
    "x/" * 127,
    "link",
    "data",
    "current",
    "index",
    "placeholder",
    "another-upload",
    "nowhere",
    "Nowhere",
    "_nowhere",
    ".nowhere",
    "%2e%2e",
    "a\\b",
    "*",
    "sha256:",
    "SHA256",
    "md5",
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:24])
def test_any_other_name_is_nowhere_found_and_told_in_a_short_line(
    stocked: Directory, name: str
) -> None:
    for path in DIRECTORIES:
        with pytest.raises(NotFound) as caught:
            directory(stocked, path).lookup(name)
        assert len(str(caught.value)) < 1_200
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", DIRECTORIES)
def test_everything_listed_is_found(stocked: Directory, path: str) -> None:
    for name, child in children(stocked, path).items():
        found = directory(stocked, path).lookup(name)
        assert (found.key, found.attr().kind) == (child.node.key, child.attr.kind)


def test_directories_and_symlinks_are_known_by_their_path(stocked: Directory) -> None:
    others = [
        (path, child.node.key)
        for path, child in walk(stocked)
        if child.attr.kind is not Kind.FILE and child.node.key != path
    ]
    assert others == []


def test_no_two_things_share_a_key(stocked: Directory) -> None:
    keys = [child.node.key for _, child in walk(stocked) if child.attr.kind is not Kind.FILE]
    assert len(keys) == len(set(keys))


def test_equal_lookups_give_equal_nodes(stocked: Directory) -> None:
    for path, child in walk(stocked):
        if child.attr.kind is not Kind.DIRECTORY:
            assert find(stocked, path) == find(stocked, path)


def test_tree_is_the_same_after_a_remount(layout: Layout, driver: StorageDriver) -> None:
    stock(layout)
    first, second = (
        [(path, child.node.key, child.attr) for path, child in walk(tree_of(driver).root())]
        for _ in range(2)
    )
    assert first == second


def test_names_that_change_are_kept_for_a_short_time(stocked: Directory) -> None:
    for path, child in walk(stocked):
        if "/_uploads/" in path:
            expected = Lifetime.MOMENT
        else:
            expected = Lifetime.CONTENT if child.attr.kind is Kind.FILE else Lifetime.NAME
        assert child.attr.lifetime is expected, path


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("/", paths.REPOSITORIES),
        ("/team", paths.repository("team")),
        ("/team/app", paths.repository(APP)),
        ("/team/app/_layers", paths.layers(APP)),
        ("/team/app/_layers/sha256", f"{paths.layers(APP)}/sha256"),
        ("/team/app/_manifests", f"{paths.repository(APP)}/_manifests"),
        ("/team/app/_manifests/revisions", paths.revisions(APP)),
        ("/team/app/_manifests/revisions/sha256", f"{paths.revisions(APP)}/sha256"),
        ("/team/app/_manifests/tags", paths.tags(APP)),
        ("/team/app/_manifests/tags/latest", paths.tag_current_link(APP, LATEST)),
        ("/team/app/_manifests/history/latest", paths.tag_index(APP, LATEST)),
        (
            f"/team/app/_manifests/history/latest/sha256/{IMAGE.encoded}",
            paths.link(paths.tag_index(APP, LATEST), IMAGE),
        ),
        ("/team/app/_uploads", paths.uploads(APP)),
        (f"/team/app/_layers/sha256/{LAYER.encoded}", paths.blob_data(LAYER)),
        ("/_blobs", paths.BLOBS),
        ("/_blobs/sha256", f"{paths.BLOBS}/sha256"),
    ],
    ids=lambda path: path[:48],
)
def test_time_is_that_of_what_is_stored(tmp_path: Path, path: str, stored: str) -> None:
    driver = BaseDriver(FilesystemDriver.below(tmp_path))
    stock(Layout(driver))
    os.utime(tmp_path / stored[1:], ns=(1, 1_234_567_890_123_456_789))
    shown = tree_of(driver, expose_blobs=True).root()
    node = find(shown, path) if path != "/" else shown
    assert node.attr().mtime_ns == 1_234_567_890_123_456_789
    driver.close()


def test_directory_that_is_not_stored_has_the_time_of_the_one_above(tmp_path: Path) -> None:
    driver = BaseDriver(FilesystemDriver.below(tmp_path))
    Layout(driver).layer(b"layer")
    os.utime(tmp_path / paths.repository(APP)[1:], ns=(1, 1_234_567_890_123_456_789))
    root = tree_of(driver).root()
    for path in ("_uploads", "_manifests", "_manifests/tags", "_manifests/revisions/sha256"):
        found = find(root, f"/team/app/{path}")
        assert found.attr().mtime_ns == 1_234_567_890_123_456_789, path
    driver.close()
