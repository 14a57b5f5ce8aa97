"""What BaseDriver keeps away from every driver below it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver, BaseObjectStore
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import S3Options
from blobfs.errors import OffsetInvalid, PathInvalid
from tests.support.files import content_of, walk
from tests.support.services import free_port

ILL_FORMED = [
    "",
    "abc",
    "123.abc",
    "//bcd",
    "/abc_123/",
    "/a//b",
    "/.",
    "/..",
    "/a/.",
    "/a/..",
    "/./a",
    "/../a",
    "/a/../b",
    "/a b",
    "/a\n",
    "/a\0b",
    "/a:b",
    "/a@b",
    "/a+b",
    "/a%2fb",
    "/a\\b",
    "/é",
    "/\udc80",
    "/٣",
    " /a",
    "/" + "a" * 1_000_000 + "?",
]
ROOT_TOO = {
    "stat": lambda driver, path: driver.stat(path),
    "stat_many": lambda driver, path: driver.stat_many(["/", path]),
    "listdir": lambda driver, path: driver.listdir(path),
    "walk": lambda driver, path: list(walk(driver, path)),
}
FILES_ONLY: dict[str, Callable[[StorageDriver, str], object]] = {
    "open": lambda driver, path: driver.open(path),
    "sync": lambda driver, path: driver.sync(path),
    "get_content": content_of,
    "read_at": lambda driver, path: driver.read_at(path, 0, 1),
    "put_content": lambda driver, path: driver.put_content(path, b""),
    "create": lambda driver, path: driver.create(path),
    "append": lambda driver, path: driver.append(path),
    "move from": lambda driver, path: driver.move(path, "/a"),
    "move to": lambda driver, path: driver.move("/a", path),
    "delete": lambda driver, path: driver.delete(path),
}


@pytest.mark.parametrize(
    "act", (ROOT_TOO | FILES_ONLY).values(), ids=(ROOT_TOO | FILES_ONLY).keys()
)
def test_ill_formed_path_is_refused(act: Callable[[StorageDriver, str], object]) -> None:
    driver = BaseDriver(InMemoryDriver())
    driver.put_content("/a", b"")
    for path in ILL_FORMED:
        with pytest.raises(PathInvalid):
            act(driver, path)


@pytest.mark.parametrize("act", FILES_ONLY.values(), ids=FILES_ONLY.keys())
def test_root_is_no_path_of_a_file(
    checked_driver: StorageDriver, act: Callable[[StorageDriver, str], object]
) -> None:
    checked_driver.put_content("/a", b"kept")
    with pytest.raises(PathInvalid):
        act(checked_driver, "/")
    assert content_of(checked_driver, "/a") == b"kept"


IN_OBJECT_STORES: dict[str, Callable[[BaseObjectStore, str], object]] = {
    "pages": lambda store, path: list(store.pages(path)),
    "stat_now": lambda store, path: store.stat_now(path),
    "stat_files": lambda store, path: store.stat_files(["/a", path]),
    "write_refusal": lambda store, path: store.write_refusal(path),
    "redirect_url": lambda store, path: store.redirect_url(path),
    "stat_unfinished": lambda store, path: store.stat_unfinished(path),
    "unfinished": lambda store, path: list(store.unfinished(path)),
}


@pytest.fixture(scope="module")
def store_out_of_reach() -> Iterator[BaseObjectStore]:
    """An object store whose requests would all fail, so that a refusal comes before them."""
    url = f"s3://bucket?regionendpoint=http://127.0.0.1:{free_port()}&region=us-east-1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        store = BaseObjectStore(S3Driver(S3Options.parse(url)))
    with closing(store):
        yield store


@pytest.mark.parametrize("act", IN_OBJECT_STORES.values(), ids=IN_OBJECT_STORES.keys())
def test_ill_formed_path_is_refused_in_an_object_store(
    store_out_of_reach: BaseObjectStore, act: Callable[[BaseObjectStore, str], object]
) -> None:
    for path in ILL_FORMED:
        with pytest.raises(PathInvalid):
            act(store_out_of_reach, path)


@pytest.mark.parametrize("name", ["stat_now", "stat_files", "write_refusal", "redirect_url"])
def test_root_is_no_path_of_an_object(store_out_of_reach: BaseObjectStore, name: str) -> None:
    with pytest.raises(PathInvalid):
        IN_OBJECT_STORES[name](store_out_of_reach, "/")


def test_refusal_of_a_long_path_is_short() -> None:
    with pytest.raises(PathInvalid) as caught:
        BaseDriver(InMemoryDriver()).stat("?" * 10_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("offset", [-1, -(2**70)])
def test_negative_offset_is_refused(checked_driver: StorageDriver, offset: int) -> None:
    checked_driver.put_content("/a", b"content")
    with pytest.raises(OffsetInvalid, match=str(offset)):
        checked_driver.read_at("/a", offset, 1)


def test_negative_offset_of_a_reader_is_refused(checked_driver: StorageDriver) -> None:
    checked_driver.put_content("/a", b"content")
    with checked_driver.open("/a") as reader, pytest.raises(OffsetInvalid):
        reader.read_at(-1, 1)


HIDDEN = ["a b", "é", "a:b", "a\nb", "\udc80"]


@pytest.fixture
def with_hostile_names(tmp_path: Path) -> BaseDriver:
    for name in HIDDEN:
        (tmp_path / "d" / name).mkdir(parents=True)
        (tmp_path / "d" / name / "file").touch()
    (tmp_path / "d" / "shown").touch()
    return BaseDriver(FilesystemDriver.below(tmp_path))


def test_listdir_hides_names_that_no_path_can_have(with_hostile_names: BaseDriver) -> None:
    assert [entry.name for entry in with_hostile_names.listdir("/d")] == ["shown"]


def test_walk_hides_names_that_no_path_can_have(with_hostile_names: BaseDriver) -> None:
    assert [info.path for info in walk(with_hostile_names, "/")] == ["/d", "/d/shown"]


def test_delete_takes_hidden_names_along(with_hostile_names: BaseDriver, tmp_path: Path) -> None:
    with_hostile_names.delete("/d")
    assert list(tmp_path.iterdir()) == []


def test_wrapper_is_named_for_what_it_wraps(tmp_path: Path) -> None:
    wrapped = [BaseDriver(InMemoryDriver()), BaseDriver(FilesystemDriver.below(tmp_path))]
    assert [driver.name for driver in wrapped] == ["inmemory", "filesystem"]


def test_wrapper_is_as_local_as_what_it_wraps(tmp_path: Path) -> None:
    inner = FilesystemDriver.below(tmp_path)
    assert BaseDriver(inner).is_local is inner.is_local
