"""The definitions of all exported metrics.

Code that counts imports this module, and never ``prometheus_client``. The counts belong to the
process, which serves one mount. docs/METRICS.md lists the metrics; a test compares it with this
file.
"""

from __future__ import annotations

import platform
from collections import Counter as Totals
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample


def samples(family: Metric) -> list[Sample]:
    """Return the samples of *family* without ``_created``, the start time of each series."""
    return [sample for sample in family.samples if not sample.name.endswith("_created")]


class _Registry(CollectorRegistry):
    def collect(self) -> Iterator[Metric]:
        for family in super().collect():
            family.samples = samples(family)
            yield family


REGISTRY: Final = _Registry()
"""A registry of our own, which exports only the metrics below."""

_FROM_10_US: Final = (
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip
_FROM_50_US: Final = (5e-5, 1e-4, 2.5e-4, 5e-4, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
_FROM_1_MS: Final = tuple(bound for bound in _FROM_10_US if bound >= 0.001)

FUSE_REQUESTS: Final = Counter(
    "blobfs_fuse_requests",
    "Answered requests of the kernel, by operation and errno (OK for none).",
    ["op", "errno"],
    registry=REGISTRY,
)
FUSE_SECONDS: Final = Histogram(
    "blobfs_fuse_seconds",
    "Duration of the kernel's requests, by operation.",
    ["op"],
    buckets=_FROM_10_US,
    registry=REGISTRY,
)
READ_BYTES: Final = Counter(
    "blobfs_read_bytes", "Bytes that programs have read.", registry=REGISTRY
)
WRITTEN_BYTES: Final = Counter(
    "blobfs_written_bytes", "Bytes that uploads have received.", registry=REGISTRY
)
OPEN_HANDLES: Final = Gauge(
    "blobfs_open_handles",
    "Open handles of programs, by kind: file, directory.",
    ["kind"],
    registry=REGISTRY,
)
INODES: Final = Gauge("blobfs_inodes", "Inodes that the kernel holds.", registry=REGISTRY)
UPLOADS: Final = Gauge(
    "blobfs_uploads",
    "Uploads that the mount keeps, by state: open, failed, committed (receipts).",
    ["state"],
    registry=REGISTRY,
)
SCANNER_THREADS: Final = Gauge(
    "blobfs_scanner_threads",
    "Threads that search for other descriptors of an upload; a lasting one hangs.",
    registry=REGISTRY,
)
EVENT_LOOP_LAG: Final = Histogram(
    "blobfs_event_loop_lag_seconds",
    "Duration of the steps that blocked the event loop for 1 ms or more.",
    buckets=_FROM_1_MS,
    registry=REGISTRY,
)
KERNEL_INVALIDATIONS: Final = Counter(
    "blobfs_kernel_invalidations",
    "Invalidations that were sent to the kernel, by kind.",
    ["kind"],
    registry=REGISTRY,
)
STORAGE_SECONDS: Final = Histogram(
    "blobfs_storage_action_seconds",
    "Duration of storage operations, by driver and action.",
    ["driver", "action"],
    buckets=_FROM_10_US,
    registry=REGISTRY,
)
LEFT_OVER_LINKS: Final = Counter(
    "blobfs_left_over_links",
    "Layer links that were hidden because a garbage collection has removed their blob.",
    registry=REGISTRY,
)
IMAGE_INDEXES: Final = Counter(
    "blobfs_image_indexes",
    "Uses of indexes by kind (layer, table, tree), and by result: found, built, failed.",
    ["kind", "result"],
    registry=REGISTRY,
)
IMAGE_INDEX_SECONDS: Final = Histogram(
    "blobfs_image_index_seconds",
    "Duration of the building of indexes, by kind.",
    ["kind"],
    buckets=(*_FROM_1_MS, 300),
    registry=REGISTRY,
)
IMAGE_INDEX_READ_BYTES: Final = Counter(
    "blobfs_image_index_read_bytes",
    "Bytes of layers that were read to build indexes.",
    registry=REGISTRY,
)
S3_REQUESTS: Final = Counter(
    "blobfs_s3_requests",
    "Requests to S3 with retries, by operation and HTTP status or error.",
    ["operation", "status"],
    registry=REGISTRY,
)
REDIS_SECONDS: Final = Histogram(
    "blobfs_cache_redis_seconds",
    "Duration of calls to the descriptor cache in Redis, by operation.",
    ["operation"],
    buckets=_FROM_50_US,
    registry=REGISTRY,
)
NOTIFICATIONS: Final = Counter(
    "blobfs_notifications_events",
    "Events by endpoint and type: Events (queued), Successes (accepted), Failures (other answers)"
    " and Errors (none), for each try, Dropped (for newer ones), Lost (not queued).",
    ["type", "endpoint"],
    registry=REGISTRY,
)

Info("blobfs_build", "Versions of blobfs and Python.", registry=REGISTRY).info(
    {"version": version("blobfs"), "python": platform.python_version()}
)
ProcessCollector(registry=REGISTRY)


class Children(dict[str, Callable[[float], None]]):
    """Cache of a metric's methods by label value; the call of ``labels`` takes 1 µs."""

    def __init__(self, find: Callable[[str], Callable[[float], None]]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, value: str) -> Callable[[float], None]:
        found = self[value] = self._find(value)
        return found


class Counting(Protocol):
    """An object that keeps counts."""

    def stats(self) -> Mapping[str, int]:
        """Return the counts by name."""


class StatsCollector(Collector):
    """Collector that reads the counts of the watched objects at each scrape.

    *counters* and *gauges* map the names of counts to help texts; the name of a metric is
    *prefix* and the name of the count. Counts of objects with the same labels are added.
    """

    def __init__(
        self,
        prefix: str,
        *,
        counters: Mapping[str, str],
        gauges: Mapping[str, str] | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        self._prefix = prefix
        self._counters = counters
        self._gauges = gauges or {}
        self._labels = labels
        self._watched: WeakKeyDictionary[Counting, tuple[str, ...]] = WeakKeyDictionary()
        REGISTRY.register(self)

    def watch(self, counting: Counting, *labels: str) -> None:
        """Export the counts of *counting* while it exists."""
        self._watched[counting] = labels

    def totals(self) -> dict[tuple[str, ...], Totals[str]]:
        """Return the counts by name, for each combination of labels."""
        totals: dict[tuple[str, ...], Totals[str]] = {}
        for counting, labels in list(self._watched.items()):
            totals.setdefault(labels, Totals()).update(counting.stats())
        return totals

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        totals = self.totals() or ({} if self._labels else {(): Totals[str]()})
        for kind, helps in (
            (CounterMetricFamily, self._counters),
            (GaugeMetricFamily, self._gauges),
        ):
            for name, text in helps.items():
                family = kind(f"{self._prefix}_{name}", text, labels=self._labels)
                for labels, counts in totals.items():
                    family.add_metric(labels, counts[name])
                yield family


CACHE: Final = StatsCollector(
    "blobfs_cache",
    counters={
        "requests": "Digests that were looked up in a descriptor cache.",
        "hits": "Lookups that found a descriptor.",
        "misses": "Lookups that found none, or failed.",
        "errors": "Calls that failed.",
        "skipped": "Calls that were not made because others had failed.",
    },
    labels=["cache"],
)
DISK_CACHE: Final = StatsCollector(
    "blobfs_disk_cache",
    counters={
        "hits": "Reads that the disk cache (--cache-dir) answered.",
        "misses": "Reads that the disk cache could not answer.",
        "damaged": "Entries that were removed because their bytes had changed.",
        "stored": "Blobs that were stored.",
        "mismatched": "Blobs that were not stored because they did not have their digest.",
        "evicted": "Blobs that were removed to free space.",
        "failures": "Failed accesses to the directory.",
    },
    gauges={"held_bytes": "Bytes in the disk cache, those of other mounts included."},
)
READ_AHEAD: Final = StatsCollector(
    "blobfs_readahead",
    counters={
        "hits": "Parts that were fetched before a program read them.",
        "waits": "Parts that a program had to wait for.",
        "requests": "Requests for parts.",
        "hedged": "Parts that were requested twice because the first answer was late.",
        "wasted_bytes": "Bytes that were fetched and never read.",
    },
    gauges={"held_bytes": "Bytes in memory or in transfer."},
)
IMAGE_SPANS: Final = StatsCollector(
    "blobfs_image_spans",
    counters={"decompressed": "Parts of layers that were decompressed for reads."},
)
NOTIFICATIONS_PENDING: Final = StatsCollector(
    "blobfs_notifications",
    counters={},
    gauges={"pending": "Events in the endpoint's queue, those of other mounts included."},
    labels=["endpoint"],
)
