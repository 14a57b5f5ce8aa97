"""Health checks: what they tell, and that one that hangs is nobody else's trouble."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
import trio

from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import StorageUnavailable
from blobfs.http.health import POLL_S, Check, Health
from blobfs.storage.registry import Registry


class Storage:
    """Something that is asked, counts it, and may be down, or hang until it is told to go on."""

    def __init__(self) -> None:
        self.asked = 0
        self.reason = ""
        self.goes_on = Event()
        self.goes_on.set()

    def ask(self) -> None:
        self.asked += 1
        self.goes_on.wait(20)
        if self.reason:
            raise StorageUnavailable(self.reason)


@pytest.fixture
def storage() -> Iterator[Storage]:
    storage = Storage()
    yield storage
    storage.goes_on.set()


def _health(storage: Storage, *, limit_s: float = 5.0, kept_s: float = 0.0) -> Health:
    return Health({"storage": Check(storage.ask, limit_s=limit_s, kept_s=kept_s)})


async def _failures(health: Health) -> dict[str, str]:
    """The checks that fail, once all have ended or are late."""
    health.begin()
    await trio.lowlevel.checkpoint()
    while health.is_awaited:  # noqa: ASYNC110
        await trio.sleep(POLL_S)
    return health.failures()


async def test_well_is_no_failures(storage: Storage) -> None:
    """[S17.8] `/readyz` is 200 and `{}` if the storage answers."""
    assert await _failures(_health(storage)) == {}


async def test_failure_has_its_reason_until_it_is_over(storage: Storage) -> None:
    """[S17.8] Else 503 and what fails, with the reason."""
    health = _health(storage)
    storage.reason = "no route to S3"
    assert await _failures(health) == {"storage": "no route to S3"}
    storage.reason = ""
    assert await _failures(health) == {}


async def test_bug_in_a_check_is_logged_and_tells_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    health = Health({"storage": Check(lambda: 1 // 0)})
    assert await _failures(health) == {"storage": "unexpected error, see the log"}
    assert "ZeroDivisionError" in caplog.text


async def test_answer_is_kept_for_a_while(storage: Storage) -> None:
    """[S17.8] An answer is good for 1 s."""
    health = _health(storage, kept_s=60)
    for _ in range(3):
        await _failures(health)
    assert storage.asked == 1


async def test_storage_that_hangs_is_asked_once_and_waited_for_once(storage: Storage) -> None:
    """[S17.8] A storage that hangs is asked once."""
    health = _health(storage, limit_s=0.1)
    storage.goes_on.clear()
    assert "no answer" in (await _failures(health))["storage"]
    with trio.fail_after(0.05):
        assert "no answer" in (await _failures(health))["storage"]
    assert storage.asked == 1


async def test_many_wait_for_one_answer(storage: Storage, nursery: trio.Nursery) -> None:
    """[S17.8] A storage that hangs is asked once."""
    health = _health(storage)
    storage.goes_on.clear()
    for _ in range(10):
        nursery.start_soon(_failures, health)
    await trio.testing.wait_all_tasks_blocked(0.005)
    storage.goes_on.set()
    assert await _failures(health) == {}
    assert storage.asked <= 2


async def test_storage_that_hung_is_well_again_once_it_answers(storage: Storage) -> None:
    """[S17.8] `/readyz` is 200 and `{}` if the storage answers."""
    health = _health(storage, limit_s=0.05)
    storage.goes_on.clear()
    assert await _failures(health)
    storage.goes_on.set()
    with trio.fail_after(5):
        while await _failures(health):
            pass


async def test_snapshot_tells_what_is_known_and_waits_for_nothing(storage: Storage) -> None:
    """[S17.9] `.blobfs/health.json` has what was last found out about that."""
    health = _health(storage)
    storage.goes_on.clear()
    unknown = {"status": "unknown", "failures": {}, "seconds_ago": {"storage": None}}
    assert health.snapshot() == unknown
    storage.reason = "down"
    storage.goes_on.set()
    await _failures(health)
    snapshot = health.snapshot()
    assert snapshot["status"] == "failing"
    assert snapshot["failures"] == {"storage": "down"}


async def test_reading_a_snapshot_has_the_storage_asked_anew(storage: Storage) -> None:
    """[S17.9] To read it has it asked anew."""
    health = _health(storage)
    storage.reason = "down"
    with trio.fail_after(5):
        while health.snapshot()["status"] == "unknown":
            await trio.lowlevel.checkpoint()
    assert health.snapshot()["status"] == "failing"


def test_first_report_waits_for_the_first_answer(storage: Storage) -> None:
    """[S17.9] The first read waits for the answer, 5 s at the most."""
    health = _health(storage)
    storage.reason = "down"
    assert health.is_unknown
    assert health.report()["status"] == "failing"
    assert not health.is_unknown


def test_first_report_waits_no_longer_than_an_answer_may_take(storage: Storage) -> None:
    """[S17.9] The first read waits for the answer, 5 s at the most."""
    health = _health(storage, limit_s=0.05)
    storage.goes_on.clear()
    assert health.report()["status"] == "failing"
    assert not health.is_unknown, "so the next one does not wait"


def test_file_of_the_registry_s_configuration_makes_the_mount_unready(tmp_path: Path) -> None:
    """[S17.15] `/readyz` also fails while a file of `health.file` in the registry's configuration
    file exists.
    """
    file = tmp_path / "drain"
    with Registry(BaseDriver(InMemoryDriver())) as registry:
        assert Health.of_storage(registry, [str(file)]).report()["status"] == "ok"
        file.touch()
        failures = Health.of_storage(registry, [str(file)]).report()["failures"]
    assert failures == {str(file): "file exists"}


async def test_storage_is_called_as_a_registry_calls_it() -> None:
    """[S17.8] As a registry says it."""
    with Registry(BaseDriver(InMemoryDriver())) as registry:
        health = Health.of_storage(registry)
        assert await _failures(health) == {}
        assert health.snapshot()["seconds_ago"].keys() == {"storagedriver_inmemory"}  # type: ignore[attr-defined]
