"""Drivers that keep within a rate. Times have lower bounds only, as the machine may be busy."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.factory import concrete_driver_for
from blobfs.drivers.location import Location
from blobfs.drivers.rate_limit import Pacer, RateLimits

MIB = 2**20


@contextmanager
def limited(root: Path, limits: RateLimits) -> Iterator[StorageDriver]:
    with closing(concrete_driver_for(replace(Location.of(str(root)), limits=limits))) as driver:
        yield driver


def seconds(call: Callable[[], object], times: int) -> float:
    began = time.monotonic()
    for _ in range(times):
        call()
    return time.monotonic() - began


def test_requests_are_spaced(tmp_path: Path) -> None:
    with limited(tmp_path, RateLimits(requests_per_s=101)) as driver:
        assert seconds(lambda: driver.stat("/"), 31) >= 0.29


def test_bytes_are_spaced(tmp_path: Path) -> None:
    with limited(tmp_path, RateLimits(bytes_per_s=30 * MIB)) as driver:
        driver.put_content("/file", bytes(3 * MIB))
        with driver.open("/file") as reader:
            assert seconds(lambda: list(reader.chunks(MIB)), 2) >= 0.25


def test_drivers_of_a_process_share_their_limits(tmp_path: Path) -> None:
    limits = RateLimits(requests_per_s=103)
    with limited(tmp_path, limits) as one, limited(tmp_path, limits) as other:
        assert seconds(lambda: (one.stat("/"), other.stat("/")), 15) >= 0.27


def test_first_call_does_not_wait() -> None:
    pacer = Pacer(1)
    assert seconds(lambda: pacer.wait(1000), 1) < 0.9


def test_no_limit_is_no_wait(tmp_path: Path) -> None:
    with limited(tmp_path, RateLimits(bytes_per_s=1)) as driver:
        assert seconds(lambda: driver.stat("/"), 50) < 40
