"""A directory with very many layers."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.support.layout import APP, plant_layers
from tests.support.mounts import MountedRegistry, eventually, mounted, run_anew

pytestmark = pytest.mark.fuse

MANY = 100_000
LOOKED_UP = 30_000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    """A mount of a repository with very many layers."""
    place = tmp_path_factory.mktemp("many")
    plant_layers(place / "storage", MANY)
    with mounted(place / "storage", place, start=run_anew) as mount:
        yield mount


def test_daemon_forgets_what_the_kernel_forgets(many: MountedRegistry) -> None:
    with os.scandir(many.path / APP / "_layers/sha256") as entries:
        assert all(entry.stat().st_size for entry in islice(entries, LOOKED_UP))
    assert many.control("stats.json")["inodes"] > LOOKED_UP

    def is_forgotten() -> bool:
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
        return bool(many.control("stats.json")["inodes"] < 100)

    eventually(is_forgotten, within_s=30)
    status = Path(f"/proc/{many.pid}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) < 95 * 1024  # it has been 80


@pytest.mark.alone
def test_very_many_are_listed_without_holding_the_event_loop(
    many: MountedRegistry, tmp_path: Path
) -> None:
    """The bound is 50 ms; the best of three mounts, as the machine has other things to do."""
    longest: list[float] = []
    while len(longest) < 3 and not any(seconds < 0.05 for seconds in longest):
        with mounted(many.storage, tmp_path) as mount:
            assert sum(1 for _ in os.scandir(mount.path / APP / "_layers/sha256")) == MANY
            longest.append(mount.control("stats.json")["longest_step_s"])
    assert min(longest) < 0.05
