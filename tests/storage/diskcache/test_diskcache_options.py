"""The cache's options, as a person gives them."""

from pathlib import Path

import pytest

from tests.support.mounts import run


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    (tmp_path / "storage/docker/registry/v2").mkdir(parents=True)
    (tmp_path / "mnt").mkdir()
    return tmp_path / "storage"


def test_local_storage_takes_no_cache(storage: Path, tmp_path: Path) -> None:
    done = run("mount", storage, tmp_path / "mnt", "--cache-dir", tmp_path / "cache")
    assert done.returncode == 1
    assert "--cache-dir is for s3 only" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_cache_in_the_mount_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    done = run("mount", "s3://bucket", tmp_path / "mnt", "--cache-dir", tmp_path / "mnt/cache")
    assert done.returncode == 1
    assert "is in the mount" in done.stderr


@pytest.mark.parametrize("size", ["10X", "G", "-1", "1.5G", ""])
def test_size_is_a_number_and_a_unit(storage: Path, tmp_path: Path, size: str) -> None:
    done = run("mount", storage, tmp_path / "mnt", "--cache-size", size)
    assert done.returncode == 2
    assert "is not a size such as 500M or 10G" in done.stderr
