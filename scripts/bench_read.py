"""Times reading through the mount, beside the storage itself and beside rclone.

Everything is measured in one run on one machine, the two sides in turn; the table gives
medians and their ratio. Needs root (to drop caches), 3 GiB of disk and about five minutes:

    .venv/bin/python scripts/bench_read.py [--runs 5] [--work DIRECTORY]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import (
    GIB,
    Row,
    command,
    drop,
    in_turn,
    mounted,
    nothing,
    resident_mib,
    run_parts,
)
from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName

RCLONE = Path(sys.executable).with_name("rclone")


def put(root: Path, path: str, content: bytes) -> None:
    file = Path(f"{root}{path}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def fill(root: Path, repositories: int, layers: int) -> None:
    """A registry of distinct small layers, as many in each repository."""
    for r in range(repositories):
        name = RepositoryName(f"bench/r{r:04}")
        for layer in range(layers):
            content = f"{r}/{layer}".encode()
            link(root, name, Digest.of(content), content)


def link(root: Path, name: RepositoryName, digest: Digest, content: bytes) -> None:
    put(root, paths.blob_data(digest), content)
    put(root, paths.link(paths.layers(name), digest), str(digest).encode())


def big_blob(root: Path) -> tuple[Path, str]:
    """A registry with one blob of 1 GiB: its file, and its path in a mount."""
    name = RepositoryName("bench/big")
    chunk = os.urandom(2**20)
    staged = root / "staged"
    root.mkdir()
    with staged.open("wb") as file:
        for i in range(GIB // len(chunk)):
            file.write(i.to_bytes(8, "big") + chunk[8:])
    with staged.open("rb") as file:
        digest = Digest.of_chunks(iter(lambda: file.read(2**20), b""))
    link(root, name, digest, b"")
    data = Path(f"{root}{paths.blob_data(digest)}")
    staged.replace(data)
    return data, f"{name}/_layers/sha256/{digest.encoded}"


@contextmanager
def rclone_mounted(storage: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    command: list[str | Path] = [
        RCLONE,
        "mount",
        storage,
        at,
        "--read-only",
        "--config",
        "/dev/null",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while not at.is_mount():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("rclone did not mount")
                time.sleep(0.05)
            yield at
        finally:
            subprocess.run(["umount", at], check=True)


def read_through(file: Path) -> float:
    buffer = bytearray(2**20)
    with file.open("rb", buffering=0) as stream:
        began = time.perf_counter()
        while stream.readinto(buffer):
            pass
        return time.perf_counter() - began


def big_reads(work: Path, runs: int) -> Iterator[Row]:
    storage = work / "big"
    data, path = big_blob(storage)
    with ExitStack() as stack:
        mount = stack.enter_context(mounted(storage, work / "mnt"))
        peer = stack.enter_context(rclone_mounted(storage, work / "rclone"))
        blob, raw = mount / path, peer / data.relative_to(storage)
        sides = in_turn(
            runs, lambda: read_through(blob), lambda: read_through(raw), lambda: drop(3)
        )
        yield Row("first read of 1 GiB, caches dropped", *sides, "rclone mount", 2.0)
        drop(3)
        read_through(blob)
        read_through(data)
        sides = in_turn(runs, lambda: read_through(blob), lambda: read_through(data), nothing)
        yield Row("second read of 1 GiB", *sides, "the file in the storage", 0.8)
        sides = in_turn(runs, command("cat", blob), command("cat", data), nothing)
        yield Row("second read of 1 GiB, by cat", *sides, "the file in the storage", 0.8)
    shutil.rmtree(storage)


def listings(work: Path, runs: int) -> Iterator[Row]:
    storage = work / "ten-thousand"
    fill(storage, 1, 10_000)
    layers = "bench/r0000/_layers/sha256"
    raw = Path(f"{storage}{paths.layers(RepositoryName('bench/r0000'))}/sha256")
    with mounted(storage, work / "mnt") as mount:
        ours = command("ls", "-l", mount / layers)
        lsl = command(RCLONE, "lsl", "--config", "/dev/null", storage)
        yield Row(
            "ls -l of 10,000 layers, caches dropped",
            *in_turn(runs, ours, lsl, lambda: drop(3)),
            "rclone lsl of the same storage",
            1.0,
        )
        sides = in_turn(runs, ours, command("ls", "-l", raw), nothing)
        yield Row("ls -l of 10,000 layers, warm", *sides, "ls -l of the storage", 0.5)
    shutil.rmtree(storage)


def walks(work: Path, runs: int) -> Iterator[Row]:
    storage = work / "thousand"
    fill(storage, 1000, 20)
    with ExitStack() as stack:
        mount = stack.enter_context(mounted(storage, work / "mnt"))
        peer = stack.enter_context(rclone_mounted(storage, work / "rclone"))
        ours, theirs = command("find", mount), command("find", peer)
        sides = in_turn(runs, ours, theirs, lambda: drop(3))
        yield Row("find over 1,000 × 20, caches dropped", *sides, "find in rclone mount", 0)
        sides = in_turn(runs, ours, command("find", storage), nothing)
        yield Row("find over 1,000 × 20, warm", *sides, "find in the storage", 0)
    shutil.rmtree(storage)


def memory(work: Path, _runs: int) -> Iterator[Row]:
    storage = work / "hundred-thousand"
    fill(storage, 10, 10_000)
    with mounted(storage, work / "mnt") as mount:
        command("find", mount, "-size", "+1G")()
        drop(2)
        resident = resident_mib(mount)
    yield Row("MiB held after 100,000 files, caches dropped", [resident], [150.0], "150 MiB", 1.0)
    shutil.rmtree(storage)


def rclone_version() -> str:
    shown = subprocess.run([RCLONE, "version"], capture_output=True, text=True, check=True)
    return shown.stdout.splitlines()[0]


if __name__ == "__main__":
    run_parts(__doc__, (big_reads, listings, walks, memory), rclone_version())
