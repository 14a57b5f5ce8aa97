"""Copies to places that deny access to a repository, and from one that does to a blob."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import Result

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import FileReader
from blobfs.errors import AccessDenied
from blobfs.reference import RepositoryName, Tag
from blobfs.transfer.storage import StorageSource
from blobfs.transfer.storage_target import StorageTarget
from tests.support.buckets import PREFIX, Bucket
from tests.support.command import invoke
from tests.support.copies import Copies, events
from tests.support.s3_servers import S3Server
from tests.support.services import DockerRegistry
from tests.support.token_service import TokenService

_LARGE = bytes(200_000)
_IMAGES = 4


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    """Two repositories with the same images, of which the first one is ``bad``."""
    copies = Copies(tmp_path)
    for name in ("bad", "good"):
        for n in range(_IMAGES):
            contents = (b"config %d" % n, b"layer %d" % n, _LARGE + b"%d" % n)
            copies.put_image(f"v{n}", *contents, name=RepositoryName(name))
    return copies


def _expect_denied(result: Result, reason: str) -> None:
    """Expect one failure, of ``bad``."""
    assert result.exit_code == 1
    [failure] = events(result, "failure")
    assert failure["item"] == "repository bad"
    assert reason in str(failure["reason"])
    assert str(failure["reason"]).endswith("(12 blobs, 4 manifests, 4 tags)")
    assert failure["images"] == sorted(f"bad:v{n}" for n in range(_IMAGES))


@pytest.mark.registry
def test_a_registry_that_denies_pushes_to_a_repository(
    copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S22.32] A repository of the target that denies access is one failure"""
    monkeypatch.setenv("BLOBFS_DEST_CREDS", "me:secret")
    log = {"accesslog": {"disabled": False}}
    with TokenService.serving(tmp_path, "me", "secret") as service:
        service.read_only.add("bad")
        with DockerRegistry.serving(copies.target, auth=service.settings, log=log) as registry:
            place = f"docker://{registry.address}"
            result = copies.between("cp", copies.source, place, "--json", "--jobs", "1")
            _expect_denied(result, "401 UNAUTHORIZED")
            printed = registry.config.with_suffix(".log").read_text()
    assert set(copies.tags()) == {f"good:v{n}" for n in range(_IMAGES)}
    assert printed.count('"POST /v2/bad/') == 2, "the second one has a new token"


@pytest.mark.s3
def test_a_bucket_that_denies_writes_to_a_repository(copies: Copies, ceph: S3Server) -> None:
    """[S22.32] the others are copied"""
    with Bucket.made(ceph) as bucket:
        root = f"{bucket.name}/{PREFIX}/docker/registry/v2"
        statement = {
            "Effect": "Deny",
            "Principal": "*",
            "Action": ["s3:PutObject"],
            "Resource": [f"arn:aws:s3:::{root}/repositories/bad/*"],
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=policy)
        result = copies.between("cp", copies.source, bucket.url, "--json")
        bucket.client.delete_bucket_policy(Bucket=bucket.name)
        _expect_denied(result, "AccessDenied")
        tags = [key for key in bucket.keys("") if key.endswith("/current/link")]
        assert len(tags) == _IMAGES
        assert invoke("verify", "--content", bucket.url).exit_code == 0


def test_a_tag_that_is_protected_keeps_no_other_one_out(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S22.32] A tag that is denied alone is counted, and the others are set"""
    found = StorageTarget.tag

    def tag(
        self: StorageTarget, repository: str, tag: Tag, digest: Digest, history: Sequence[Digest]
    ) -> None:
        if repository == "bad" and tag in {"v1", "v2"}:
            raise AccessDenied(f"{tag} is protected")
        found(self, repository, tag, digest, history)

    monkeypatch.setattr(StorageTarget, "tag", tag)
    result = copies.cp("--json")
    [failure] = events(result, "failure")
    assert str(failure["reason"]).endswith("is protected (2 tags)")
    assert failure["images"] == ["bad:v1", "bad:v2"]
    assert set(copies.tags(copies.source)) - set(copies.tags()) == {"bad:v1", "bad:v2"}


def test_a_blob_that_the_source_denies_keeps_only_its_images_out(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S22.4] What is missing, wrong or unreadable keeps the images that need it out"""
    found = StorageSource.open

    def open_(self: StorageSource, repository: str, blob: Descriptor) -> FileReader:
        if blob.digest == Digest.of(b"layer 1"):
            raise AccessDenied("Permission denied")
        return found(self, repository, blob)

    monkeypatch.setattr(StorageSource, "open", open_)
    result = copies.cp("--json")
    [failure] = events(result, "failure")
    assert failure["item"] == f"blob {Digest.of(b'layer 1')}"
    assert failure["images"] == ["bad:v1", "good:v1"]
    assert set(copies.tags(copies.source)) - set(copies.tags()) == {"bad:v1", "good:v1"}


@pytest.mark.parametrize("name", ["_layers", "_manifests", "_manifests/tags/v1"])
def test_a_file_in_the_place_of_a_directory_keeps_no_other_repository_out(
    copies: Copies, name: str
) -> None:
    """[S22.33] something else is in the place of a directory"""
    assert copies.cp(source="!/good", target="!/seed").exit_code == 0
    place = copies.target / f"docker/registry/v2/repositories/bad/{name}"
    place.parent.mkdir(parents=True)
    place.write_text("no directory")
    result = copies.cp("--json")
    assert result.exit_code == 1
    [failure] = events(result, "failure")
    assert failure["item"] == "repository bad"
    assert "below a file" in str(failure["reason"])
    assert {f"good:v{n}" for n in range(_IMAGES)} < set(copies.tags())
