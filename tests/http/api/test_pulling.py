"""What pulls images: skopeo, and a docker-registry that passes them on."""

import json
from pathlib import Path
from typing import Any

import pytest

from blobfs import open_registry
from blobfs.http.api.routes import ServeOptions
from tests.support.api_server import ask, serving, serving_docker_registry
from tests.support.s3_prefixes import keys_of
from tests.support.s3_servers import S3Registry
from tests.support.services import DockerRegistry, Manifest, ServiceFailed, inspect, run

pytestmark = pytest.mark.registry


def skopeo(verb: str, *arguments: str | Path) -> bytes:
    return run("skopeo", "--insecure-policy", verb, *arguments)


def copy(address: str, image: str, target: Path) -> set[str]:
    """Copy an image with all its platforms; the names of the blobs that came."""
    source = f"docker://{address}/{image}"
    skopeo("copy", "--quiet", "--all", "--src-tls-verify=false", source, f"dir:{target}")
    return {file.name for file in target.iterdir()}


@pytest.mark.parametrize("image", ["library/small:v1", "library/multi:latest", "team/app/debug:v1"])
def test_skopeo_copies_what_it_would_from_a_registry(
    api: str, registry: DockerRegistry, tmp_path: Path, image: str
) -> None:
    """[S16.11] `skopeo copy`, `inspect` and `list-tags` work."""
    ours = copy(api, image, tmp_path / "ours")
    assert ours == copy(registry.address, image, tmp_path / "theirs")


def test_skopeo_inspects(api: str, registry: DockerRegistry) -> None:
    """[S16.11] `skopeo copy`, `inspect` and `list-tags` work."""

    def inspected(address: str) -> dict[str, object]:
        image = f"docker://{address}/library/small:v1"
        told: dict[str, Any] = json.loads(skopeo("inspect", "--tls-verify=false", image))
        # A registry lists tags in the order of its file system.
        return told | {"Name": "", "RepoTags": sorted(told["RepoTags"])}

    assert inspected(api) == inspected(registry.address)


def test_skopeo_lists_tags(api: str) -> None:
    """[S16.11] `skopeo copy`, `inspect` and `list-tags` work."""
    told = skopeo("list-tags", "--tls-verify=false", f"docker://{api}/library/small")
    assert json.loads(told)["Tags"] == ["v1", "v2"]


def test_skopeo_is_refused_a_push(api: str, tmp_path: Path) -> None:
    """[S16.3] Every other method is 405, UNSUPPORTED: `docker push` and its like fail."""
    copy(api, "library/small:v1", tmp_path / "image")
    target = f"docker://{api}/library/small:v3"
    with pytest.raises(ServiceFailed, match=r"uploading manifest .*: unsupported"):
        skopeo("copy", "--dest-tls-verify=false", f"dir:{tmp_path / 'image'}", target)


def test_docker_registry_passes_it_on(api: str, image: Manifest, tmp_path: Path) -> None:
    """[S16.11] So does a docker-registry as a pull-through cache (`proxy.remoteurl`)."""
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "storage")}}
    proxy = {"remoteurl": f"http://{api}"}
    with serving_docker_registry(tmp_path, storage, proxy=proxy) as address:
        assert inspect(address, "library/small", "v1") == image
        copied = copy(address, "library/multi:latest", tmp_path / "image")
    assert copied == copy(api, "library/multi:latest", tmp_path / "directly")


@pytest.mark.s3
def test_blob_is_fetched_from_the_bucket_itself(s3_registry: S3Registry, tmp_path: Path) -> None:
    """[S16.12] With `--serve-redirect`, a `GET` of a blob in S3 is sent there (307), with a URL
    that is good for 20 minutes and for that blob only.
    """
    image = inspect(s3_registry.registry.address, "library/small", "v1")
    path = f"/v2/library/small/blobs/{image.blobs[1]}"
    with keys_of(s3_registry.server), open_registry(s3_registry.storage_url) as registry:
        with serving(registry, ServeOptions(redirect=True)) as address:
            answer = ask(address, path)
            assert answer.status == 307
            assert answer.headers["location"].startswith(s3_registry.server.endpoint)
            assert "X-Amz-Expires=1200" in answer.headers["location"]
            assert ask(address, path, "HEAD").headers["docker-content-digest"] == image.blobs[1]
            copied = copy(address, "library/small:v1", tmp_path / "redirected")
        with serving(registry) as address:
            assert ask(address, path, Range="bytes=0-3").status == 206
            assert copied == copy(address, "library/small:v1", tmp_path / "served")


def test_redirect_is_only_for_storage_that_has_urls(registry: DockerRegistry, layer: str) -> None:
    """[S16.12] A `GET` of a blob in S3 is sent there (307)."""
    with (
        open_registry(str(registry.root)) as opened,
        serving(opened, ServeOptions(redirect=True)) as address,
    ):
        assert ask(address, layer).status == 200
