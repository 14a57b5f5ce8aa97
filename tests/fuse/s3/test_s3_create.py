"""A registry that ``--create`` begins in a bucket, for mounts and for a docker-registry."""

import json
import os
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support import images
from tests.support.buckets import PREFIX, Bucket
from tests.support.mounts import mounted, run
from tests.support.s3_servers import serving_registry
from tests.support.services import push

pytestmark = [pytest.mark.fuse, pytest.mark.s3, pytest.mark.registry]


def test_created_registry_is_there_after_a_remount_and_for_a_registry(
    bucket: Bucket, tmp_path: Path
) -> None:
    """[S6.8] `--create` begins a registry that is there after a remount."""
    (tmp_path / "refused").mkdir()
    assert "--create" in run("mount", bucket.url, tmp_path / "refused").stderr
    for options in (["--create"], [], ["--create"]):
        with mounted(bucket.url, tmp_path, *options) as mount:
            assert os.listdir(mount.path) == []
    assert bucket.keys() == ["/docker/registry/v2/repositories/.blobfs"]
    with serving_registry(bucket.server, bucket.name, tmp_path, PREFIX) as served:
        with urlopen(f"{served.registry.url}/v2/_catalog", timeout=10) as answer:
            assert json.load(answer) == {"repositories": []}
        push(images.small(), served.registry.address, "team/app", "v1")
        with urlopen(f"{served.registry.url}/v2/_catalog", timeout=10) as answer:
            assert json.load(answer) == {"repositories": ["team/app"]}
    collect = ("docker-registry", "garbage-collect", "--dry-run", tmp_path / "registry.yml")
    done = subprocess.run(collect, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    with mounted(bucket.url, tmp_path) as mount:
        assert os.listdir(mount.path) == ["team"]
