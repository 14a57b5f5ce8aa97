"""Times what a descriptor cache saves: a walk of Ceph with a warm Redis, and a lookup in each.

Ceph and Redis are on loopback; a proxy counts the requests, and with *delay* adds 30 ms to each.
Every walk is of a mount that was just made, by find -ls. Needs root, 8 GiB of memory and about 10
minutes:

    .venv/bin/python scripts/bench_cache.py [--runs 5] [--only PART]
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench_s3 import PROJECT, ROOT, Store, best, blobfs, key_of, served
from benchmarks import Row, run_parts

sys.path.append(str(PROJECT))  # for the tests' proxy and Redis

from blobfs.cache.memory import MemoryCache
from blobfs.cache.redis.cache import RedisCache
from blobfs.cache.redis.options import RedisOptions
from blobfs.digest import Descriptor, Digest
from blobfs.reference import RepositoryName
from tests.support.redis_server import RedisServer
from tests.support.s3_proxy import S3Proxy

if TYPE_CHECKING:
    from tests.support.s3_faults import Kind

BLOBS, REPOSITORIES, LAYERS = 20_000, 200, 50
PART = [f"bench/r{number:03}" for number in range(20)]
DELAY_S = 0.03
APP = RepositoryName("team/app")


@contextmanager
def redis(place: Path) -> Iterator[RedisServer]:
    place.mkdir()
    with RedisServer.serving(place) as server:
        yield server


def fill(store: Store) -> None:
    """Blobs of a large store, and repositories that link some of them."""
    chosen = random.Random(1)
    blobs = [(hashlib.sha256(b"%d" % n).hexdigest(), b"%d" % n) for n in range(BLOBS)]
    files = {key_of(encoded): content for encoded, content in blobs}
    for number in range(REPOSITORIES):
        for encoded, _ in chosen.sample(blobs, LAYERS):
            key = f"{ROOT}/repositories/bench/r{number:03}/_layers/sha256/{encoded}/link"
            files[key] = f"sha256:{encoded}".encode()
    client = store.client
    with ThreadPoolExecutor(16) as pool:
        puts = [
            pool.submit(client.put_object, Bucket=store.bucket, Key=key, Body=content)
            for key, content in files.items()
        ]
        for put in puts:
            put.result()


def walk(place: Path, runs: int) -> Iterator[Row]:
    """All repositories, and a tenth of them."""
    with served(place) as store, redis(place / "redis") as server:
        fill(store)
        with S3Proxy.before(store.environment["AWS_ENDPOINT_URL"]) as proxy:
            behind = store.behind(proxy.url)
            for names in ([""], PART):
                for delay_s in (0.0, DELAY_S):
                    proxy.delay_s = delay_s
                    yield _walks(_Walk(behind, proxy, place / "m", names), server, min(runs, 3))


class _Walk:
    """Walks *names* in a mount of its own, and counts what that takes."""

    def __init__(self, store: Store, proxy: S3Proxy, at: Path, names: list[str]) -> None:
        self._store, self._proxy, self._at, self._names = store, proxy, at, names
        self.counted: dict[str, Counter[Kind]] = {}

    @property
    def what(self) -> str:
        part = f"{len(self._names)} of {REPOSITORIES}" if self._names != [""] else "all"
        return f"find -ls of {part}, + {self._proxy.delay_s * 1000:.0f} ms"

    def __call__(self, cache: str) -> float:
        with blobfs(self._store, self._at, "--cache", cache) as mount:
            command = ["find", *(str(mount / name) for name in self._names), "-ls"]
            with self._proxy.counting() as counted:
                began = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                taken = time.perf_counter() - began
            self.counted[cache] = counted
        return taken


def _walks(walk: _Walk, server: RedisServer, runs: int) -> Row:
    with closing(server.client()) as client:
        client.flushall()
    walk(server.url)  # by which it is warm
    taken = best(runs, {cache: partial(walk, cache) for cache in (server.url, "none")})
    for cache, counted in walk.counted.items():
        told = ", ".join(f"{count} {kind.name}" for kind, count in sorted(counted.items()))
        print(f"    {walk.what}, {cache.partition(':')[0]}: {told}")
    return Row(walk.what, taken[server.url], taken["none"], "no cache", 5)


def lookup(place: Path, runs: int) -> Iterator[Row]:
    """A layer that is known, in microseconds."""
    contents = (b"%d" % number for number in range(100))
    blobs = {
        digest: Descriptor(digest, 7, mtime_ns=1_700_000_000_000_000_000)
        for digest in map(Digest.of, contents)
    }
    digests = list(blobs)
    memory = MemoryCache()
    memory.set_many(blobs, APP)
    again = Digest.of(b"0")  # equal, and made anew, as from a name
    one = [_taken(lambda: memory.stat(again, APP), 100_000) for _ in range(runs)]
    yield Row("memory: one, µs", [1e6 * seconds for seconds in one], [2.0], "asked", 1)
    with redis(place / "redis") as server:
        cache = RedisCache(RedisOptions.parse(server.url), 10)
        with closing(server.client()) as client, closing(cache):
            cache.set_many(blobs, APP)
            assert None not in cache.stat_many(digests, APP)
            trip = [_taken(client.ping, 1000) for _ in range(runs)]
            many = [_taken(lambda: cache.stat_many(digests, APP), 100) for _ in range(runs)]
    each = [1e4 * (a - b) for a, b in zip(many, trip, strict=True)]
    yield Row("Redis: each of 100 beyond the round trip, µs", each, [60.0], "asked", 1)


def _taken(call: Callable[[], object], times: int) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


if __name__ == "__main__":
    run_parts(__doc__, [walk, lookup], "Redis and Ceph")
