"""A registry with everything in it goes through every kind of place, and arrives whole."""

import os
from pathlib import Path

import pytest

from blobfs.digest import Digest
from tests.support.mounts import run
from tests.support.s3_servers import S3Server
from tests.support.services import DockerRegistry
from tests.support.services import run as command
from tests.support.varied_registry import Holdings, holdings, varied_registry

pytestmark = [pytest.mark.registry, pytest.mark.s3]

_LARGE = 20 * 2**20
"""Bytes of a layer, for a registry of 2 GB."""


_FOREIGN = {"manifests": {"urls": {"allow": ["^https://example.org/"]}}}
"""A registry takes layers that are elsewhere only if it is told to."""


def copied(*arguments: object) -> str:
    """Run ``blobfs``, and expect that it succeeds."""
    done = run(*arguments, timeout_s=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def verified(storage: object) -> None:
    """Expect that every byte of the storage is right."""
    copied("verify", "--content", storage)


def travel(tmp_path: Path, ceph: S3Server, monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    """Copy to Ceph, to a layout, to a registry, and to a directory; compare at the end."""
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    with ceph.bucket() as bucket:
        remote = ceph.storage_url(bucket, "registry")
        copied("cp", source, remote)
        verified(remote)
        assert holdings(remote) == holdings(source)
        copied("cp", remote, f"oci:{tmp_path}/layout")
    with DockerRegistry.serving(tmp_path / "served", validation=_FOREIGN) as registry:
        copied("cp", f"oci:{tmp_path}/layout", f"docker://{registry.address}")
        verified(registry.root)
        copied("cp", f"docker://{registry.address}", tmp_path / "end")
    verified(tmp_path / "end")


_NOT_PULLED = {"cache", "foreign", "alias"}
"""An index of layers is no image, a foreign layer is elsewhere, and skopeo has no sha512."""


def pulls(root: Path, directory: Path, found: Holdings) -> None:
    """Expect that skopeo gets each image of a registry."""
    directory.mkdir()
    with DockerRegistry.serving(root) as registry:
        tags = [(name, *tag) for name, tags in found.tags.items() for tag in tags.items()]
        for name, tag, digest in tags:
            image = f"docker://{registry.address}/{name}:{tag}"
            skopeo = ("skopeo", "--insecure-policy")
            raw = command(*skopeo, "inspect", "--tls-verify=false", "--raw", image)
            assert str(Digest.of(raw)) == digest
            if tag not in _NOT_PULLED:
                target = f"dir:{directory}/{name.replace('/', '-')}-{tag}"
                command(*skopeo, "copy", "-q", "--all", "--src-tls-verify=false", image, target)


@pytest.mark.parametrize(
    ("size", "images"),
    [pytest.param(1000, 3, id="small"), pytest.param(_LARGE, 40, marks=pytest.mark.long, id="2GB")],
)
def test_it_is_equal_after_a_bucket_a_layout_and_a_registry(
    size: int, images: int, tmp_path: Path, ceph: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directory, Ceph, OCI layout, docker-registry, directory: all tags and digests are there."""
    source = tmp_path / "source"
    with varied_registry(source, size) as registry:
        registry.fill(images)
    travel(tmp_path, ceph, monkeypatch, source)
    before, after = holdings(source), holdings(tmp_path / "end")
    assert after.tags == before.tags
    assert after.revisions == before.revisions
    assert after.layers == before.layers
    pulls(tmp_path / "end", tmp_path / "pulled", after)


@pytest.mark.parametrize(
    "kind", [pytest.param("directory", marks=pytest.mark.long), "oci", "oci-archive"]
)
def test_a_backup_restores_what_no_tag_names(kind: str, tmp_path: Path) -> None:
    """History, untagged manifests and single blobs come back as well."""
    source = tmp_path / "source"
    with varied_registry(source, 100) as registry:
        registry.fill(images=3)
        registry.fill_what_has_no_tag()
    archive = tmp_path / ("backup.tar" if kind == "oci-archive" else "backup")
    place = archive if kind == "directory" else f"{kind}:{archive}"
    copied("backup", source, place)
    copied("restore", place, tmp_path / "end")
    verified(tmp_path / "end")
    assert holdings(tmp_path / "end") == holdings(source)
    assert os.listdir(tmp_path / "end") == os.listdir(source)
