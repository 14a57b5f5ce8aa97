"""Copies between places of all kinds, with real registries and programs."""

import os
import subprocess
from pathlib import Path

import pytest

from blobfs.digest import Digest
from tests.support.command import invoke
from tests.support.copies import Copies, counts
from tests.support.services import DockerRegistry, inspect, run

_PLAIN = ("--src-tls-verify=false", "--dest-tls-verify=false", "--src-no-creds", "--dest-no-creds")


@pytest.mark.registry
def test_a_registry_over_http_and_back(
    copies: Copies, registry: DockerRegistry, tmp_path: Path
) -> None:
    """[S22.20] Storages, OCI image layouts and registries over HTTP are copied"""
    options = ("--json", *_PLAIN)
    with DockerRegistry.serving(tmp_path / "served") as served:
        place = f"docker://{served.address}"
        first = copies.between("cp", registry.root, place, *options)
        assert first.exit_code == 0, first.output
        second = counts(copies.between("cp", registry.root, place, *options))
        assert [second[kind]["sent"] for kind in second] == [0, 0, 0]
        result = copies.between("cp", place, f"oci:{tmp_path}/layout", *options)
        assert result.exit_code == 0, result.output
        pulled = f"docker://{served.address}/library/multi:latest"
        run("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--all", pulled,
            f"dir:{tmp_path}/pulled")  # fmt: skip
        assert inspect(served.address, "team/app", "v1").digest == (
            inspect(registry.address, "team/app", "v1").digest
        )
    back = tmp_path / "back"
    assert copies.between("cp", f"oci:{tmp_path}/layout", back, *options).exit_code == 0
    assert copies.tags(back) == copies.tags(registry.root) == copies.tags(tmp_path / "served")
    assert invoke("verify", "--content", back).exit_code == 0


@pytest.mark.registry
def test_a_registry_that_keeps_wrong_bytes_is_no_success(copies: Copies, tmp_path: Path) -> None:
    """[S22.24] With `--verify-target` the blobs that are there are read, and wrong ones"""
    copies.put_image("v1", b"config", b"layer")
    with DockerRegistry.serving(tmp_path / "served") as served:
        place = f"docker://{served.address}"
        assert copies.between("cp", copies.source, place, *_PLAIN).exit_code == 0
        copies.blob(tmp_path / "served", Digest.of(b"layer")).write_bytes(b"LAYER")
        result = copies.between("cp", copies.source, place, *_PLAIN, "--verify-target")
    assert result.exit_code == 1
    assert f"keeps other bytes for {Digest.of(b'layer')}" in result.stderr


@pytest.mark.registry
def test_one_image_of_a_registry(copies: Copies, registry: DockerRegistry) -> None:
    """[S22.20] With `--platform` only the image for that platform is copied"""
    place = f"docker://{registry.address}/library/multi:latest"
    result = copies.between("cp", place, copies.target, *_PLAIN, "--platform", "linux/arm64")
    assert result.exit_code == 0, result.output
    platforms = inspect(registry.address, "library/multi", "latest").platforms
    assert copies.tags() == {"library/multi:latest": platforms["linux/arm64"]}
    missing = copies.between("cp", f"{place}r", copies.target, *_PLAIN)
    assert missing.exit_code == 1
    assert missing.stderr.startswith("tag library/multi:latestr: unknown tag:")


def test_a_blob_of_a_file(copies: Copies, tmp_path: Path) -> None:
    """[S22.21] One blob is copied from a file, and to one, also the standard input and output"""
    content = os.urandom(100_000)
    digest = Digest.of(content)
    file = tmp_path / "file"
    file.write_bytes(content)
    stored = copies.between("cp", file, f"{copies.target}!/app")
    assert (stored.exit_code, stored.stdout) == (0, f"{digest}\n")
    name = f"{copies.target}!/app@{digest}"
    assert copies.between("cp", name, tmp_path / "new").exit_code == 0
    assert (tmp_path / "new").read_bytes() == content
    command = ["blobfs", "cp", name, "-", "--state-dir", str(copies.state)]
    assert subprocess.run(command, capture_output=True, check=True).stdout == content
    assert copies.between("cp", name, "-", "--json").exit_code == 1
    other = Digest.of(content, "sha512")
    assert copies.between("cp", file, f"{copies.target}!/app@{other}").exit_code == 0
    file.write_bytes(b"changed")
    changed = copies.between("cp", file, f"{copies.target}!/app@{digest}")
    assert changed.exit_code == 1
    assert f"{Digest.of(b'changed')}, and not {digest}" in changed.stderr
    copies.blob(copies.target, digest).write_bytes(content[:-1] + b"x")
    assert copies.between("cp", name, tmp_path / "wrong").exit_code == 1
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("source", "target", "advice"),
    [
        ("file", "new", "name the repository"),
        ("file", "file", "use cp"),
        ("{}/source", "file", "one blob"),
        ("file", "{}/target", "name the repository"),
        ("{}/source", "docker://", "docker://HOST"),
        ("{}/source", "{}/target!/app:v1", "name one of the source"),
        ("{}/source!/a/b:c:d", "{}/target", "not a repository name"),
        ("{}/missing", "{}/target", "missing"),
        ("{}/source", "{}/new.tar", "give oci-archive:"),
        ("{}/source!/none", "{}/target", "/source REPOSITORY the tags"),
        ("{}/source!/team/app:none", "{}/target", "/source REPOSITORY the tags"),
        ("ftp://host/", "{}/target", "not a storage"),
        ("ocii:layout", "{}/target", "oci:DIR"),
        ("layout", "{}/target", "is an OCI image layout; give oci:"),
        ("{}/source", "layout", "is an OCI image layout; give oci:"),
        ("file", "new", "/file for an archive"),
        ("{}/source", "file", "give oci-archive:"),
        ("oci-archive:none.tar", "{}/target", "none.tar does not exist; check the path"),
        ("oci:none", "{}/target", "none does not exist; check the path"),
        ("oci:empty", "{}/target", "is no OCI image layout: it has no index.json"),
        ("{}/source!app:v1", "{}/target", "source!/app:v1"),
    ],
)
def test_places_that_make_no_sense(
    copies: Copies, monkeypatch: pytest.MonkeyPatch, source: str, target: str, advice: str
) -> None:
    """Each error says what to give instead."""
    copies.put_image("v1", b"config", b"layer")
    monkeypatch.chdir(copies.directory)
    Path("file").touch()
    Path("empty").mkdir()
    Path("layout").mkdir()
    Path("layout/oci-layout").touch()
    places = (place.format(copies.directory) for place in (source, target))
    result = copies.between("cp", *places)
    assert result.exit_code == 1
    assert advice in result.stderr
