"""The real programs do what the tests that stand on them take for granted."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.support import images
from tests.support.services import (
    DockerRegistry,
    Manifest,
    ServiceFailed,
    delete_blob,
    delete_manifest,
    inspect,
    push,
    run,
)

pytestmark = pytest.mark.registry


def test_pushed_image_is_in_the_storage_under_the_digest_inspect_gives(
    registry: DockerRegistry,
) -> None:
    manifest = inspect(registry.address, "library/small", "v1")
    tag = _repository(registry, "library/small") / "_manifests/tags/v1/current/link"
    assert tag.read_text() == manifest.digest
    assert _blob(registry, manifest.digest).read_bytes() == manifest.content
    assert len(manifest.blobs) == 4  # a config and three layers
    for digest in manifest.blobs:
        assert _layer_link(registry, "library/small", digest).read_text() == digest
        assert _sha256(_blob(registry, digest).read_bytes()) == digest


def test_second_tag_is_another_image_of_the_same_layers(registry: DockerRegistry) -> None:
    first = inspect(registry.address, "library/small", "v1")
    second = inspect(registry.address, "library/small", "v2")
    assert first.digest != second.digest
    assert first.blobs[0] != second.blobs[0]
    assert first.blobs[1:] == second.blobs[1:]


def test_index_keeps_both_platforms(registry: DockerRegistry) -> None:
    index = inspect(registry.address, "library/multi", "latest")
    assert set(index.platforms) == {"linux/amd64", "linux/arm64"}
    revisions = _repository(registry, "library/multi") / "_manifests/revisions/sha256"
    for platform, digest in index.platforms.items():
        assert (revisions / _encoded(digest) / "link").read_text() == digest
        image = inspect(registry.address, "library/multi", digest)
        config = json.loads(_blob(registry, image.blobs[0]).read_bytes())
        assert f"{config['os']}/{config['architecture']}" == platform


def test_nested_repositories_hold_one_copy_of_what_they_share(tmp_path: Path) -> None:
    with DockerRegistry.serving(tmp_path / "storage") as registry:
        push(images.small(), registry.address, "base", "v1")
        push(images.small(), registry.address, "base/child", "v1")
        manifest = inspect(registry.address, "base/child", "v1")
    stored = (registry.root / "docker/registry/v2/blobs").rglob("data")
    assert {path.parent.name for path in stored} == set(map(_encoded, _all_digests(manifest)))
    for digest in manifest.blobs:
        assert _layer_link(registry, "base", digest).exists()
        assert _layer_link(registry, "base/child", digest).exists()


def test_registry_serves_what_another_left(tmp_path: Path) -> None:
    with DockerRegistry.serving(tmp_path / "storage") as first:
        push(images.small(), first.address, "app", "v1")
        pushed = inspect(first.address, "app", "v1")
    with DockerRegistry.serving(tmp_path / "storage", cache="inmemory") as second:
        assert inspect(second.address, "app", "v1") == pushed


def test_deletes_remove_the_tag_and_the_layer_link(tmp_path: Path) -> None:
    with DockerRegistry.serving(tmp_path / "storage") as registry:
        push(images.small(), registry.address, "app", "v1")
        manifest = inspect(registry.address, "app", "v1")
        delete_blob(registry.address, "app", manifest.blobs[1])
        delete_manifest(registry.address, "app", manifest.digest)
        with pytest.raises(ServiceFailed, match="manifest unknown"):
            inspect(registry.address, "app", "v1")
        with pytest.raises(ServiceFailed, match="answered 404"):
            delete_manifest(registry.address, "app", manifest.digest)
    assert not _layer_link(registry, "app", manifest.blobs[1]).exists()
    assert not (_repository(registry, "app") / "_manifests/tags/v1").exists()


def test_registry_that_can_not_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "docker-registry"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with (
        pytest.raises(ServiceFailed, match=r"ended with 3; its log:\nout of order"),
        DockerRegistry.serving(tmp_path / "storage"),
    ):
        pytest.fail("it started")


def test_program_that_fails_is_quoted() -> None:
    with pytest.raises(ServiceFailed, match=r"(?s)skopeo .*ended with 1:.*no such file"):
        run("skopeo", "inspect", "oci:/nonesuch")
    with pytest.raises(ServiceFailed, match="nonesuch is not installed"):
        run("nonesuch")


@pytest.mark.long
def test_debian_is_whole_and_large(debian_registry: DockerRegistry) -> None:
    image = inspect(debian_registry.address, "debian", "bookworm")
    _, base, change = (_blob(debian_registry, digest) for digest in image.blobs)
    assert base.stat().st_size > 50 * 10**6
    assert b"usr/bin/dpkg" in run("tar", "--list", "--gzip", "--file", base).splitlines()
    assert b"usr/share/.wh.doc" in run("tar", "--list", "--gzip", "--file", change).splitlines()


def _repository(registry: DockerRegistry, name: str) -> Path:
    return registry.root / "docker/registry/v2/repositories" / name


def _layer_link(registry: DockerRegistry, name: str, digest: str) -> Path:
    return _repository(registry, name) / "_layers/sha256" / _encoded(digest) / "link"


def _blob(registry: DockerRegistry, digest: str) -> Path:
    encoded = _encoded(digest)
    return registry.root / "docker/registry/v2/blobs/sha256" / encoded[:2] / encoded / "data"


def _encoded(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _all_digests(manifest: Manifest) -> tuple[str, ...]:
    return (manifest.digest, *manifest.blobs)
