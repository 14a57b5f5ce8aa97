"""The recipes for copies, run as they are written."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import blobfs
from blobfs.reference import RepositoryName
from tests.support.s3_servers import S3Server
from tests.support.services import DockerRegistry
from tests.support.varied_registry import holdings, varied_registry

pytestmark = [pytest.mark.registry, pytest.mark.s3]

RECIPES = Path(blobfs.__file__).parent / "docs" / "RECIPES.md"

_DEMO = RepositoryName("demo/app")


def _recipes() -> list[str]:
    """Return the commands of the section on copies."""
    [section] = re.findall(
        r"^## Copies and backups$(.*?)^## ", RECIPES.read_text(), re.DOTALL | re.MULTILINE
    )
    return re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def _in_place(recipe: str, directory: Path, bucket: str, registry: str) -> str:
    """Return the commands with the directory, bucket and registry of the test."""
    url, _, options = bucket.partition("?")
    named = re.sub(r"'?s3://bucket(/\w+)(![^\s']*)?'?", rf"'{url}\1?{options}\2'", recipe)
    local = named.replace("ssh backup.example.org ", "")
    return local.replace("/tmp/", f"{directory}/").replace("registry.example.org", registry)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[DockerRegistry]:
    """A registry on the storage of the recipes."""
    with varied_registry(tmp_path / "storage", 100) as registry:
        registry.fill(images=2)
        registry.fill_what_has_no_tag(_DEMO)
    with DockerRegistry.serving(tmp_path / "storage") as served:
        yield served


def test_each_recipe_works(served: DockerRegistry, ceph: S3Server, tmp_path: Path) -> None:
    """Every block of commands ends with 0, and the copies hold what the text says."""
    environment = {
        **os.environ,
        **ceph.environment(),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with ceph.bucket() as bucket:
        url = ceph.storage_url(bucket)
        for recipe in _recipes():
            command = _in_place(recipe, tmp_path, url, served.address)
            done = subprocess.run(
                ["bash", "-euc", command], env=environment, capture_output=True, text=True,
                check=False, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    source = holdings(tmp_path / "storage")
    assert holdings(tmp_path / "restored") == holdings(tmp_path / "there-too") == source
    assert holdings(tmp_path / "there").tags == {_DEMO: {"v1": source.tags[_DEMO]["v1"]}}
    assert holdings(tmp_path / "mirror").tags == {_DEMO: {"v1": source.tags[_DEMO]["v1"]}}
