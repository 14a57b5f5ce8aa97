"""Listing directories: large ones, changing ones, again and again."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from tests.support.layout import APP, Layout
from tests.support.mounts import MountedRegistry, eventually, mounted
from tests.support.services import run

pytestmark = pytest.mark.fuse

MANY = 100_000


def _plant(storage: Path, count: int) -> list[str]:
    """Store layers of one blob's size; a thousand each are hard links to one file of bytes."""
    layers, blobs = f"{storage}{paths.layers(APP)}/sha256", f"{storage}{paths.BLOBS}/sha256"
    os.makedirs(layers, exist_ok=True)
    for shard in range(256):
        os.makedirs(f"{blobs}/{shard:02x}", exist_ok=True)
    names, data = [], ""
    for number in range(count):
        digest = Digest.of(str(number).encode())
        link, blob = f"{layers}/{digest.encoded}", f"{storage}{paths.blob_data(digest)}"
        os.mkdir(link)
        with open(f"{link}/link", "wb", buffering=0) as file:
            file.write(str(digest).encode())
        os.mkdir(os.path.dirname(blob))
        if number % 1000 == 0:
            data = blob
            Path(data).write_text("bytes")
        else:
            os.link(data, blob)
        names.append(digest.encoded)
    return names


def test_directory_is_listed_as_it_was_when_it_was_opened(
    layout: Layout, storage: Path, mount: MountedRegistry
) -> None:
    """[S5.3] Each name that is there all the time is told once, whatever else comes or goes."""
    before = _plant(storage, 3000)
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
        "uploads.json",
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


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    """A mount of a repository with very many layers."""
    place = tmp_path_factory.mktemp("many")
    _plant(place / "storage", MANY)
    with mounted(place / "storage", place) as mount:
        yield mount


def test_daemon_forgets_what_the_kernel_forgets(many: MountedRegistry) -> None:
    assert sum(entry.stat().st_size for entry in os.scandir(many.path / APP / "_layers/sha256"))
    assert many.control("stats.json")["inodes"] > MANY

    def is_forgotten() -> bool:
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
        return bool(many.control("stats.json")["inodes"] < 100)

    eventually(is_forgotten, within_s=30)
    status = Path(f"/proc/{many.pid}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) < 170 * 1024  # it has been 159


@pytest.mark.alone
def test_very_many_are_listed_without_holding_the_event_loop(
    many: MountedRegistry, tmp_path: Path
) -> None:
    """The bound is 50 ms; the best of three mounts, as the machine has other things to do."""
    longest: list[float] = []
    while len(longest) < 3 and not any(seconds < 0.05 for seconds in longest):
        with mounted(many.storage, tmp_path) as mount:
            assert sum(1 for _ in os.scandir(mount.path / APP / "_layers/sha256")) == MANY
            longest.append(mount.control("stats.json")["longest_step_s"])
    assert min(longest) < 0.05
