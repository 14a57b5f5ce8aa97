"""Every command with a registry's own configuration file as STORAGE."""

import http.client
import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import images
from tests.support.mounts import BLOBFS, mounted, run, run_anew
from tests.support.redis_server import RedisServer
from tests.support.s3_servers import S3Registry, S3Server, serving_registry
from tests.support.services import DockerRegistry, free_port, push

pytestmark = pytest.mark.registry

DEBIAN = Path("/etc/docker/registry/config.yml")
COMMANDS: dict[str, tuple[str, ...]] = {
    "ls": (),
    "show": ("library/small:v1",),
    "cat": ("library/small:v1",),
    "uploads": (),
    "du": (),
    "verify": (),
    "gc": ("--json", "--state", "{}/gc.db"),
    "prune": ("--keep-last", "1"),
    "trash": (),
    "stat": ("library/small:v1",),
    "tags": ("library/small",),
}
CONTROL = ("config.json", "stats.json", "health.json", "requests.json", "errors", "metrics")


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody's keys and variables are to help."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def _output(command: str, storage: Path | str) -> str:
    with TemporaryDirectory() as directory:
        arguments = (argument.format(directory) for argument in COMMANDS[command])
        done = run(command, storage, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The storage of a registry that runs with Debian's own file, and the variables it has."""
    root = tmp_path_factory.mktemp("debian") / "storage"
    root.mkdir()
    variables = {
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(root),
        "REGISTRY_AUTH": "{}",  # Debian's file names a directory as the file of passwords
    }
    with DockerRegistry.configured(root, DEBIAN, variables, root.with_suffix(".log")) as registry:
        push(images.small(), registry.address, "library/small", "v1")
    return root, variables


@pytest.mark.parametrize("command", COMMANDS)
def test_command_takes_the_file_of_debian_s_registry(
    debian: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """[S20.1] A command uses the storage that a registry with this file uses.

    [S20.2] `REGISTRY_…` variables override the file as they do for a registry.
    """
    root, variables = debian
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _output(command, DEBIAN) == _output(command, root)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_takes_the_file_of_a_registry_in_a_directory(
    registry: DockerRegistry, command: str
) -> None:
    """[S20.1] A command uses the storage that a registry with this file uses."""
    assert _output(command, registry.config) == _output(command, registry.root)


@pytest.mark.s3
@pytest.mark.parametrize("command", COMMANDS)
def test_command_takes_the_file_of_a_registry_in_s3(
    s3_registry: S3Registry, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """[S20.1] A command uses the storage that a registry with this file uses.

    With the keys of the file only.
    """
    found = _output(command, s3_registry.registry.config)
    for name, value in s3_registry.server.environment().items():
        monkeypatch.setenv(name, value)
    assert found == _output(command, s3_registry.storage_url)


@pytest.mark.fuse
@pytest.mark.s3
def test_keys_of_the_bucket_are_shown_nowhere(
    s3_registry: S3Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S20.6] The keys of a bucket and the passwords in the file are in no log, no error."""
    config = s3_registry.registry.config
    server = s3_registry.server
    monkeypatch.setenv("REGISTRY_LOG_LEVEL", "debug")
    with mounted(config, tmp_path, start=run_anew) as mount:
        tags = mount.path / "library/small/_manifests/tags"
        assert (tags / "v1").read_bytes()
        shown = {name: (mount.path / ".blobfs" / name).read_text() for name in CONTROL}
        shown["command line"] = Path(f"/proc/{mount.pid}/cmdline").read_text()
        shown["mounts"] = Path("/proc/mounts").read_text()
    shown["log"] = mount.log.read_text()
    shown["config show"] = run("config", "show", config).stdout
    shown["refusal"] = _refused(config, tmp_path)
    assert "DEBUG" in shown["log"]
    assert f"s3://{s3_registry.bucket} " in shown["mounts"]
    assert "accesskey: '********'" in shown["config show"]
    secrets = (server.access_key, server.secret_key)
    assert not [name for name, text in shown.items() if any(s in text for s in secrets)]


def _refused(config: Path, directory: Path) -> str:
    """What a command says to a key that the server does not know."""
    copy = directory / "wrong.yml"
    document = json.loads(config.read_text())
    document["storage"]["s3"]["secretkey"] += "x"
    copy.write_text(json.dumps(document))
    done = run("ls", copy)
    assert done.returncode == 1
    assert "refuses access" in done.stderr
    return done.stdout


@pytest.mark.fuse
@pytest.mark.redis
def test_mount_shares_the_redis_of_the_registry(tmp_path: Path, redis_server: RedisServer) -> None:
    """[S20.1] A command uses the storage that a registry with this file uses."""
    root = tmp_path / "storage"
    redis = {"addr": redis_server.address}
    with DockerRegistry.serving(root, cache="redis", redis=redis) as registry:
        push(images.small(), registry.address, "library/small", "v1")
        with mounted(registry.config, tmp_path) as mount:
            assert mount.control("config.json")["cache"] == redis_server.url
            assert (mount.path / "library/small/_manifests/tags/v1").read_bytes()


@pytest.mark.fuse
def test_what_the_registry_allows_is_allowed_in_the_mount(
    registry: DockerRegistry, tmp_path: Path
) -> None:
    """[S20.3] `delete.enabled` is the default of `--allow-delete`.

    [S20.3] An option of the command line, or its `BLOBFS_…` variable, beats the file.
    """
    with mounted(registry.config, tmp_path) as mount:
        shown = mount.control("config.json")
    assert (shown["allow_delete"], shown["read_only"]) == (True, False)
    with mounted(registry.config, tmp_path, "--read-only") as mount:
        shown = mount.control("config.json")
    assert (shown["allow_delete"], shown["read_only"]) == (False, True)
    with mounted(registry.config, tmp_path, "--no-allow-delete") as mount:
        assert mount.control("config.json")["allow_delete"] is False


@pytest.mark.fuse
def test_file_that_is_read_only_makes_the_mount_so(tmp_path: Path) -> None:
    """[S20.3] `maintenance.readonly` of `--read-only`."""
    config, place = tmp_path / "config.yml", tmp_path / "m"
    (tmp_path / "storage/docker/registry/v2/blobs").mkdir(parents=True)
    (tmp_path / "storage/docker/registry/v2/repositories").mkdir(parents=True)
    place.mkdir()
    config.write_text(
        f"storage:\n  filesystem: {{rootdirectory: {tmp_path}/storage}}\n"
        "  maintenance:\n    readonly:\n      enabled: true\n"
    )
    with mounted(config, tmp_path) as mount:
        assert mount.control("config.json")["read_only"] is True
    with mounted(config, tmp_path, "--no-read-only") as mount:
        assert mount.control("config.json")["read_only"] is False
    done = run("mount", config, place, "--allow-delete")
    assert done.stderr == (
        f"Error: {config}:5: storage.maintenance.readonly.enabled is true, and refuses what"
        " --allow-delete allows; add --no-read-only\n"
    )


def test_variables_mean_what_they_mean_to_a_registry(tmp_path: Path) -> None:
    """[S20.2] `REGISTRY_…` variables override the file as they do for a registry.

    The real registry is asked whether it may be written to.
    """
    root, config = tmp_path / "storage", tmp_path / "config.yml"
    (root / "docker/registry/v2/repositories").mkdir(parents=True)
    maintenance = "maintenance: {readonly: {enabled: false}}"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}, {maintenance}}}\n"
        f"http: {{addr: ':0'}}"
    )
    whole = {"REGISTRY_STORAGE_MAINTENANCE_READONLY": "{enabled: true}"}
    nested = {"REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED": "true"}
    for variables, expected in ((whole, True), (nested, False)):
        with DockerRegistry.configured(root, config, variables, tmp_path / "log") as registry:
            assert _is_read_only(registry) is expected
        done = subprocess.run(
            [*BLOBFS, "config", "show", "--json", config],
            env=_clean_environment() | variables,
            capture_output=True,
            check=True,
        )
        values = {row["key"]: row["value"] for row in json.loads(done.stdout)}
        assert values["storage.maintenance.readonly.enabled"] is expected


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}


def _is_read_only(registry: DockerRegistry) -> bool:
    connection = http.client.HTTPConnection(registry.address, timeout=10)
    try:
        connection.request("POST", "/v2/app/blobs/uploads/")
        return connection.getresponse().status == http.client.METHOD_NOT_ALLOWED
    finally:
        connection.close()


def test_age_of_the_registry_s_purge_is_the_default(tmp_path: Path) -> None:
    """[S20.3] `uploadpurging.age` of `uploads purge --older-than`."""
    root, config = tmp_path / "storage", tmp_path / "config.yml"
    upload = root / "docker/registry/v2/repositories/app/_uploads/old"
    upload.mkdir(parents=True)
    (root / "docker/registry/v2/blobs").mkdir()
    (upload / "startedat").write_text("2001-02-03T04:05:06Z")
    for age, is_removed in (("900000h", False), ("1h", True)):
        config.write_text(
            f"storage: {{filesystem: {{rootdirectory: {root}}},"
            f" maintenance: {{uploadpurging: {{age: {age}}}}}}}"
        )
        assert run("uploads", "purge", config).returncode == 0
        assert upload.exists() is not is_removed


def test_gc_clears_the_redis_of_the_registry(tmp_path: Path) -> None:
    """[S20.3] `cache.blobdescriptor` of `--cache` of a mount and of `gc`."""
    config = tmp_path / "config.yml"
    (tmp_path / "storage/docker/registry/v2/repositories").mkdir(parents=True)
    config.write_text(
        f"storage: {{filesystem: {{rootdirectory: {tmp_path}/storage}},"
        f" cache: {{blobdescriptor: redis}}}}\nredis: {{addr: '127.0.0.1:{free_port()}'}}"
    )
    done = run("gc", config)  # nobody listens there
    assert done.returncode == 1
    assert done.stderr.startswith("Error: --cache: ")


def test_missing_directory_of_a_container_is_explained(tmp_path: Path) -> None:
    """[S20.5] A missing directory may be a path of the registry's container."""
    config = tmp_path / "config.yml"
    config.write_text("storage:\n  filesystem:\n    rootdirectory: /var/lib/no-registry\n")
    done = run("ls", config)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: /var/lib/no-registry does not exist; give a registry's root directory;"
        f" {config}:3 has storage.filesystem.rootdirectory: if that is a path in the registry's"
        " container, set REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY to the directory on this host\n"
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.yml", None, "No such file or directory"),
        ("a", b"#!/bin/sh\n: [", "is not YAML in line 2"),
        ("a", b"\x7fELF\0", "is not YAML"),
        ("a", b"text", "the configuration must be a mapping"),
    ],
)
def test_what_is_no_configuration_is_refused(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    """[S20.1] A file, or a name that ends in `.yml` or `.yaml` and is not a directory, is a
    configuration file.
    """
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    done = run("ls", file)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {file}")
    assert says in done.stderr


def test_directory_with_the_name_of_a_file_is_a_storage(tmp_path: Path) -> None:
    """[S20.1] A file, or a name that ends in `.yml` or `.yaml` and is not a directory, is a
    configuration file.
    """
    storage = tmp_path / "a.yml"
    (storage / "docker/registry/v2/repositories").mkdir(parents=True)
    assert run("ls", storage).returncode == 0


def test_file_beside_a_file_is_refused(registry: DockerRegistry, tmp_path: Path) -> None:
    done = run("mount", registry.config, tmp_path, "--config", registry.config)
    assert done.stderr == (
        f"Error: {registry.config} is a configuration file already; omit --config\n"
    )


@pytest.mark.s3
def test_region_and_attributes_of_objects_come_from_the_file(
    ceph: S3Server, tmp_path: Path
) -> None:
    """[S20.1] A command uses the storage that a registry with this file uses."""
    with (
        ceph.bucket() as bucket,
        serving_registry(ceph, bucket, tmp_path, "some/where", storageclass="NONE") as served,
    ):
        push(images.small(), served.registry.address, "library/small", "v1")
        assert "library/small" in _output("ls", served.registry.config)
        shown = run("config", "show", served.registry.config).stdout
    assert "storageclass: NONE" in shown
    assert "rootdirectory: /some/where" in shown
