"""What is where in the tree, and what is not."""

import os
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.checked import CheckedDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import NotFound
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.registry import Registry
from blobfs.vfs.nodes import Directory, File, Kind, Lifetime
from blobfs.vfs.tree import Tree
from blobfs.vfs.verification import Verification, Verify
from tests.storage.layout import APP, LATEST, Layout, image
from tests.vfs.walking import children, content, directory, find, names, tree_of, walk

LAYER = Digest.of(b"layer")
IMAGE = Digest.of(image(LAYER))


def stock(layout: Layout, repository: RepositoryName = APP) -> None:
    """One of everything that a repository may have."""
    layout.layer(b"layer", repository)
    alias = Digest.of(b"layer", "sha512")
    layout.link(paths.layers(repository), alias, str(LAYER).encode())
    layout.tag(layout.revision(image(LAYER), repository), LATEST, repository)
    layout.put(paths.upload_data(repository, "an-upload"), b"begun")


def test_empty_storage_is_an_empty_tree(root: Directory) -> None:
    assert names(root) == []
    assert root.attr().kind is Kind.DIRECTORY


def test_components_of_names_are_directories(layout: Layout, root: Directory) -> None:
    for name in ("library/small", "library/big", "top", "a/b/c/d"):
        layout.layer(b"layer", RepositoryName(name))
    assert names(root) == ["a", "library", "top"]
    assert names(root, "/library") == ["big", "small"]
    assert names(root, "/a/b/c") == ["d"]


def test_repositories_nest(layout: Layout, root: Directory) -> None:
    for name in ("team/app", "team/app/debug"):
        layout.layer(b"layer", RepositoryName(name))
    assert names(root, "/team/app") == ["_layers", "_manifests", "_uploads", "debug"]
    assert names(root, "/team/app/debug") == ["_layers", "_manifests", "_uploads"]
    for path in ("/team/app", "/team/app/debug"):
        assert names(root, f"{path}/_layers/sha256") == [LAYER.encoded]


@pytest.mark.parametrize("marker", paths.MARKERS)
def test_any_marker_in_the_storage_shows_all_three(
    layout: Layout, root: Directory, marker: str
) -> None:
    layout.put(f"{paths.repository(APP)}/{marker}/placeholder")
    assert names(root, "/team/app") == ["_layers", "_manifests", "_uploads"]
    for shown in paths.MARKERS:
        assert find(root, f"/team/app/{shown}").attr().kind is Kind.DIRECTORY


def test_namespace_has_no_markers(layout: Layout, root: Directory) -> None:
    layout.layer(b"layer", APP)
    assert names(root, "/team") == ["app"]
    for marker in paths.MARKERS:
        with pytest.raises(NotFound):
            find(root, f"/team/{marker}")


def test_root_has_no_markers(layout: Layout, root: Directory) -> None:
    for marker in paths.MARKERS:
        layout.put(f"{paths.REPOSITORIES}/{marker}/placeholder")
        with pytest.raises(NotFound):
            root.lookup(marker)
    assert list(root.names()) == []


def test_file_called_like_a_marker_is_not_shown(layout: Layout, root: Directory) -> None:
    layout.put(f"{paths.repository(APP)}/_layers")
    assert names(root, "/team/app") == []
    with pytest.raises(NotFound):
        find(root, "/team/app/_layers")


@pytest.mark.parametrize(
    "stray",
    [
        "README",
        "readme",
        "team/readme",
        "Team/app/_layers/x",
        "team/app/_other/x",
        "team/README",
        "_layers/x",
        ".x/y",
    ],
)
def test_what_is_no_name_is_not_shown(layout: Layout, root: Directory, stray: str) -> None:
    layout.layer(b"layer", APP)
    shown = [path for path, _ in walk(root)]
    layout.put(f"{paths.REPOSITORIES}/{stray}")
    assert [path for path, _ in walk(root)] == shown
    with pytest.raises(NotFound):
        find(root, f"/{stray}")


def test_name_longer_than_any_repository_s_is_not_shown(layout: Layout, root: Directory) -> None:
    longest = RepositoryName("/".join(["x" * 127] * 2))
    layout.layer(b"layer", longest)
    layout.put(f"{paths.repository(longest)}/y/_layers/placeholder")
    assert names(root, f"/{longest}") == ["_layers", "_manifests", "_uploads"]
    with pytest.raises(NotFound):
        find(root, f"/{longest}/y")


