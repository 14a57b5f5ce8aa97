"""Directories for tests that write much and often."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.killing import MEMORY


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory that is synced at once."""
    with TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)
