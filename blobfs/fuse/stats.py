"""The files of ``/.blobfs`` that describe a mount, and its metrics as one document.

The files do not wait for the storage, except the first read of ``health.json``, for a few seconds.
Times are in seconds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from typing import Protocol

from prometheus_client import Counter, Histogram, generate_latest
from prometheus_client.samples import Sample

from blobfs import metrics
from blobfs.failures import RecentFailures
from blobfs.fuse.readonly_operations import ReadOnlyOperations
from blobfs.fuse.requests import LongestStep
from blobfs.vfs.control import Report

_Json = dict[str, object]


@dataclass(slots=True)
class Timing:
    """One series of a histogram; *buckets* are pairs of upper bound and cumulative count."""

    count: int = 0
    seconds: float = 0.0
    buckets: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])

    def quantile(self, share: float) -> float:
        """Return the quantile *share*, by linear interpolation within the bucket.

        Beyond the last bound it is the last bound.
        """
        wanted = share * self.count
        for (lower, below), (upper, so_far) in pairwise(self.buckets):
            if so_far >= wanted and so_far > below:
                if upper == float("inf"):
                    return lower
                return lower + (upper - lower) * (wanted - below) / (so_far - below)
        return 0.0

    def as_json(self) -> _Json:
        """Return ``count``, the sum in ``seconds``, ``p50`` and ``p99``."""
        return {
            "count": self.count,
            "seconds": round(self.seconds, 6),
            "p50": round(self.quantile(0.5), 6),
            "p99": round(self.quantile(0.99), 6),
        }


def timings(histogram: Histogram) -> dict[tuple[str, ...], Timing]:
    """Return the series of *histogram* by their labels."""
    found: dict[tuple[str, ...], Timing] = {}
    for sample in _samples(histogram):
        labels = tuple(value for name, value in sample.labels.items() if name != "le")
        timing = found.setdefault(labels, Timing())
        if sample.name.endswith("_bucket"):
            timing.buckets.append((float(sample.labels["le"]), int(sample.value)))
        elif sample.name.endswith("_count"):
            timing.count = int(sample.value)
        elif sample.name.endswith("_sum"):
            timing.seconds = sample.value
    return dict(sorted(found.items()))


def document() -> _Json:
    """Return all metrics of the program."""
    return {
        "read_bytes": _total(metrics.READ_BYTES),
        "written_bytes": _total(metrics.WRITTEN_BYTES),
        "requests": requests(),
        "storage": _storage(),
        "cache": {cache: counts for (cache,), counts in metrics.CACHE.totals().items()},
        "disk_cache": metrics.DISK_CACHE.totals().get((), {}),
        "readahead": metrics.READ_AHEAD.totals().get((), {}),
    }


def requests() -> dict[str, _Json]:
    """Return the kernel's requests by operation, with their ``errors`` by errno."""
    errors: dict[str, dict[str, int]] = {}
    for sample in _samples(metrics.FUSE_REQUESTS):
        if sample.labels["errno"] != "OK":
            operation = errors.setdefault(sample.labels["op"], {})
            operation[sample.labels["errno"]] = int(sample.value)
    return {
        operation: timing.as_json() | {"errors": errors.get(operation, {})}
        for (operation,), timing in timings(metrics.FUSE_SECONDS).items()
    }


def _storage() -> dict[str, dict[str, _Json]]:
    """Return the calls of the storage, by driver and action."""
    found: dict[str, dict[str, _Json]] = {}
    for (driver, action), timing in timings(metrics.STORAGE_SECONDS).items():
        found.setdefault(driver, {})[action] = timing.as_json()
    return found


def _total(counter: Counter) -> int:
    return sum(int(sample.value) for sample in _samples(counter))


def _samples(metric: Counter | Histogram) -> Iterator[Sample]:
    return (sample for family in metric.collect() for sample in metrics.samples(family))


class HealthSource(Protocol):
    """Health checks of the services that a mount depends on."""

    @property
    def is_unknown(self) -> bool:
        """True if ``report`` may wait for the first reply."""

    def report(self) -> Mapping[str, object]:
        """Return the content of ``health.json``."""


class NoHealth:
    """The source for a mount without health checks."""

    is_unknown = False

    def report(self) -> Mapping[str, object]:
        """Return an empty document."""
        return {}


def control_files(
    operations: Callable[[], ReadOnlyOperations],
    longest_step: LongestStep,
    config: Mapping[str, object],
    health: HealthSource,
) -> dict[str, Report]:
    """Return the files by name, each with its report; *config* is shown unchanged."""
    began = time.time()
    program = version("blobfs")  # reads the disk
    failures = RecentFailures.of_this_program()

    def all_stats() -> str:
        return _json(
            {
                "uptime_s": round(time.time() - began, 3),
                "longest_step_s": round(longest_step.seconds, 6),
                **operations().counts(),
                **document(),
            }
        )

    return {
        "version": Report(lambda: f"{program}\n"),
        "config.json": Report(lambda: _json({"pid": os.getpid(), **config})),
        "stats.json": Report(all_stats),
        "health.json": Report(lambda: _json(health.report()), lambda: health.is_unknown),
        "requests.json": Report(lambda: _json(operations().requests.in_flight())),
        "errors": Report(failures.text),
        "metrics": Report(lambda: generate_latest(metrics.REGISTRY).decode()),
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
