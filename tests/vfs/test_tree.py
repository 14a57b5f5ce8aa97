"""What is where in the tree, and what is not."""

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import NotFound
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.registry import Registry
from blobfs.vfs.control import Report
from blobfs.vfs.nodes import Directory, File, Kind, Lifetime
from blobfs.vfs.tree import Tree
from blobfs.vfs.verification import Verification, Verify
from tests.support.layout import APP, LATEST, Layout
from tests.support.stocked_repository import IMAGE, LAYER, stock
from tests.support.walking import content, directory, find, names, tree_of, walk


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
            "/team/app/_uploads/an-upload",
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
        assert sorted(directory(root, path).existing(both)) == sorted(both)
    layout.driver.delete(paths.link(paths.layers(APP), gone))
    layout.driver.delete(paths.blob_data(gone))
    for path in ("/team/app/_layers/sha256", f"/_blobs/sha256/{kept.encoded[:2]}"):
        assert list(directory(root, path).existing(both)) == [kept.encoded]


def test_children_that_are_not_content_addressed_count_as_present(
    layout: Layout, root: Directory
) -> None:
    layout.tag(IMAGE)
    tags = directory(root, "/team/app/_manifests/tags")
    assert list(tags.existing(["latest"])) == ["latest"]


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
        control={"version": Report(lambda: "1.0\n"), "name": Report(lambda: "é")},
    )
    root = tree.root()
    assert names(root) == []
    assert names(root, "/.blobfs") == ["name", "uploads.json", "version", "waiting.json"]
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


def test_tags_are_listed_as_they_are_written(layout: Layout, root: Directory) -> None:
    for tag in ("v1", "V1", "_under", "a.b-c"):
        layout.tag(IMAGE, Tag(tag))
    assert names(root, "/team/app/_manifests/tags") == ["V1", "_under", "a.b-c", "v1"]
    assert names(root, "/team/app/_manifests/history") == ["V1", "_under", "a.b-c", "v1"]
