"""Times reading through the mount, beside the storage itself and beside rclone.

Everything is measured in one run on one machine, the two sides in turn; the table gives
medians and their ratio. Needs root (to drop caches), 3 GiB of disk and about five minutes:

    .venv/bin/python scripts/bench_read.py [--runs 5] [--work DIRECTORY]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName

GIB = 2**30
BLOBFS = (sys.executable, "-m", "blobfs")
RCLONE = Path(sys.executable).with_name("rclone")


@dataclass(frozen=True)
class Row:
    """One measure: seconds (or MiB) of ours and of the peer, and the ratio that is asked for."""

    what: str
    ours: list[float]
    peer: list[float]
    peer_name: str
    bar: float  # the least that peer / ours must be; 0 where nothing is asked

    def line(self) -> str:
        ours, peer = statistics.median(self.ours), statistics.median(self.peer)
        ratio = peer / ours
        verdict = (
            "" if not self.bar else f"≥ {self.bar:g} {'ok' if ratio >= self.bar else 'MISSED'}"
        )
        return f"{self.what:44} {ours:9.3f} {peer:9.3f} {ratio:7.2f}  {verdict:12} {self.peer_name}"


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
def mounted(storage: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    subprocess.run([*BLOBFS, "mount", storage, at], check=True, stdout=subprocess.DEVNULL)
    try:
        yield at
    finally:
        subprocess.run([*BLOBFS, "umount", at], check=True)


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


def drop(what: int) -> None:
    """Drop the kernel's caches: 1 pages, 2 names and inodes, 3 both."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text(f"{what}\n")


def read_through(file: Path) -> float:
    buffer = bytearray(2**20)
    with file.open("rb", buffering=0) as stream:
        began = time.perf_counter()
        while stream.readinto(buffer):
            pass
        return time.perf_counter() - began


def command(*words: object) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    return run


def in_turn(
    runs: int, ours: Callable[[], float], peer: Callable[[], float], before: Callable[[], None]
) -> tuple[list[float], list[float]]:
    """Each side *runs* times, one after the other, after one round that is not counted."""
    rounds = []
    for _ in range(runs + 1):
        pair = []
        for side in (ours, peer):
            before()
            pair.append(side())
        rounds.append(pair)
    return [a for a, _ in rounds[1:]], [b for _, b in rounds[1:]]


def nothing() -> None:
    """Before a warm run."""


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
        config = (mount / ".blobfs/config.json").read_text()
        pid = config.split('"pid":')[1].split(",")[0].strip()
        command("find", mount, "-size", "+1G")()
        drop(2)
        status = Path(f"/proc/{pid}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
    yield Row("MiB held after 100,000 files, caches dropped", [resident], [150.0], "150 MiB", 1.0)
    shutil.rmtree(storage)


def versions() -> str:
    rclone = subprocess.run([RCLONE, "version"], capture_output=True, text=True, check=True)
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{os.cpu_count()} × {model}, Linux {platform.release()},"
        f" Python {platform.python_version()}, {rclone.stdout.splitlines()[0]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", choices=["big_reads", "listings", "walks", "memory"])
    options = parser.parse_args()
    print(versions())
    print(f"{'medians, seconds':44} {'ours':>9} {'peer':>9} {'peer/ours':>7}  {'asked':12} peer")
    with tempfile.TemporaryDirectory(prefix="blobfs-bench-", dir=options.work) as work:
        for part in (big_reads, listings, walks, memory):
            if options.only in {None, part.__name__}:
                place = Path(work) / part.__name__
                place.mkdir()
                for row in part(place, options.runs):
                    print(row.line(), flush=True)


if __name__ == "__main__":
    main()
