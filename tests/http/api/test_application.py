"""The pages: what they hold, in which form."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import trio
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.registry import Collector

from blobfs.concurrency import ThreadPool
from blobfs.errors import StorageUnavailable
from blobfs.fuse.activity import MountProbe
from blobfs.http import app
from blobfs.http.app import application
from blobfs.http.health import Check, Health
from blobfs.http.server import HttpServer, open_listener
from tests.support.http_client import Answer, get

READING: dict[str, object] = {
    "operation": "read",
    "path": "/team/app/_layers/sha256/x",
    "seconds": 12.5,
}


class _Requests:
    def __len__(self) -> int:
        return 1000

    def in_flight(self) -> list[dict[str, object]]:
        return [READING]


class Site:
    """The pages of a mount in which something is being read, and whose storage may fail."""

    def __init__(self) -> None:
        self.storage_fails = False
        self.listener = open_listener("0")
        self.port = self.listener.getsockname()[1]
        self._metrics = metrics = CollectorRegistry()
        Gauge("blobfs_things", "Things.", registry=metrics).set(3)
        health = Health({"storagedriver_s3": Check(self._ask, kept_s=0)})
        self.pages = application(metrics, health, MountProbe(_Requests()))

    def _ask(self) -> None:
        if self.storage_fails:
            raise StorageUnavailable("S3 is down")

    async def get(self, path: str, accept: str = "*/*") -> Answer:
        return await trio.to_thread.run_sync(
            lambda: get(self.port, path, accept=accept), abandon_on_cancel=True
        )

    def collect_slowly(self) -> _Slow:
        """Add metrics that take 5 ms, and return the time that they have taken."""
        slow = _Slow()
        self._metrics.register(slow)
        return slow


class _Slow(Collector):
    def __init__(self) -> None:
        self.used_s = 0.0

    def collect(self) -> list[Metric]:
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        self.used_s += 0.005
        return []


@pytest.fixture
async def site(nursery: trio.Nursery) -> AsyncIterator[Site]:
    site = Site()
    nursery.start_soon(_rest)
    with HttpServer(site.pages, site.listener).running():
        yield site


async def _rest() -> None:
    await trio.sleep_forever()


async def test_metrics_are_in_prometheus_form(site: Site) -> None:
    """[S17.1] `--http HOST:PORT` serves `/metrics`, `/healthz`, `/readyz` and `/debug/tasks` to
    whoever can connect.
    """
    answer = await site.get("/metrics")
    assert answer.media_type.startswith("text/plain; version=0.0.4")
    [family] = plain(answer.text)
    assert family.samples[0].value == 3


async def test_metrics_are_openmetrics_for_who_asks_for_that(site: Site) -> None:
    """[S17.1] `--http HOST:PORT` serves `/metrics`, `/healthz`, `/readyz` and `/debug/tasks` to
    whoever can connect.
    """
    answer = await site.get("/metrics", "application/openmetrics-text;version=1.0.0")
    assert answer.media_type.startswith("application/openmetrics-text; version=1.0.0")
    [family] = openmetrics(answer.text)  # type: ignore[no-untyped-call]
    assert family.name == "blobfs_things"


@pytest.mark.parametrize("accept", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("version", ["x.y", "1.", "1" * 5000])
async def test_metrics_are_plain_for_who_asks_for_no_version(
    site: Site, accept: str, version: str
) -> None:
    answer = await site.get("/metrics", f"{accept};version={version}")
    assert (answer.status, answer.media_type[:25]) == (200, "text/plain; version=0.0.4")


async def test_expensive_page_that_is_asked_for_alone_does_not_wait(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_PAUSES", 10**6)
    monkeypatch.setattr(app, "_MAX_PAUSE_S", 60.0)
    await site.get("/healthz")
    with trio.fail_after(1):
        await site.get("/metrics")


async def test_expensive_pages_use_a_tenth_of_the_time(site: Site, nursery: trio.Nursery) -> None:
    """[S17.6] Metrics and tasks take turns and use a tenth of the time."""
    costly = site.collect_slowly()

    async def ask_without_end() -> None:
        while True:
            await site.get("/metrics")

    began = trio.current_time()
    for _ in range(8):
        nursery.start_soon(ask_without_end)
    with trio.fail_after(10):
        while costly.used_s < 0.05:  # noqa: ASYNC110
            await trio.sleep(0.005)
    assert costly.used_s <= 0.1 * (trio.current_time() - began) + 0.02
    with trio.fail_after(0.2):
        assert (await site.get("/healthz")).status == 200
    nursery.cancel_scope.cancel()


async def test_mount_that_does_not_answer_is_not_alive(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S17.7] If the event loop of the mount does not answer for 5 s, it is 503."""
    monkeypatch.setattr(app, "_MOUNT_S", 0.1)
    port = site.port
    with ThreadPoolExecutor() as clients:
        asked = [clients.submit(get, port, path) for path in ("/healthz", "/debug/tasks")]
        answers = [answer.result(10) for answer in asked]  # which holds up the event loop
    assert [answer.status for answer in answers] == [503, 503]
    assert answers[0].json() == {"mount": "no answer for 0.1 s"}
    assert (await site.get("/healthz")).status == 200


