"""Which repositories a storage has, and how a registry is opened and closed."""

from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.capacity import capacity_of
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import MountRefused, NameInvalid, PathInvalid, PathNotFound
from blobfs.reference import RepositoryName
from blobfs.storage.registry import Registry, open_registry
from tests.support.layout import APP, Layout
from tests.support.watched_driver import WatchedDriver

LONGEST = RepositoryName("/".join(["x" * 127] * 2))


@pytest.fixture
def registry(driver: StorageDriver) -> Registry:
    return Registry(driver)


def make(layout: Layout, *names: str) -> None:
    """Let each name be a repository, whether or not a registry would take it."""
    for name in names:
        layout.put(f"{paths.REPOSITORIES}/{name}/_layers/sha256/placeholder")


def test_enumerate_finds_nested_repositories_above_those_below(
    layout: Layout, registry: Registry
) -> None:
    make(layout, "b", "a/b/c", "a", "a/b", "a-b", "a0")
    assert list(registry.enumerate()) == ["a", "a/b", "a/b/c", "a-b", "a0", "b"]


def test_enumerate_passes_over_namespaces(layout: Layout, registry: Registry) -> None:
    make(layout, "team/app", "deep/down/below")
    assert list(registry.enumerate()) == ["deep/down/below", "team/app"]


def test_empty_storage_has_no_repositories(registry: Registry) -> None:
    assert list(registry.enumerate()) == []


@pytest.mark.parametrize("marker", paths.MARKERS)
def test_each_marker_alone_makes_a_repository(
    layout: Layout, registry: Registry, marker: str
) -> None:
    layout.put(f"{paths.repository(APP)}/{marker}/placeholder")
    assert registry.is_repository(APP)
    assert list(registry.enumerate()) == [APP]


@pytest.mark.parametrize("marker", paths.MARKERS)
def test_file_called_like_a_marker_makes_none(
    layout: Layout, registry: Registry, marker: str
) -> None:
    layout.put(f"{paths.repository(APP)}/{marker}")
    assert not registry.is_repository(APP)
    assert list(registry.enumerate()) == []


def test_namespace_is_no_repository(layout: Layout, registry: Registry) -> None:
    make(layout, "team/app")
    assert not registry.is_repository(RepositoryName("team"))


def test_missing_name_is_no_repository(registry: Registry) -> None:
    assert not registry.is_repository(APP)


@pytest.mark.parametrize(
    "stray",
    [
        "README",
        "team/README",
        "team/app/README",
        "team/app/_other/below",
        "_layers/sha256/placeholder",
        "_uploads/_layers/placeholder",
        "team/app/_manifests/tags/v1/_layers/placeholder",
        "Team/app/_layers/placeholder",
        "team/APP/_layers/placeholder",
        "team/app./_layers/placeholder",
        "team/.app/_layers/placeholder",
        "team/a..b/_layers/placeholder",
        "team/a___b/_layers/placeholder",
        "team/-app/_layers/placeholder",
        "team/.../_layers/placeholder",
        f"{LONGEST}/x/_layers/placeholder",
        f"{LONGEST[:-1]}/xx/_layers/placeholder",
    ],
    ids=lambda stray: stray[:40],
)
def test_enumerate_passes_over_what_is_no_repository(
    layout: Layout, registry: Registry, stray: str
) -> None:
    make(layout, APP)
    layout.put(f"{paths.REPOSITORIES}/{stray}")
    assert list(registry.enumerate()) == [APP]


def test_enumerate_finds_the_longest_name(layout: Layout, registry: Registry) -> None:
    make(layout, LONGEST)
    assert list(registry.enumerate()) == [LONGEST]


def test_file_in_place_of_all_repositories_is_none(layout: Layout, registry: Registry) -> None:
    layout.put(paths.REPOSITORIES)
    assert list(registry.enumerate()) == []


def test_children_are_components_and_markers(layout: Layout, registry: Registry) -> None:
    make(layout, "team/app", "team/app/debug", "team/app/Debug")
    layout.put(f"{paths.repository(APP)}/_uploads")
    assert list(registry.children("")) == ["team"]
    assert list(registry.children("team")) == ["app"]
    assert sorted(registry.children("team/app")) == ["_layers", "debug"]


