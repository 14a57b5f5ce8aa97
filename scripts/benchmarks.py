"""Shared parts of the benchmarks: rows of medians, and mounts that are removed at the end."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
BLOBFS = (sys.executable, "-m", "blobfs")


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


@contextmanager
def mounted(storage: Path, at: Path, *options: str) -> Iterator[Path]:
    at.mkdir()
    subprocess.run([*BLOBFS, "mount", storage, at, *options], check=True, stdout=subprocess.DEVNULL)
    try:
        yield at
    finally:
        subprocess.run([*BLOBFS, "umount", at], check=True)


def drop(what: int) -> None:
    """Drop the kernel's caches: 1 pages, 2 names and inodes, 3 both."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text(f"{what}\n")


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


def machine() -> str:
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
        f" Python {platform.python_version()}"
    )


def resident_mib(mount: Path, field: str = "VmRSS") -> float:
    """Return the memory of the processes of *mount* in MiB; their maxima with ``VmHWM``."""
    texts = [(each / "status").read_text() for each in processes(mount)]
    return sum(int(text.split(f"{field}:")[1].split()[0]) for text in texts) / 1024


def processes(mount: Path) -> list[Path]:
    """Return the directories in ``/proc`` of the daemon of *mount* and of its children."""
    config = (mount / ".blobfs/config.json").read_text()
    daemon = Path("/proc", config.split('"pid":')[1].split(",")[0].strip())
    children = [file.read_text().split() for file in daemon.glob("task/*/children")]
    return [daemon, *(Path("/proc", child) for each in children for child in each)]


Part = Callable[[Path, int], Iterator[Row]]


def run_parts(description: str | None, parts: Sequence[Part], peers: str) -> None:
    """Read the command line, and print the rows of each part."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", choices=[part.__name__ for part in parts])
    options = parser.parse_args()
    print(f"{machine()}, {peers}")
    print(f"{'medians, seconds':44} {'ours':>9} {'peer':>9} {'peer/ours':>7}  {'asked':12} peer")
    with tempfile.TemporaryDirectory(prefix="blobfs-bench-", dir=options.work) as work:
        for part in parts:
            if options.only in {None, part.__name__}:
                place = Path(work) / part.__name__
                place.mkdir()
                for row in part(place, options.runs):
                    print(row.line(), flush=True)
