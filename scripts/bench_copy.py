"""Times copies of registries between storages, beside ``rclone copy`` and ``skopeo sync``.

rclone copies the files of the storage, and does not sync them; blobfs verifies each blob, and its
files are durable. The server of the buckets is Ceph's, in memory, on loopback. All is measured in
one run on one machine, the sides in turn, each into a new place; the table gives medians. Needs
root, 16 GiB of disk, docker-registry, skopeo and about half an hour:

    .venv/bin/python scripts/bench_copy.py [--runs 3] [--only PART] [--work DIRECTORY]
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path

from bench_s3 import RCLONE, Store, served
from benchmarks import BLOBFS, Row, drop, in_turn, nothing, run_parts
from make_registry import Registry

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from tests.support.services import DockerRegistry  # noqa: E402  (needs the path)

_OCI = "application/vnd.oci.image"
_MIB = 2**20


class Images(Registry):
    """Writes images with contents of some sizes."""

    def content(self, content: bytes) -> tuple[str, int]:
        """Store a blob, and return its digits and its size."""
        digits = sha256(content).hexdigest()
        path = Path(self._root, "blobs/sha256", digits[:2], digits, "data")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return digits, len(content)

    def image(self, name: str, tag: str, *parts: tuple[str, int]) -> None:
        """Store the image of a config and layers, and link and tag it."""
        config, *layers = (
            {"mediaType": f"{_OCI}.layer.v1.tar", "digest": f"sha256:{digits}", "size": size}
            for digits, size in parts
        )
        document = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": config | {"mediaType": f"{_OCI}.config.v1+json"},
            "layers": layers,
        }
        digits, _ = self.content(json.dumps(document).encode())
        for layer, _ in parts:
            path = Path(self._root, f"repositories/{name}/_layers/sha256/{layer}/link")
            if not path.exists():
                self.link(f"{name}/_layers", layer)
        self.link(f"{name}/_manifests/revisions", digits)
        self.link(f"{name}/_manifests/tags/{tag}/index", digits)
        self.write(f"repositories/{name}/_manifests/tags/{tag}/current/link", f"sha256:{digits}")


def small_blobs(root: Path) -> Path:
    """20,000 blobs of 1 to 16 KiB, in 1,000 images of 200 repositories."""
    images, source = Images(root), random.Random(1)
    for repository in range(200):
        for tag in range(5):
            sizes = (source.randint(2**10, 2**14) for _ in range(20))
            parts = [images.content(source.randbytes(size)) for size in sizes]
            images.image(f"team{repository % 10}/app{repository}", f"v{tag}", *parts)
    return root


def large_blobs(root: Path) -> Path:
    """4 blobs of 1 GiB, each in an image."""
    images, source = Images(root), random.Random(2)
    for number in range(4):
        parts = (
            images.content(b"{}"),
            images.content(b"".join(source.randbytes(2**26) for _ in range(16))),
        )
        images.image(f"large{number}", "latest", *parts)
    return root


def sharing_images(root: Path) -> Path:
    """40 images of 8 layers of 1 MiB: each shares six layers with all, and one with five others."""
    images, source = Images(root), random.Random(3)
    bases = [images.content(source.randbytes(_MIB)) for _ in range(6)]
    middle = [images.content(source.randbytes(_MIB)) for _ in range(8)]
    for number in range(40):
        config = json.dumps({"architecture": "amd64", "os": "linux", "author": str(number),
                             "rootfs": {"type": "layers", "diff_ids": []}})  # fmt: skip
        own = images.content(source.randbytes(_MIB))
        parts = [images.content(config.encode()), *bases, middle[number % 8], own]
        images.image(f"team/app{number}", "latest", *parts)
    return root


def timed(command: Sequence[object], environment: dict[str, str] | None = None) -> float:
    """Run a command, and return its seconds."""
    began = time.perf_counter()
    words = [str(word) for word in command]
    subprocess.run(
        words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    return time.perf_counter() - began


def blobfs_copy(source: object, target: object, state: Path, *options: str) -> list[object]:
    """The command that copies a whole storage."""
    return [*BLOBFS, "cp", "--all", "--state-dir", state, *options, source, target]


def rclone_copy(source: object, target: object) -> list[object]:
    """The command that copies the files of a storage."""
    return [RCLONE, "copy", "--config", os.devnull, source, target]


def to_directories(place: Path, source: Path, runs: int) -> tuple[list[float], list[float]]:
    """Copy *source* to new directories."""
    number = count()

    def ours() -> float:
        return timed(blobfs_copy(source, place / f"{next(number)}", _state(place)))

    def theirs() -> float:
        return timed(rclone_copy(source, place / f"{next(number)}"))

    return in_turn(runs, ours, theirs, partial(drop, 2))


def to_buckets(
    place: Path, source: Path, store: Store, runs: int
) -> tuple[list[float], list[float]]:
    """Copy *source* to new prefixes of a bucket."""
    number = count()
    endpoint = store.environment["AWS_ENDPOINT_URL"]

    def ours() -> float:
        url = f"s3://{store.bucket}/{next(number)}?regionendpoint={endpoint}&forcepathstyle=true"
        return timed(blobfs_copy(source, url, _state(place)), store.environment)

    def theirs() -> float:
        remote = f":s3,provider=Ceph,env_auth=true,endpoint='{endpoint}':{store.bucket}"
        return timed(rclone_copy(source, f"{remote}/{next(number)}"), store.environment)

    return in_turn(runs, ours, theirs, nothing)


def _state(place: Path) -> Path:
    """A new state directory."""
    return Path(tempfile.mkdtemp(dir=place))


def small_directory(place: Path, runs: int) -> Iterator[Row]:
    source = small_blobs(place / "source")
    yield Row(
        "20,000 small blobs, directory → directory",
        *to_directories(place, source, runs),
        "rclone copy",
        2,
    )


def small_bucket(place: Path, runs: int) -> Iterator[Row]:
    source = small_blobs(place / "source")
    with served(place) as store:
        times = to_buckets(place, source, store, runs)
    yield Row("20,000 small blobs, directory → bucket", *times, "rclone copy", 2)


def large(place: Path, runs: int) -> Iterator[Row]:
    source = large_blobs(place / "source")
    times = to_directories(place, source, runs)
    yield Row("4 × 1 GiB, directory → directory", *times, "rclone copy", 1)


def large_bucket(place: Path, runs: int) -> Iterator[Row]:
    source = large_blobs(place / "source")
    with served(place) as store:
        times = to_buckets(place, source, store, runs)
    yield Row("4 × 1 GiB, directory → bucket", *times, "rclone copy", 1)


def images(place: Path, runs: int) -> Iterator[Row]:
    source = sharing_images(place / "source")
    number = count()

    def ours() -> float:
        return timed(blobfs_copy(source, place / f"{next(number)}", _state(place)))

    def theirs() -> float:
        with registry(source) as origin, registry(place / f"{next(number)}") as target:
            names = {f"team/app{number}": ["latest"] for number in range(40)}
            wanted = place / "images.yml"
            wanted.write_text(json.dumps({origin: {"tls-verify": False, "images": names}}))
            words = ["--src", "yaml", "--dest", "docker", "--dest-tls-verify=false"]
            return timed(["skopeo", "sync", *words, wanted, target])

    times = in_turn(runs, ours, theirs, nothing)
    yield Row("40 images that share layers", *times, "skopeo sync", 3)


@contextmanager
def registry(storage: Path) -> Iterator[str]:
    """Serve a storage by docker-registry, and yield its address."""
    with DockerRegistry.serving(storage) as served_registry:
        yield served_registry.address


def again(place: Path, runs: int) -> Iterator[Row]:
    source = small_blobs(place / "source")
    target, state, other = place / "target", _state(place), place / "other"
    timed(blobfs_copy(source, target, state))
    timed(rclone_copy(source, other))
    times = in_turn(
        runs,
        lambda: timed(blobfs_copy(source, target, state)),
        lambda: timed(rclone_copy(source, other)),
        nothing,
    )
    yield Row("the same again, with nothing to do", *times, "rclone copy", 0)


def memory(place: Path, runs: int) -> Iterator[Row]:
    source, target = place / "source", place / "target"
    links = ["--links", "1000000"]
    timed([sys.executable, PROJECT / "scripts/make_registry.py", source, *links])
    timed(blobfs_copy(source, target, _state(place)))
    kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    shutil.rmtree(target)
    yield Row("MiB of memory for 10⁶ links", [kib / 2**10], [300.0], "the limit", 1)


def main() -> None:
    rclone = subprocess.run([RCLONE, "version"], check=True, capture_output=True, text=True)
    skopeo = subprocess.run(["skopeo", "--version"], check=True, capture_output=True, text=True)
    peers = f"{rclone.stdout.splitlines()[0]}, {skopeo.stdout.strip()}"
    parts = (small_directory, small_bucket, large, large_bucket, images, again, memory)
    run_parts(__doc__, parts, peers)


if __name__ == "__main__":
    main()
