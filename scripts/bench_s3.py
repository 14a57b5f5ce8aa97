"""Times a registry in S3 through the mount, beside rclone, s3fs and boto3 alone.

The server is Ceph's, in memory, on loopback; with *delay* a proxy adds 30 ms to each request.
All is measured in one run on one machine, the sides in turn; the table gives medians. Needs root,
8 GiB of memory, s3fs and about 20 minutes:

    .venv/bin/python scripts/bench_s3.py [--runs 5] [--only PART]
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import boto3

from benchmarks import BLOBFS, GIB, Row, drop, resident_mib, run_parts

PROJECT = Path(__file__).resolve().parent.parent
RCLONE = Path(sys.executable).with_name("rclone")
ROOT = "docker/registry/v2"
MIB = 2**20
PART = 8 * MIB


@dataclass(frozen=True)
class Store:
    """A bucket on a server: *environment* has its endpoint and keys."""

    bucket: str
    environment: dict[str, str]

    @property
    def client(self) -> Any:  # noqa: ANN401  (boto3 makes its classes at run time)
        return boto3.Session(
            self.environment["AWS_ACCESS_KEY_ID"], self.environment["AWS_SECRET_ACCESS_KEY"]
        ).client("s3", endpoint_url=self.environment["AWS_ENDPOINT_URL"], region_name="us-east-1")

    def behind(self, endpoint: str) -> Store:
        return Store(self.bucket, {**self.environment, "AWS_ENDPOINT_URL": endpoint})

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)


@contextmanager
def served(place: Path) -> Iterator[Store]:
    script = PROJECT / "scripts/s3-server"
    printed = subprocess.run(
        [script, "start", place / "s3"], check=True, capture_output=True, text=True
    )
    try:
        words = dict(line.split("=", 1) for line in printed.stdout.splitlines() if "=" in line)
        store = Store("bench", {**os.environ, **words})
        store.client.create_bucket(Bucket=store.bucket)
        yield store
    finally:
        subprocess.run([script, "stop", place / "s3"], check=True)


@contextmanager
def delayed(store: Store, milliseconds: int) -> Iterator[Store]:
    upstream = store.environment["AWS_ENDPOINT_URL"]
    command = [sys.executable, "-m", "tests.support.s3_proxy", "--upstream", upstream]
    with subprocess.Popen(
        [*command, "--delay-ms", str(milliseconds)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as proxy:
        try:
            assert proxy.stdout is not None
            yield store.behind(proxy.stdout.readline().strip())
        finally:
            proxy.terminate()


Mounted = Callable[[Store, Path], Any]


@contextmanager
def blobfs(store: Store, at: Path, *options: str) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    command = [*BLOBFS, "mount", "--create", *options, f"s3://{store.bucket}", str(at)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=store.environment)
    try:
        yield at
    finally:
        subprocess.run([*BLOBFS, "umount", at], check=True)


@contextmanager
def rclone(store: Store, at: Path, *options: str) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    remote = f":s3,provider=Ceph,env_auth=true,endpoint='{store.environment['AWS_ENDPOINT_URL']}':"
    command = [
        str(RCLONE),
        "mount",
        f"{remote}{store.bucket}",
        str(at),
        "--daemon",
        "--config",
        "/dev/null",
    ]
    subprocess.run(
        [*command, *options], check=True, env=store.environment, stderr=subprocess.DEVNULL
    )
    try:
        yield at
    finally:
        subprocess.run(["fusermount3", "-u", at], check=True)


@contextmanager
def s3fs(store: Store, at: Path, *options: str) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    endpoint = store.environment["AWS_ENDPOINT_URL"]
    environment = {
        **store.environment,
        "AWSACCESSKEYID": store.environment["AWS_ACCESS_KEY_ID"],
        "AWSSECRETACCESSKEY": store.environment["AWS_SECRET_ACCESS_KEY"],
    }
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del environment[name]
    words = [f"url={endpoint}", "use_path_request_style", *options]
    command = ["s3fs", store.bucket, str(at), *(part for word in words for part in ("-o", word))]
    subprocess.run(command, check=True, env=environment)
    try:
        yield at
    finally:
        subprocess.run(["fusermount3", "-u", at], check=True)


STREAMING: dict[str, Mounted] = {
    "rclone": rclone,
    "rclone, 16 streams": partial(
        lambda options, store, at: rclone(store, at, *options),
        ("--vfs-read-chunk-size=4M", "--vfs-read-chunk-streams=16", "--buffer-size=32M"),
    ),
    "s3fs": s3fs,
    "s3fs, 20 parallel": partial(
        lambda options, store, at: s3fs(store, at, *options),
        ("parallel_count=20", "multireq_max=100", "multipart_size=8", "max_stat_cache_size=100000"),
    ),
}
"""Peers, each by default and as its documentation advises for streaming."""


def blob(size: int, seed: int) -> tuple[str, bytes]:
    source = random.Random(seed)
    pieces = [min(64 * MIB, size - offset) for offset in range(0, size, 64 * MIB)]
    content = b"".join(map(source.randbytes, pieces))
    return hashlib.sha256(content).hexdigest(), content


def key_of(encoded: str) -> str:
    return f"{ROOT}/blobs/sha256/{encoded[:2]}/{encoded}/data"


def link(store: Store, repository: str, encoded: str) -> None:
    key = f"{ROOT}/repositories/{repository}/_layers/sha256/{encoded}/link"
    store.put(key, f"sha256:{encoded}".encode())


def stored(store: Store, size: int, seed: int) -> str:
    encoded, content = blob(size, seed)
    store.client.upload_fileobj(_Reader(content), store.bucket, key_of(encoded))
    link(store, "bench/big", encoded)
    return encoded


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content, self._at = memoryview(content), 0

    def read(self, size: int = -1) -> bytes:
        end = len(self._content) if size < 0 else self._at + size
        piece = bytes(self._content[self._at : end])
        self._at += len(piece)
        return piece


def in_mount(encoded: str) -> str:
    return f"bench/big/_layers/sha256/{encoded}"


def cat(file: Path) -> float:
    drop(1)
    began = time.perf_counter()
    subprocess.run(["dd", f"if={file}", "of=/dev/null", "bs=1M", "status=none"], check=True)
    return time.perf_counter() - began


def cat_all(files: list[Path]) -> float:
    drop(1)
    began = time.perf_counter()
    readers = [
        subprocess.Popen(["dd", f"if={f}", "of=/dev/null", "bs=1M", "status=none"]) for f in files
    ]
    ended = [reader.wait() for reader in readers]
    assert not any(ended)
    return time.perf_counter() - began


def fresh(mount: Mounted, store: Store, at: Path, measure: Callable[[Path], float]) -> float:
    """One measurement in a mount of its own, so that nothing is left of the last."""
    with mount(store, at) as mounted:
        return measure(mounted)


def by_boto3(store: Store, encoded: str, streams: int, part: int) -> float:
    """Reading a blob by boto3 alone: one stream, or ranged requests side by side."""
    client, key = store.client, key_of(encoded)
    size = client.head_object(Bucket=store.bucket, Key=key)["ContentLength"]

    def read(offset: int) -> int:
        wanted = f"bytes={offset}-{min(offset + part, size) - 1}"
        return len(client.get_object(Bucket=store.bucket, Key=key, Range=wanted)["Body"].read())

    began = time.perf_counter()
    if streams == 1:
        body = client.get_object(Bucket=store.bucket, Key=key)["Body"]
        while body.read(MIB):
            pass
    else:
        with ThreadPoolExecutor(streams) as pool:
            assert sum(pool.map(read, range(0, size, part))) == size
    return time.perf_counter() - began


BY_BOTO3 = {
    "boto3, one stream": partial(by_boto3, streams=1, part=GIB),
    "boto3, 4 streams of 8 MiB": partial(by_boto3, streams=4, part=PART),
    "boto3, 8 streams of 16 MiB": partial(by_boto3, streams=8, part=2 * PART),
}

Sides = dict[str, Callable[[], float]]


def best(runs: int, sides: Sides) -> dict[str, list[float]]:
    """Each side *runs* times in turn, after a round that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(runs + 1):
        for name, side in sides.items():
            seconds = side()
            if round_:
                taken[name].append(seconds)
    return taken