def test_empty_repository_has_its_directories(layout: Layout, root: Directory) -> None:
    layout.put(f"{paths.uploads(APP)}/placeholder")
    assert [path for path, _ in walk(root, "/team/app")] == [
        "/team/app/_layers",
        "/team/app/_layers/sha256",
        "/team/app/_manifests",
        "/team/app/_manifests/revisions",
        "/team/app/_manifests/revisions/sha256",
        "/team/app/_manifests/tags",
        "/team/app/_manifests/history",
        "/team/app/_manifests/_uploads",
        "/team/app/_uploads",
    ]


def test_repository_shows_all_that_it_has(layout: Layout, root: Directory) -> None:
    stock(layout)
    alias = Digest.of(b"layer", "sha512")
    files = [path for path, child in walk(root, "/team/app") if child.attr.kind is Kind.FILE]
    links = [path for path, child in walk(root, "/team/app") if child.attr.kind is Kind.SYMLINK]
    assert sorted(files) == sorted(
        [
            f"/team/app/_layers/sha256/{LAYER.encoded}",
            f"/team/app/_layers/sha512/{alias.encoded}",
            f"/team/app/_manifests/revisions/sha256/{IMAGE.encoded}",
        ]
    )
    assert sorted(links) == sorted(
        [
            "/team/app/_manifests/tags/latest",
            f"/team/app/_manifests/history/latest/sha256/{IMAGE.encoded}",
        ]
    )


def test_algorithms_show_once_something_is_stored_by_them(layout: Layout, root: Directory) -> None:
    layout.layer(b"layer")
    assert names(root, "/team/app/_layers") == ["sha256"]
    with pytest.raises(NotFound):
        find(root, "/team/app/_layers/sha512")
    stock(layout)
    assert names(root, "/team/app/_layers") == ["sha256", "sha512"]


def test_blob_shows_in_each_repository_that_links_it_and_in_no_other(
    layout: Layout, root: Directory
) -> None:
    for name in ("a", "b"):
        layout.layer(b"layer", RepositoryName(name))
    layout.layer(b"other layer", RepositoryName("c"))
    for name in ("a", "b"):
        assert names(root, f"/{name}/_layers/sha256") == [LAYER.encoded]
    with pytest.raises(NotFound):
        find(root, f"/c/_layers/sha256/{LAYER.encoded}")


def test_deleted_links_are_not_shown(layout: Layout, root: Directory) -> None:
    stock(layout)
    layout.driver.delete(paths.link(paths.layers(APP), LAYER))
    layout.driver.delete(paths.link(paths.revisions(APP), IMAGE))
    layout.driver.delete(paths.tag_current_link(APP, LATEST))
    for path in ("_layers/sha256", "_manifests/revisions/sha256", "_manifests/tags"):
        assert names(root, f"/team/app/{path}") == []
    assert names(root, "/team/app/_manifests/history") == []


def test_of_children_known_before_the_deleted_are_not_present(
    layout: Layout, driver: StorageDriver
) -> None:
    root = tree_of(driver, expose_blobs=True).root()
    kept = layout.layer(b"0")
    gone = next(
        layout.layer(str(i).encode())
        for i in range(1, 10_000)
        if Digest.of(str(i).encode()).encoded[:2] == kept.encoded[:2]
    )
    both = [kept.encoded, gone.encoded]
    for path in ("/team/app/_layers/sha256", f"/_blobs/sha256/{kept.encoded[:2]}"):
        assert sorted(directory(root, path).present(both)) == sorted(both)
    layout.driver.delete(paths.link(paths.layers(APP), gone))
    layout.driver.delete(paths.blob_data(gone))
    for path in ("/team/app/_layers/sha256", f"/_blobs/sha256/{kept.encoded[:2]}"):
        assert list(directory(root, path).present(both)) == [kept.encoded]


def test_children_that_are_not_content_addressed_count_as_present(
    layout: Layout, root: Directory
) -> None:
    layout.tag(IMAGE)
    tags = directory(root, "/team/app/_manifests/tags")
    assert list(tags.present(["latest"])) == ["latest"]


def test_directory_that_was_deleted_is_not_found(layout: Layout, root: Directory) -> None:
    layout.layer(b"layer")
    team = directory(root, "/team")
    layout.driver.delete(f"{paths.REPOSITORIES}/team")
    with pytest.raises(NotFound):
        team.attr()
    with pytest.raises(NotFound):
        list(team.names())
    with pytest.raises(NotFound):
        team.lookup("app")


def test_directory_that_is_deleted_while_it_is_listed_leaves_its_children_out(
    layout: Layout, root: Directory
) -> None:
    layout.layer(b"layer")
    listed = directory(root, "/team")
    found = list(listed.names())
    layout.driver.delete(f"{paths.REPOSITORIES}/team")
    assert found == ["app"]
    assert listed.children(found) == []


