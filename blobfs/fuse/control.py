"""The files of ``/.blobfs`` that tell of a mount. They do not wait for the storage.

The first read of ``health.json`` does, for a few seconds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Protocol

from prometheus_client import generate_latest

from blobfs import metrics
from blobfs.failures import RecentFailures
from blobfs.fuse import stats
from blobfs.fuse.readonly_operations import ReadOnlyOperations
from blobfs.fuse.requests import LongestStep
from blobfs.vfs.control import Report


class HealthSource(Protocol):
    """Tells whether what the mount depends on is well."""

    @property
    def is_unknown(self) -> bool:
        """Whether ``report`` may wait for the first answer."""

    def report(self) -> Mapping[str, object]:
        """The text of ``health.json``, as JSON has it."""


class NoHealth:
    """The source for a mount whose health nobody checks."""

    is_unknown = False

    def report(self) -> Mapping[str, object]:
        """Nothing."""
        return {}


def control_files(
    operations: Callable[[], ReadOnlyOperations],
    longest_step: LongestStep,
    config: Mapping[str, object],
    health: HealthSource,
) -> dict[str, Report]:
    """The files by name, each with its report; *config* is shown as it is."""
    began = time.time()
    program = version("blobfs")  # reads the disk
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
