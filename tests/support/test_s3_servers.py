"""The script that starts and stops Ceph."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.s3_servers import S3Server, serving_ceph
from tests.support.services import ServiceFailed, run

pytestmark = pytest.mark.s3


def test_stopped_ceph_leaves_no_process_and_no_directory(ceph: S3Server, tmp_path: Path) -> None:
    directory = tmp_path / "server"
    with serving_ceph(directory) as second:
        assert second.endpoint != ceph.endpoint
        assert len(_processes_of(directory)) == 3
    assert _processes_of(directory) == []
    assert not directory.exists()
    with closing(ceph.client()) as client:
        client.list_buckets()


def test_ceph_that_can_not_start_says_why_and_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    broken = tmp_path / "bin/radosgw"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    broken.chmod(0o755)
    directory = tmp_path / "server"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    with pytest.raises(ServiceFailed, match=r"(?s)did not start; .*rgw\.log.*out of order"):
        run("scripts/s3-server", "start", directory)
    assert _processes_of(directory) == []
    assert not directory.exists()


def test_ceph_leaves_a_directory_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(ServiceFailed, match="is not empty"):
        run("scripts/s3-server", "start", tmp_path)
    with pytest.raises(ServiceFailed, match=r"is not of scripts/s3-server"):
        run("scripts/s3-server", "stop", tmp_path)
    assert (tmp_path / "precious").exists()


def _processes_of(directory: Path) -> list[int]:
    """Those with a configuration in *directory*."""
    name = os.fsencode(directory / "ceph.conf")
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it ended meanwhile
            pass
    return found