def test_global_store_shows_only_where_it_is_exposed(
    layout: Layout, driver: StorageDriver, root: Directory
) -> None:
    layout.layer(b"layer")
    assert names(root) == ["team"]
    with pytest.raises(NotFound):
        root.lookup("_blobs")
    assert names(tree_of(driver, expose_blobs=True).root()) == ["_blobs", "team"]


def test_global_store_has_every_blob_linked_or_not(layout: Layout, driver: StorageDriver) -> None:
    digests = [layout.layer(b"layer"), layout.blob(b"orphan"), layout.blob(b"long", "sha512")]
    root = tree_of(driver, expose_blobs=True).root()
    assert names(root, "/_blobs") == ["sha256", "sha384", "sha512"]
    shown = [path for path, child in walk(root, "/_blobs") if child.attr.kind is Kind.FILE]
    assert sorted(shown) == sorted(
        f"/_blobs/{digest.algorithm}/{digest.encoded[:2]}/{digest.encoded}" for digest in digests
    )


def test_global_store_has_a_blob_in_its_own_shard_only(
    layout: Layout, driver: StorageDriver
) -> None:
    layout.blob(b"layer")
    layout.put(f"{paths.BLOBS}/sha256/00/{LAYER.encoded}/data", b"layer")
    root = tree_of(driver, expose_blobs=True).root()
    assert names(root, "/_blobs/sha256/00") == []
    with pytest.raises(NotFound):
        find(root, f"/_blobs/sha256/00/{LAYER.encoded}")
    with pytest.raises(NotFound):
        find(root, "/_blobs/sha256/01")


def test_control_directory_is_found_but_not_listed() -> None:
    tree = Tree(
        Registry(InMemoryDriver()),
        Verification(Verify.NONE),
        control={"version": lambda: "1.0\n", "name": lambda: "é"},
    )
    root = tree.root()
    assert names(root) == []
    assert names(root, "/.blobfs") == ["name", "version"]
    for name, text in (("version", b"1.0\n"), ("name", "é".encode())):
        file = find(root, f"/.blobfs/{name}")
        assert isinstance(file, File)
        assert file.open().size == len(text)
        assert content(file.open()) == text
        assert (file.attr().size, file.attr().lifetime) == (0, Lifetime.MOMENT)


def test_only_the_root_has_a_control_directory(layout: Layout, root: Directory) -> None:
    layout.layer(b"layer")
    with pytest.raises(NotFound):
        find(root, "/team/.blobfs")


@pytest.fixture
def stocked(layout: Layout, driver: StorageDriver) -> Directory:
    """Everything there is, with the global store and a file in the control directory."""
    stock(layout)
    stock(layout, RepositoryName("team/app/debug"))
    tree = Tree(
        Registry(driver),
        Verification(Verify.NONE),
        expose_blobs=True,
        control={"version": lambda: "1.0"},
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
    str(LAYER),
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
    "an-upload",
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
        content_addressed = child.attr.kind is Kind.FILE
        assert (child.attr.lifetime is Lifetime.CONTENT) == content_addressed, path


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
    driver = CheckedDriver(FilesystemDriver.below(tmp_path))
    stock(Layout(driver))
    os.utime(tmp_path / stored[1:], ns=(1, 1_234_567_890_123_456_789))
    shown = tree_of(driver, expose_blobs=True).root()
    node = find(shown, path) if path != "/" else shown
    assert node.attr().mtime_ns == 1_234_567_890_123_456_789
    driver.close()


def test_directory_that_is_not_stored_has_the_time_of_the_one_above(tmp_path: Path) -> None:
    driver = CheckedDriver(FilesystemDriver.below(tmp_path))
    Layout(driver).layer(b"layer")
    os.utime(tmp_path / paths.repository(APP)[1:], ns=(1, 1_234_567_890_123_456_789))
    root = tree_of(driver).root()
    for path in ("_uploads", "_manifests", "_manifests/tags", "_manifests/revisions/sha256"):
        found = find(root, f"/team/app/{path}")
        assert found.attr().mtime_ns == 1_234_567_890_123_456_789, path
    driver.close()


def test_tags_are_listed_as_they_are_written(layout: Layout, root: Directory) -> None:
    for tag in ("v1", "V1", "_under", "a.b-c"):
        layout.tag(IMAGE, Tag(tag))
    assert names(root, "/team/app/_manifests/tags") == ["V1", "_under", "a.b-c", "v1"]
    assert names(root, "/team/app/_manifests/history") == ["V1", "_under", "a.b-c", "v1"]
