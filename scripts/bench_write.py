"""Times writing through the mount, beside the same work by hand and by a docker-registry.

Everything is measured in one run on one machine and one disk, the sides in turn; the table
gives medians and their ratio. Needs root, docker-registry, curl, 6 GiB of disk and ten minutes:

    .venv/bin/python scripts/bench_write.py [--runs 5] [--work DIRECTORY]
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from benchmarks import GIB, Row, in_turn, mounted, resident_mib, run_parts

SMALL = 1000
SMALL_SIZE = 16 * 1024


@contextmanager
def registry(storage: Path) -> Iterator[str]:
    """A docker-registry on *storage*, and its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    address = f"127.0.0.1:{port}"
    storage.mkdir()
    config = storage.with_name("registry.yml")
    config.write_text(
        json.dumps(
            {
                "version": 0.1,
                "log": {"level": "error", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(storage)}},
                "http": {"addr": address},
            }
        )
    )
    with subprocess.Popen(["docker-registry", "serve", config]) as process:
        try:
            deadline = time.monotonic() + 20
            while not is_ready(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("docker-registry does not answer")
                time.sleep(0.05)
            yield address
        finally:
            process.terminate()


def is_ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def begin_upload(connection: http.client.HTTPConnection, repository: str) -> str:
    """Start an upload; returns the path for its bytes, relative to the registry."""
    connection.request("POST", f"/v2/{repository}/blobs/uploads/")
    response = connection.getresponse()
    response.read()
    location = response.headers["Location"]
    return "/" + location.split("/", 3)[3] if "://" in location else location


def push_each(address: str, repository: str, contents: list[bytes]) -> None:
    """Push blobs one after the other over one connection, as fast as HTTP lets us."""
    connection = http.client.HTTPConnection(address)
    for content in contents:
        digest = hashlib.sha256(content).hexdigest()
        location = begin_upload(connection, repository)
        headers = {"Content-Type": "application/octet-stream"}
        connection.request("PUT", f"{location}&digest=sha256:{digest}", content, headers)
        response = connection.getresponse()
        response.read()
        if response.status != http.client.CREATED:
            raise SystemExit(f"docker-registry answered {response.status}")
    connection.close()


def timed(*steps: Callable[[], object]) -> float:
    began = time.perf_counter()
    for step in steps:
        step()
    return time.perf_counter() - began


def run(*words: str | Path) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def big_file(path: Path) -> str:
    """1 GiB of noise; its digest."""
    hasher, chunk = hashlib.sha256(), os.urandom(2**20)
    with path.open("wb") as file:
        for i in range(GIB // len(chunk)):
            block = i.to_bytes(8, "big") + chunk[8:]
            file.write(block)
            hasher.update(block)
    return hasher.hexdigest()


def forget(storage: Path) -> None:
    """Take away all blobs, so that the next upload stores its own.

    Their directories stay: a mount takes a storage without them for one that is not mounted.
    """
    for name in ("blobs", "repositories"):
        for path in (storage / "docker/registry/v2" / name).glob("*"):
            shutil.rmtree(path)
    os.sync()


def one_gib(work: Path, runs: int) -> Iterator[Row]:
    source = work / "source"
    digest = big_file(source)
    copy, ours, theirs = work / "copy", work / "ours", work / "theirs"
    ours.mkdir()
    with mounted(ours, work / "mnt", "--create") as mount, registry(theirs) as address:
        numbers = count()

        def through_the_mount() -> float:
            repository = mount / f"bench{next(numbers)}"
            repository.mkdir()
            return timed(lambda: run("cp", source, repository / f"_uploads/sha256:{digest}"))

        def by_hand() -> float:
            return timed(
                lambda: run("cp", source, copy), lambda: run("sha256sum", copy), lambda: run("sync")
            )

        def by_http() -> float:
            connection = http.client.HTTPConnection(address)
            location = begin_upload(connection, f"bench{next(numbers)}")
            url = f"http://{address}{location}&digest=sha256:{digest}"
            put = ("curl", "--silent", "--show-error", "--fail", "--upload-file", source, url)
            return timed(lambda: run(*put))

        def before() -> None:
            copy.unlink(missing_ok=True)
            forget(ours)
            forget(theirs)

        sides = in_turn(runs, through_the_mount, by_hand, before)
        yield Row("1 GiB by cp", *sides, "cp, sha256sum, sync", 0.5)
        resident = resident_mib(mount, "VmHWM")
        sides = in_turn(runs, through_the_mount, by_http, before)
        yield Row("1 GiB by cp", *sides, "curl to docker-registry", 1.0)
        yield Row("MiB held at most meanwhile", [resident], [150.0], "150 MiB", 1.0)


def many_small(work: Path, runs: int) -> Iterator[Row]:
    ours, theirs, sources = work / "ours", work / "theirs", work / "sources"
    ours.mkdir()
    with mounted(ours, work / "mnt", "--create") as mount, registry(theirs) as address:
        numbers = count()
        contents: list[bytes] = []

        def before() -> None:
            shutil.rmtree(sources, ignore_errors=True)
            sources.mkdir()
            contents[:] = [os.urandom(SMALL_SIZE) for _ in range(SMALL)]
            for content in contents:
                (sources / f"sha256:{hashlib.sha256(content).hexdigest()}").write_bytes(content)
            os.sync()

        def through_the_mount() -> float:
            repository = mount / f"bench{next(numbers)}"
            repository.mkdir()
            files = sorted(sources.iterdir())
            return timed(lambda: run("cp", *files, repository / "_uploads/"))

        def by_http() -> float:
            return timed(lambda: push_each(address, f"bench{next(numbers)}", contents))

        sides = in_turn(runs, through_the_mount, by_http, before)
        yield Row(f"{SMALL:,} files of 16 KiB by one cp", *sides, "HTTP to docker-registry", 1.0)


if __name__ == "__main__":
    run_parts(__doc__, (one_gib, many_small), "docker-registry of Debian")
