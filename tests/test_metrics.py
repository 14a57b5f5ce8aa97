"""The metrics that a mount exports, and their table in METRICS.md."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from blobfs import metrics
from blobfs.fuse.stats import Timing, timings

METRICS = Path(__file__).parents[1] / "blobfs" / "docs" / "METRICS.md"


def exported(text: str) -> dict[str, Metric]:
    """The metrics that an exposition has, by the name that METRICS.md gives them."""
    families = text_string_to_metric_families(text)
    return {f"{f.name}_total" if f.type == "counter" else f.name: f for f in families}


def documented() -> dict[str, set[str]]:
    """The labels of each metric of METRICS.md's table."""
    _, table, _ = re.split("<!-- /?metrics -->", METRICS.read_text())
    found = re.findall(r"`((?:blobfs|process)_\w+)(?:\{([\w,]+)\})?`", table)
    return {name: set(labels.split(",")) - {""} for name, labels in found}


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """A registry that has nothing but what the test puts into it."""
    registry = CollectorRegistry()
    monkeypatch.setattr(metrics, "REGISTRY", registry)
    return registry


class Cups:
    """Somebody who counts."""

    def __init__(self, tea: int) -> None:
        self.tea = tea

    def stats(self) -> dict[str, int]:
        return {"tea": self.tea, "left": 2}


def told() -> metrics.StatsCollector:
    return metrics.StatsCollector(
        "cups", counters={"tea": "Drunk."}, gauges={"left": "Left."}, labels=["at"]
    )


def _samples(registry: CollectorRegistry) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def test_table_has_every_metric_and_no_other() -> None:
    assert exported(generate_latest(metrics.REGISTRY).decode()).keys() == documented().keys()


def test_counts_of_several_are_added_up_by_label(own: CollectorRegistry) -> None:
    cups = told()
    here, there, everywhere = Cups(1), Cups(2), Cups(4)
    for counting, place in ((here, "home"), (there, "work"), (everywhere, "home")):
        cups.watch(counting, place)
    assert list(_samples(own)) == [
        ("cups_tea_total", {"at": "home"}, 5),
        ("cups_tea_total", {"at": "work"}, 2),
        ("cups_left", {"at": "home"}, 4),
        ("cups_left", {"at": "work"}, 2),
    ]


def test_one_that_is_gone_counts_no_more(own: CollectorRegistry) -> None:
    cups = told()
    here = Cups(1)
    cups.watch(here, "home")
    assert list(_samples(own))
    del here
    assert not list(_samples(own))


def _timing(*seconds: float) -> Timing:
    histogram = Histogram("h", "h", buckets=(0.1, 1, 10), registry=CollectorRegistry())
    for value in seconds:
        histogram.observe(value)
    return timings(histogram)[()]


@pytest.mark.parametrize(
    ("seconds", "share", "quantile"),
    [
        ([], 0.5, 0.0),
        ([0.05] * 4, 0.5, 0.05),
        ([0.05] * 2 + [5.0] * 2, 0.5, 0.1),
        ([0.05] * 98 + [5.0] * 2, 0.99, 5.5),
        ([0.5] * 4, 1.0, 1.0),
        ([100.0], 0.99, 10.0),
    ],
)
def test_quantile_lies_within_the_bounds_of_its_bucket(
    seconds: list[float], share: float, quantile: float
) -> None:
    assert _timing(*seconds).quantile(share) == pytest.approx(quantile)
