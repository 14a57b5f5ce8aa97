"""Repositories that real programs copy from a mount into a mount of an object store."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.copying_programs import (
    PROGRAMS,
    copy,
    differences,
    make_registry,
    sent_files,
)
from tests.support.mounts import MountedRegistry, mounted

pytestmark = [pytest.mark.fuse, pytest.mark.s3, pytest.mark.backup]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mount of a registry in a directory."""
    place = tmp_path_factory.mktemp("source")
    make_registry(place / "storage")
    with mounted(place / "storage", place, "--read-only") as mount:
        yield mount.path


@pytest.fixture
def target(shared: MountedRegistry) -> Path:
    """A new directory of a test's own."""
    path = shared.path / f"to-{uuid.uuid4()}"
    path.mkdir()
    return path


def test_second_rsync_by_size_sends_nothing(source: Path, target: Path) -> None:
    """[S8.22] An object store keeps no times that are set; to set them succeeds and changes
    nothing. There a second `rsync -aH --size-only` sends nothing.
    """
    assert sent_files("-aH", f"{source}/", f"{target}/") > 0
    assert differences(source, target) == ""
    assert sent_files("-aH", "--size-only", f"{source}/", f"{target}/") == 0


@pytest.mark.long
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_copies_a_tree_of_repositories(
    source: Path, target: Path, tmp_path: Path, program: str
) -> None:
    """[S8.17] A file that a program makes in `_layers/<algorithm>/` is an upload (7), whose name
    declares the digest.
    """
    copy(program, source, target, tmp_path)
    assert differences(source, target) == ""
