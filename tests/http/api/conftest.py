"""A registry in a directory, which the tests serve."""

from pathlib import Path

import pytest

from blobfs.drivers.filesystem import FilesystemDriver
from tests.support.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Lays a registry out in the directory *tmp_path*."""
    return Layout(FilesystemDriver.below(tmp_path))
