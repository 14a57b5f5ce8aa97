"""What ``/.blobfs`` tells of a mount; none of it asks the storage."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

from prometheus_client import generate_latest

from blobfs import metrics
from blobfs.failures import RecentFailures
from blobfs.fuse import stats
from blobfs.fuse.reading import Reading
from blobfs.fuse.requests import LongestStep


def control_files(
    operations: Callable[[], Reading],
    longest_step: LongestStep,
    config: Mapping[str, object],
    health: Callable[[], Mapping[str, object]],
) -> dict[str, Callable[[], str]]:
    """The files by name, each with what renders it; *config* and *health* are shown as they are."""
    began = time.time()
    failures = RecentFailures.of_this_program()

    def all_stats() -> str:
        return _json(
            {
                "uptime_s": round(time.time() - began, 3),
                "longest_step_s": round(longest_step.seconds, 6),
                **operations().counts(),
                **stats.document(),
            }
        )

    return {
        "version": lambda: version("blobfs") + "\n",
        "config.json": lambda: _json({"pid": os.getpid(), **config}),
        "stats.json": all_stats,
        "health.json": lambda: _json(health()),
        "requests.json": lambda: _json(operations().requests.in_flight()),
        "errors": failures.text,
        "metrics": lambda: generate_latest(metrics.REGISTRY).decode(),
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
