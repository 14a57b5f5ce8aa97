"""Loads one mount for minutes, kills programs at random, and looks whether anything is left over.

64 readers, 8 writers, a walker and a docker-registry with pushes and deletes work on one storage,
and every second one of them is killed. Afterwards the kernel's caches are dropped. Memory, threads,
descriptors, inodes and handles of the daemon must be back where a short load had left them. Needs
root, 2 GiB of disk, and what scripts/setup installs:

    .venv/bin/python scripts/soak.py [--minutes 20] [--work DIRECTORY]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import drop, mounted

sys.path.append(str(Path(__file__).parents[1]))  # for the tests' registry and images

from tests.support import images
from tests.support.services import DockerRegistry, ServiceFailed, delete_manifest, inspect, push

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

READERS: Final = 64
WRITERS: Final = 8
REPOSITORIES: Final = [f"soak/r{number}" for number in range(6)]
CONTENTS: Final = 40
"""Blobs that the writers put again and again, so that the storage stays small."""

MEMORY_SLACK: Final = 24 * 2**20
"""Bytes by which the resident memory may differ: the allocator keeps some."""

SETTLES_S: Final = 60.0
_FORK: Final = get_context("fork")


@dataclass(frozen=True)
class Footprint:
    """Resources of the daemon; *memory* is resident, in bytes."""

    memory: int
    threads: int
    descriptors: int
    inodes: int
    handles: int

    @classmethod
    def of(cls, mount: Path) -> Footprint:
        config = json.loads((mount / ".blobfs/config.json").read_text())
        stats = json.loads((mount / ".blobfs/stats.json").read_text())
        process = Path(f"/proc/{config['pid']}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return cls(
            int(status["VmRSS"].split()[0]) * 1024,
            int(status["Threads"]),
            len(list((process / "fd").iterdir())),
            int(stats["inodes"]),
            int(stats["open_files"]) + int(stats["open_directories"]),
        )

    def exceeds(self, base: Footprint) -> list[str]:
        """The resources of which more is in use than in *base*."""
        slack = {"memory": MEMORY_SLACK, "threads": 2, "descriptors": 4, "inodes": 8, "handles": 1}
        return [
            f"{name}: {getattr(base, name):,} before, {getattr(self, name):,} after"
            for name, more in slack.items()
            if getattr(self, name) > getattr(base, name) + more
        ]


def content(number: int) -> bytes:
    """A blob of 1 KiB to 4 MiB, the same for the same number."""
    chosen = random.Random(number)
    return chosen.randbytes(1024 << chosen.randrange(13))


def read(mount: Path, chosen: random.Random) -> None:
    """Read a random layer, all of it or some."""
    layers = mount / chosen.choice(REPOSITORIES) / "_layers/sha256"
    names = os.listdir(layers)
    if not names:
        return
    with (layers / chosen.choice(names)).open("rb") as file:
        if chosen.random() < 0.5:
            file.seek(chosen.randrange(2**20))
            file.read(chosen.randrange(1, 2**18))
        else:
            while file.read(2**18):
                pass


def write(mount: Path, chosen: random.Random) -> None:
    """Put a blob under its digest or without, leave one unfinished, cancel one, or remove one."""
    repository = mount / chosen.choice(REPOSITORIES)
    data = content(chosen.randrange(CONTENTS))
    digest = sha256(data).hexdigest()
    match chosen.randrange(5):
        case 0:
            (repository / "_uploads" / f"sha256:{digest}").write_bytes(data)
        case 1:
            (repository / "_uploads" / f"w{os.getpid()}").write_bytes(data)
        case 2:
            (repository / "_uploads" / f"sha256:{digest}").write_bytes(data[:-1])
        case 3:
            (repository / "_uploads" / f"sha256:{digest}").unlink()
        case _:
            (repository / "_layers/sha256" / digest).unlink()


def walk(mount: Path, _: random.Random) -> None:
    """List the whole tree with all attributes."""
    subprocess.run(
        ["find", mount, "-ls"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def use_registry(address: str, layout: Path) -> Callable[[Path, random.Random], None]:
    def act(_: Path, chosen: random.Random) -> None:
        name = chosen.choice(REPOSITORIES)
        if chosen.random() < 0.7:
            push(layout, address, name, "v1")
        else:
            delete_manifest(address, name, inspect(address, name, "v1").digest)

    return act


def again_and_again(act: Callable[[Path, random.Random], None], mount: Path) -> None:
    """Repeat *act*; what others remove, write or kill meanwhile makes some of it fail."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    chosen = random.Random()
    while True:
        try:
            act(mount, chosen)
        except (OSError, ServiceFailed, subprocess.SubprocessError):
            time.sleep(0.01)


def load(
    acts: Sequence[Callable[[Path, random.Random], None]], mount: Path, seconds: float
) -> None:
    """Run a process for each of *acts*; one a second is killed and started again."""
    processes = [_started(act, mount) for act in acts]
    began = time.monotonic()
    try:
        while (passed := time.monotonic() - began) < seconds:
            show(passed, seconds, mount)
            time.sleep(1.0)
            index = random.randrange(len(processes))
            _kill(processes[index])
            processes[index] = _started(acts[index], mount)
    finally:
        for process in processes:
            _kill(process)
        print(file=sys.stderr)


def _started(act: Callable[[Path, random.Random], None], mount: Path) -> ForkProcess:
    process = _FORK.Process(target=again_and_again, args=(act, mount))
    process.start()
    return process


def _kill(process: ForkProcess) -> None:
    process.kill()
    process.join()


def show(passed: float, seconds: float, mount: Path) -> None:
    found = Footprint.of(mount)
    print(
        f"\r{passed:5.0f} of {seconds:.0f} s: {found.memory >> 20} MiB, {found.threads} threads, "
        f"{found.descriptors} descriptors, {found.inodes} inodes, {found.handles} handles  ",
        end="",
        file=sys.stderr,
    )


def settled(mount: Path, base: Footprint | None) -> Footprint:
    """The footprint once the kernel has let go, and receipts and idle threads have ended."""
    deadline = time.monotonic() + SETTLES_S
    while True:
        drop(3)
        found = Footprint.of(mount)
        if found.handles == 0 and (base is None or not found.exceeds(base)):
            return found
        if time.monotonic() > deadline:
            return found
        time.sleep(1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--work", type=Path, help="a directory for the storage [a temporary one]")
    options = parser.parse_args()
    layout = images.small()
    with tempfile.TemporaryDirectory(dir=options.work) as place:
        work = Path(place)
        with DockerRegistry.serving(work / "storage") as registry:
            for name in REPOSITORIES:
                push(layout, registry.address, name, "v1")
            acts = [
                *[read] * READERS,
                *[write] * WRITERS,
                walk,
                use_registry(registry.address, layout),
            ]
            with mounted(
                registry.root, work / "mnt", "--allow-delete", "--receipt-ttl", "5",
                "--log-file", str(work / "log"),
            ) as mount:  # fmt: skip
                load(acts, mount, 30.0)
                base = settled(mount, None)
                load(acts, mount, 60 * options.minutes)
                after = settled(mount, base)
            errors = [line for line in (work / "log").read_text().splitlines() if " ERROR " in line]
    print(f"before {base}\nafter  {after}")
    failures = [*after.exceeds(base), *errors[:10]]
    print("\n".join(failures) or "nothing is left over")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
