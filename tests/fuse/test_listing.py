"""Listing directories: changing ones, again and again."""

import ctypes
import os
from pathlib import Path

import pytest

from blobfs import paths
from tests.support.layout import APP, Layout, plant_layers
from tests.support.mounts import MountedRegistry
from tests.support.services import run

pytestmark = pytest.mark.fuse


def test_directory_is_listed_as_it_was_when_it_was_opened(
    layout: Layout, storage: Path, mount: MountedRegistry
) -> None:
    """[S5.3] Each name that is there all the time is told once, whatever else comes or goes."""
    before = plant_layers(storage, 3000)
    with os.scandir(mount.path / APP / "_layers/sha256") as entries:
        seen = [next(entries).name]
        for name in before[::3]:
            Path(f"{storage}{paths.layers(APP)}/sha256/{name}/link").unlink()
        layout.layer(b"new")
        seen += [entry.name for entry in entries]
    assert len(seen) == len(set(seen))
    assert set(before) - set(before[::3]) <= set(seen) <= set(before)


def test_rewinding_lists_anew(layout: Layout, mount: MountedRegistry) -> None:
    """[S5.3] A directory that is being listed is listed as it was when it was opened."""
    libc = ctypes.CDLL(None)
    libc.opendir.restype = ctypes.c_void_p
    for call in (libc.readdir64, libc.rewinddir, libc.closedir):
        call.argtypes = [ctypes.c_void_p]
    libc.readdir64.restype = ctypes.c_void_p

    def count(stream: int) -> int:
        return sum(1 for _ in iter(lambda: libc.readdir64(stream), None))

    layout.layer(b"one")
    stream = libc.opendir(os.fsencode(mount.path / APP / "_layers/sha256"))
    assert count(stream) == 3  # with . and ..
    layout.layer(b"two")
    libc.rewinddir(stream)
    assert count(stream) == 4
    libc.closedir(stream)


def test_dot_and_dot_dot_are_listed_with_their_numbers(
    layout: Layout, mount: MountedRegistry
) -> None:
    layout.layer(b"x")
    listed = run("ls", "-ai", mount.path / APP).split()
    numbers = dict(zip(map(os.fsdecode, listed[1::2]), map(int, listed[::2]), strict=True))
    assert numbers["."] == (mount.path / APP).stat().st_ino
    assert numbers[".."] == (mount.path / APP).parent.stat().st_ino


def test_control_files_are_found_but_not_listed(layout: Layout, mount: MountedRegistry) -> None:
    """[S1.5] `.blobfs` is found by name and never listed."""
    layout.layer(b"x")
    assert os.listdir(mount.path) == ["team"]
    control = {
        "version", "config.json", "stats.json", "metrics", "health.json", "requests.json", "errors",
        "uploads.json", "waiting.json",
    }  # fmt: skip
    assert set(os.listdir(mount.path / ".blobfs")) == control
    assert mount.control("config.json")["storage"] == str(mount.storage)
    assert mount.control("stats.json")["requests"]["lookup"]["count"] > 0


def test_empty_repository_has_its_directories(storage: Path, mount: MountedRegistry) -> None:
    """[S1.2] `_layers/sha256`, `_manifests/revisions/sha256`, `_manifests/tags` and
    `_manifests/history` are there even while they are empty.
    """
    Path(f"{storage}{paths.uploads(APP)}").mkdir(parents=True)
    repository = mount.path / APP
    found = {str(path.relative_to(repository)) for path in repository.rglob("*")}
    assert found == {
        "_layers", "_layers/sha256", "_uploads", "_manifests", "_manifests/revisions",
        "_manifests/revisions/sha256", "_manifests/tags", "_manifests/history",
        "_manifests/_uploads",
    }  # fmt: skip
