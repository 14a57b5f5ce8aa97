"""What a person may type for a storage, and the driver that it gives."""

from pathlib import Path

import pytest

from blobfs.drivers.factory import driver_for
from blobfs.drivers.location import local_root
from blobfs.errors import MountRefused, PathNotFound


@pytest.mark.parametrize(
    ("storage", "root"),
    [
        ("/srv/registry", "/srv/registry"),
        ("/srv/a:b", "/srv/a:b"),
        ("/srv/50%20", "/srv/50%20"),
        ("file:///srv/registry", "/srv/registry"),
        ("file://localhost/srv/registry", "/srv/registry"),
        ("FILE:///srv/registry", "/srv/registry"),
        ("file:///srv/a%20b", "/srv/a b"),
        ("file:///srv/50%2520", "/srv/50%20"),
        ("file:/srv/registry", "/srv/registry"),
    ],
)
def test_absolute_directory_is_the_root(storage: str, root: str) -> None:
    assert local_root(storage) == Path(root)


@pytest.mark.parametrize(
    ("storage", "below"),
    [
        ("registry", "registry"),
        ("memory", "memory"),
        (".", "."),
        ("./a:b", "a:b"),
        ("../registry", "../registry"),
        (".hidden:x", ".hidden:x"),
    ],
)
def test_relative_directory_is_below_the_current_one(
    storage: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_root(storage) == tmp_path / below


@pytest.mark.parametrize("storage", ["memory:", "inmemory:", "memory://"])
def test_memory_has_no_directory(storage: str) -> None:
    assert local_root(storage) is None


@pytest.mark.parametrize(
    "storage",
    [
        "",
        "ftp://host/prefix",
        "http://localhost/srv",
        "file://elsewhere/srv",
        "file://",
        "file:///srv/registry#1",
        "file:///srv/registry?x=1",
        "file:///%00",
        "file://[::1",
        "file://[x]/srv",
        "/srv\0",
        ":",
        ":/srv",
        "c:\\registry",
        "registry:latest",
    ],
    ids=ascii,
)
def test_anything_else_is_refused(storage: str) -> None:
    with pytest.raises(MountRefused):
        local_root(storage)


def test_refusal_says_what_to_give() -> None:
    with pytest.raises(MountRefused, match=r"'ftp://host'.*a directory, s3://bucket/prefix"):
        local_root("ftp://host")


@pytest.mark.parametrize("storage", ["s3://", "S3://", "S3://key:secret@bucket"])
def test_bucket_is_never_taken_for_memory(storage: str) -> None:
    with pytest.raises(MountRefused):
        driver_for(storage)


def test_directory_gives_a_filesystem_driver(tmp_path: Path) -> None:
    driver = driver_for(str(tmp_path))
    driver.put_content("/a", b"content")
    driver.close()
    assert (driver.name, (tmp_path / "a").read_bytes()) == ("filesystem", b"content")


def test_memory_gives_an_inmemory_driver() -> None:
    driver = driver_for("memory:")
    assert (driver.name, driver.capacity()) == ("inmemory", None)


def test_each_memory_is_its_own() -> None:
    driver_for("memory:").put_content("/a", b"")
    assert list(driver_for("memory:").listdir("/")) == []


@pytest.mark.parametrize("name", ["missing", "file"])
def test_directory_that_is_not_there_is_not_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PathNotFound, match=name):
        driver_for(str(tmp_path / name))