def rows(what: str, taken: dict[str, list[float]], bars: dict[str, float]) -> Iterator[Row]:
    """Ours beside each peer; *bars* gives what is asked of those whose names begin so."""
    ours = taken.pop("blobfs")
    for name, seconds in taken.items():
        bar = next((bar for start, bar in bars.items() if name.startswith(start)), 0.0)
        yield Row(what, ours, seconds, name, bar)


PEERS_2X = {"boto3": 0.7, "rclone": 2.0, "s3fs": 2.0}


def sequential(place: Path, runs: int) -> Iterator[Row]:
    with served(place) as store:
        encoded = stored(store, GIB, 1)
        at = place / "m"
        sides: Sides = {
            "blobfs": lambda: fresh(blobfs, store, at, lambda m: cat(m / in_mount(encoded))),
            "blobfs --verify none": lambda: fresh(
                lambda s, m: blobfs(s, m, "--verify", "none"),
                store,
                at,
                lambda m: cat(m / in_mount(encoded)),
            ),
        }
        sides |= {
            name: partial(fresh, mount, store, at, lambda m: cat(m / key_of(encoded)))
            for name, mount in STREAMING.items()
        }
        sides |= {name: partial(read, store, encoded) for name, read in BY_BOTO3.items()}
        yield from rows("first read of 1 GiB", best(runs, sides), PEERS_2X)


