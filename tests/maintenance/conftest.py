"""A registry in a directory, without and with a registry that serves it."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blobfs.cli import verify_command
from blobfs.drivers.factory import driver_for
from blobfs.inventory import scanning
from tests.support.layout import Layout


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture(autouse=True)
def _no_registry_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_command, "SETTLE_S", 0.0)


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    """Lays a registry out in the directory *tmp_path*."""
    with closing(driver_for(str(tmp_path))) as driver:
        yield Layout(driver)
    scanning.close_all()