def test_children_of_a_missing_name_are_asked_for_in_vain(registry: Registry) -> None:
    with pytest.raises(PathNotFound):
        registry.children("nowhere")


def test_repository_need_not_exist(registry: Registry) -> None:
    assert list(registry.repository(APP).tags.enumerate()) == []


def test_repository_is_had_by_a_plain_name(layout: Layout, registry: Registry) -> None:
    digest = layout.layer(b"content")
    assert registry.repository("team/app").layers.get(digest) == b"content"
    assert registry.repository("team/app") is registry.repository(APP)


@pytest.mark.parametrize("name", ["", "/", "Team", "a//b", "a/", "../a", "_uploads", "a" * 256])
def test_repository_is_not_had_by_what_is_no_name(registry: Registry, name: str) -> None:
    with pytest.raises(NameInvalid):
        registry.repository(name)


def test_repository_is_remembered(registry: Registry) -> None:
    assert registry.repository(APP) is registry.repository(APP)


def test_repositories_are_not_remembered_without_bound(registry: Registry) -> None:
    others = [RepositoryName(f"other-{i}") for i in range(1_000)]
    first = registry.repository(APP)
    for name in others:
        assert registry.repository(name).name == name
    assert registry.repository(APP) is not first


def test_repository_in_use_is_remembered(registry: Registry) -> None:
    in_use = registry.repository(APP)
    for i in range(1_000):
        registry.repository(RepositoryName(f"other-{i}"))
        assert registry.repository(APP) is in_use


def test_repositories_share_one_blob_store(layout: Layout, registry: Registry) -> None:
    digest = layout.layer(b"shared")
    layout.layer(b"shared", RepositoryName("other"))
    descriptor = registry.blobs.stat(digest)
    for name in (APP, RepositoryName("other")):
        assert registry.repository(name).layers.stat(digest) == descriptor


def test_storage_with_the_root_of_the_layout_is_a_registry_s(
    layout: Layout, registry: Registry
) -> None:
    assert not registry.exists()
    layout.layer(b"first")
    assert registry.exists()


def test_file_in_place_of_the_root_is_no_registry(layout: Layout, registry: Registry) -> None:
    layout.put(paths.ROOT)
    assert not registry.exists()


def test_stat_is_of_a_path_of_the_layout(layout: Layout, registry: Registry) -> None:
    path = paths.blob_data(layout.blob(b"four"))
    info = registry.stat(path)
    assert info is not None
    assert (info.path, info.size) == (path, 4)
    assert registry.stat(paths.blob_data(Digest.of(b"missing"))) is None


def test_capacity_is_the_driver_s(driver: StorageDriver, registry: Registry) -> None:
    told, asked = registry.capacity(), capacity_of(driver)
    assert (told and told.size) == (asked and asked.size)
    assert registry.is_local == driver.is_local


def test_leaving_the_registry_closes_its_driver() -> None:
    driver = WatchedDriver(InMemoryDriver(), str)
    with Registry(driver) as registry:
        assert not registry.exists()
        assert not driver.closed
    assert driver.closed


def test_registry_is_opened_by_path_and_by_url(tmp_path: Path) -> None:
    storage = tmp_path / "a storage"
    (storage / paths.ROOT[1:]).mkdir(parents=True)
    for text in (str(storage), storage.as_uri(), f"file://localhost{storage.as_uri()[7:]}"):
        with open_registry(text) as registry:
            assert registry.exists()


def test_registry_is_opened_by_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / paths.ROOT[1:]).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with open_registry(".") as registry:
        assert registry.exists()


def test_registry_in_memory_is_new_and_empty() -> None:
    with open_registry("memory:") as registry:
        assert not registry.exists()
        assert registry.capacity() is None


def test_storage_that_is_missing_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(PathNotFound):
        open_registry(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("storage", ["", "ftp://host/dir", "file://host/dir", "file:"])
def test_what_is_no_storage_is_refused(storage: str) -> None:
    with pytest.raises(MountRefused):
        open_registry(storage)


@pytest.mark.parametrize("storage", ["directory", "memory:"])
def test_every_driver_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    (tmp_path / "directory").mkdir()
    monkeypatch.chdir(tmp_path)
    with open_registry(storage) as registry, pytest.raises(PathInvalid):
        registry.stat("/a/../b")