def slow(place: Path, runs: int) -> Iterator[Row]:
    with served(place) as near, delayed(near, 30) as store:
        encoded = stored(near, GIB, 1)
        at = place / "m"
        sides: Sides = {
            "blobfs": lambda: fresh(blobfs, store, at, lambda m: cat(m / in_mount(encoded))),
            "boto3, 16 streams of 8 MiB": lambda: by_boto3(store, encoded, 16, PART),
        }
        yield from rows("1 GiB, 30 ms away", best(runs, sides), {"boto3": 0.8})


def readers(place: Path, runs: int) -> Iterator[Row]:
    with served(place) as near, delayed(near, 30) as far:
        blobs = [stored(near, 256 * MIB, seed) for seed in range(4)]
        at = place / "m"
        for where, store in (("", near), (", 30 ms away", far)):
            sides: Sides = {
                "blobfs": lambda store=store: fresh(  # type: ignore[misc]
                    blobfs, store, at, lambda m: cat_all([m / in_mount(b) for b in blobs])
                ),
                "one after another": lambda store=store: fresh(  # type: ignore[misc]
                    blobfs, store, at, lambda m: sum(cat(m / in_mount(b)) for b in blobs)
                ),
            }
            yield from rows(f"4 readers at once{where}", best(runs, sides), {"one": 1.5})


def first_byte(place: Path, runs: int) -> Iterator[Row]:
    def through(mount: Path, encoded: str) -> float:
        file = mount / in_mount(encoded)
        file.stat()
        drop(1)
        began = time.perf_counter()
        with file.open("rb", buffering=0) as opened:
            opened.read(1)
        return time.perf_counter() - began

    def plain(store: Store, encoded: str) -> float:
        client = store.client
        client.list_buckets()  # so that it is connected
        began = time.perf_counter()
        client.get_object(Bucket=store.bucket, Key=key_of(encoded))["Body"].read(1)
        return time.perf_counter() - began

    with served(place) as near, delayed(near, 30) as far:
        encoded = stored(near, 256 * MIB, 1)
        at = place / "m"
        for where, store in (("", near), (", 30 ms away", far)):
            sides: Sides = {
                "blobfs": partial(fresh, blobfs, store, at, partial(through, encoded=encoded)),
                "a GET by boto3": partial(plain, store, encoded),
            }
            yield from rows(f"first byte{where}", best(2 * runs, sides), {"a GET": 1 / 1.2})


def scattered(place: Path, runs: int) -> Iterator[Row]:
    """500 reads of 128 KiB, here and there."""
    source = random.Random(5)
    places = [source.randrange(0, GIB, 128 * 1024) for _ in range(500)]

    def read(file: Path) -> float:
        drop(1)
        began = time.perf_counter()
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for offset in places:
            assert len(os.pread(descriptor, 128 * 1024, offset)) == 128 * 1024
        os.close(descriptor)
        return time.perf_counter() - began

    with served(place) as store:
        encoded = stored(store, GIB, 1)
        at = place / "m"
        sides: Sides = {
            "blobfs": lambda: fresh(blobfs, store, at, lambda m: read(m / in_mount(encoded)))
        }
        sides |= {
            name: partial(fresh, mount, store, at, lambda m: read(m / key_of(encoded)))
            for name, mount in STREAMING.items()
        }
        yield from rows("500 random reads of 128 KiB", best(runs, sides), {"rclone": 1, "s3fs": 1})