async def test_alive_while_the_storage_fails(site: Site) -> None:
    """[S17.7] `/healthz` is 200 as long as the mount answers at all, whatever its storage does."""
    site.storage_fails = True
    assert (await site.get("/healthz")).status == 200


async def test_ready_is_an_empty_map(site: Site) -> None:
    """[S17.8] `/readyz` is 200 and `{}` if the storage answers."""
    answer = await site.get("/readyz")
    assert (answer.status, answer.json()) == (200, {})


async def test_not_ready_is_503_with_the_reason(site: Site) -> None:
    """[S17.8] Else 503 and what fails, with the reason."""
    site.storage_fails = True
    answer = await site.get("/readyz")
    assert (answer.status, answer.json()) == (503, {"storagedriver_s3": "S3 is down"})


async def test_tasks_are_text_for_people(site: Site) -> None:
    """[S17.10] Where the tasks and threads are that do something: as text."""
    answer = await site.get("/debug/tasks")
    assert answer.media_type.startswith("text/plain")
    assert answer.text.startswith("1000 requests in flight\n  operation=read path=/team/app/")
    assert "_rest" not in answer.text


async def test_what_is_idle_is_told_of_on_request(site: Site) -> None:
    """[S17.10] With `?all=1` the idle ones are there too."""
    with closing(ThreadPool("at-rest", 1)) as pool:
        pool.submit(int).result()
        everything = await site.get("/debug/tasks?all=1")
        under_way = await site.get("/debug/tasks")
    for idle in "_rest", "at-rest":
        assert idle in everything.text
        assert idle not in under_way.text


async def test_names_in_tasks_do_not_break_lines(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READING, "path", "/a\nb\x1b[1m")
    assert "path=/a\\nb\\x1b[1m" in (await site.get("/debug/tasks")).text


async def test_tasks_that_cannot_be_described_are_an_error_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: _Requests) -> list[dict[str, object]]:
        raise ValueError("a request that cannot be described")

    monkeypatch.setattr(_Requests, "in_flight", fail)
    assert (await site.get("/debug/tasks")).status == 500
    assert (await site.get("/healthz")).status == 200


async def test_tasks_are_json_for_programs(site: Site) -> None:
    """[S17.10] As JSON for who accepts that."""
    document = (await site.get("/debug/tasks?all=1", "application/json")).json()
    assert document["requests"] == [READING]
    assert any("_rest" in task["name"] for task in document["tasks"])
    assert any(thread["name"] == "MainThread" and thread["calls"] for thread in document["threads"])


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metricsx", "/v2/", "/../etc/passwd"])
async def test_whatever_else_is_not_there(site: Site, path: str) -> None:
    assert (await site.get(path)).status == 404
