"""Many programs write through one mount, and a registry beside it into the same storage."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import images, upload_stream
from tests.support.mounts import MountedRegistry, mounted
from tests.support.services import DockerRegistry, cannot, push
from tests.support.upload_promises import Promises, check_promises, check_storage, check_uploads
from tests.support.upload_stream import MIB
from tests.support.writers import state

pytestmark = pytest.mark.fuse

WRITERS = 8

MEMORY = 200 * MIB
"""What the daemon may hold at most; 8 small uploads have 1 MiB each, and Python its own."""


def _most_memory(pid: int) -> int:
    """The most bytes that a process has held so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class Writer(threading.Thread):
    """A program that uploads to repositories of its own, and who listens to what it says."""

    def __init__(self, mount: Path, number: int) -> None:
        super().__init__()
        self.promises = Promises()
        repositories = [f"writer{number}/app", f"writer{number}/web"]
        self._program = subprocess.Popen(
            [sys.executable, upload_stream.__file__, mount, str(number), *repositories],
            stdout=subprocess.PIPE,
        )
        self.start()

    def run(self) -> None:
        assert self._program.stdout is not None
        with self._program.stdout as reports:
            for line in reports:
                self.promises.handle(json.loads(line))

    def stop(self) -> bool:
        """End it where it is; whether it was still at it."""
        went_on = self._program.poll() is None
        self._program.kill()
        self._program.wait()
        self.join()
        return went_on


@contextmanager
def _pushing(registry: DockerRegistry) -> Iterator[list[str]]:
    """Push images meanwhile; the repositories that have got theirs."""
    pushed: list[str] = []
    enough = threading.Event()

    def go_on() -> None:
        while not enough.is_set():
            name = f"pushed/app{len(pushed)}"
            push(images.small(), registry.address, name, "v1")
            pushed.append(name)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield pushed
    finally:
        enough.set()
        thread.join()


@pytest.mark.registry
@pytest.mark.parametrize("for_s", [8, pytest.param(60, marks=pytest.mark.long)])
def test_eight_writers_and_a_registry_get_what_they_were_promised(
    tmp_path: Path, for_s: int
) -> None:
    """[S7.1] A close that returns 0 to whoever has the last descriptor means: verified, durable,
    linked.
    """
    storage = tmp_path / "storage"
    images.small()
    with (
        DockerRegistry.serving(storage) as registry,
        mounted(storage, tmp_path, "--create") as mount,
    ):
        with _pushing(registry) as pushed:
            writers = [Writer(mount.path, number) for number in range(1, WRITERS + 1)]
            enough = time.monotonic() + for_s
            writers[0].join(enough - time.monotonic())
            ended = [writer for writer in writers if not writer.stop()]
            assert not ended
        assert _most_memory(mount.pid) < MEMORY
        check_storage(storage, Promises())
        for writer in writers:
            assert writer.promises.layers
            check_promises(mount.path, writer.promises)
            check_uploads(mount.path, storage, writer.promises)
        assert pushed
        for name in pushed:
            assert (mount.path / name / "_manifests/tags/v1").resolve(strict=True).is_file()


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory, with room for more than the largest upload."""
    place = Path("/dev/shm/blobfs-concurrent-writers")
    if not place.parent.is_dir() or shutil.disk_usage(place.parent).free < 4096 * MIB:
        cannot("no room in /dev/shm")
    place.mkdir()
    yield place
    shutil.rmtree(place)


def _uploaded(mount: MountedRegistry, size: int, source: Path) -> None:
    with source.open("wb") as file:
        file.truncate(size)
    upload = mount.path / "team/_uploads" / str(size)
    subprocess.run(["cp", "--sparse=never", source, upload], check=True)
    assert state(upload) == "committed"


@pytest.mark.parametrize("mib", [128, pytest.param(1536, marks=pytest.mark.long)])
def test_memory_does_not_grow_with_the_size_of_an_upload(
    memory: Path, tmp_path: Path, mib: int
) -> None:
    with mounted(memory, tmp_path, "--create") as mount:
        (mount.path / "team").mkdir()
        _uploaded(mount, 32 * MIB, tmp_path / "source")
        before = _most_memory(mount.pid)
        _uploaded(mount, mib * MIB, tmp_path / "source")
        assert _most_memory(mount.pid) - before < 8 * MIB