def upload(place: Path, runs: int) -> Iterator[Row]:
    """1 GiB by cp, until it is in the bucket."""
    source = place / "source"
    encoded, content = blob(GIB, 9)
    source.write_bytes(content)
    del content

    def copy(to: Path) -> float:
        began = time.perf_counter()
        subprocess.run(["cp", source, to], check=True)
        with to.open("rb") as written:
            os.fsync(written.fileno())
        return time.perf_counter() - began

    def ours(mount: Path) -> float:
        (mount / "bench/up").mkdir(parents=True)
        return copy(mount / f"bench/up/_uploads/sha256:{encoded}")

    def theirs(mount: Mounted, store: Store, at: Path) -> float:
        began = time.perf_counter()
        with mount(store, at) as mounted:
            copy(mounted / "copied")
            while True:  # rclone closes before it has uploaded
                try:
                    store.client.head_object(Bucket=store.bucket, Key="copied")
                    return time.perf_counter() - began
                except store.client.exceptions.ClientError:
                    time.sleep(0.05)

    with served(place) as store:
        at = place / "m"

        def emptied(side: Callable[[], float]) -> float:
            for found in store.client.list_objects_v2(Bucket=store.bucket).get("Contents", []):
                store.client.delete_object(Bucket=store.bucket, Key=found["Key"])
            time.sleep(20)  # until the server has let go of what was deleted: it is in memory
            return side()

        sides: Sides = {"blobfs": lambda: emptied(lambda: fresh(blobfs, store, at, ours))}
        sides |= {
            name: partial(emptied, partial(theirs, mount, store, at))
            for name, mount in UPLOADING.items()
        }
        yield from rows("1 GiB by cp", best(runs, sides), {"rclone": 1, "s3fs": 1})


UPLOADING: dict[str, Mounted] = {
    "rclone": rclone,
    "rclone, write cache": partial(
        lambda options, store, at: rclone(store, at, *options),
        ("--vfs-cache-mode=writes", "--vfs-write-back=0", "--s3-upload-concurrency=16"),
    ),
    "s3fs": s3fs,
    "s3fs, 20 parallel": STREAMING["s3fs, 20 parallel"],
}


def walk(place: Path, runs: int) -> Iterator[Row]:
    """200 repositories of 50 layers; the peers walk the raw bucket."""
    blobs = [blob(100, seed) for seed in range(5000)]
    chosen = random.Random(3)

    def find(mount: Path) -> float:
        began = time.perf_counter()
        subprocess.run(["find", mount, "-ls"], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    with served(place) as store, ThreadPoolExecutor(16) as pool:
        client = store.client
        jobs = [(key_of(encoded), content) for encoded, content in blobs]
        for r in range(200):
            for encoded, _ in chosen.sample(blobs, 50):
                key = f"{ROOT}/repositories/bench/r{r:03}/_layers/sha256/{encoded}/link"
                jobs.append((key, f"sha256:{encoded}".encode()))
        list(
            pool.map(
                lambda job: client.put_object(Bucket=store.bucket, Key=job[0], Body=job[1]), jobs
            )
        )
        at = place / "m"
        sides: Sides = {"blobfs": lambda: fresh(blobfs, store, at, find)}
        sides |= {
            name: partial(fresh, mount, store, at, lambda m: find(m / ROOT))
            for name, mount in {"rclone": rclone, "s3fs": s3fs}.items()
        }
        yield from rows("find -ls", best(min(runs, 3), sides), {"rclone": 5, "s3fs": 5})


def memory(place: Path, runs: int) -> Iterator[Row]:
    with served(place) as store, ExitStack() as stack:
        encoded = [stored(store, 512 * MIB, seed) for seed in range(3)]
        mount = stack.enter_context(blobfs(store, place / "m", "--read-memory", "128"))
        cat_all([mount / in_mount(one) for one in encoded])
        yield Row(
            "MiB held at most, of 128 + 128", [resident_mib(mount, "VmHWM")], [256.0], "asked", 1
        )
        del runs


if __name__ == "__main__":
    parts = [sequential, slow, readers, first_byte, scattered, upload, walk, memory]
    versions = f"rclone, s3fs{' (missing)' if shutil.which('s3fs') is None else ''}"
    run_parts(__doc__, parts, versions)
