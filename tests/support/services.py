"""The real programs tests stand on: Debian's docker-registry as a server, skopeo as its client."""

import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Never, Self

import pytest

# Generous: only a machine in trouble comes near them.
_START_S: Final = 15.0
_STOP_S: Final = 10.0
_READY: Final = (http.client.OK, http.client.UNAUTHORIZED, http.client.BAD_REQUEST)
# Below the ports that the kernel gives to clients. Processes that test side by side begin at
# different ones, so that none gets a port that another is about to listen on.
_PORTS: Final = iter(range(random.SystemRandom().randrange(10_000, 30_000), 32_768))


class ServiceFailed(Exception):
    """A real program did not do its part; says which, how, and what it printed."""


def run(*command: str | Path, timeout_s: float = 120) -> bytes:
    """What *command* writes to its standard output; raises ServiceFailed."""
    shown = " ".join(str(part) for part in command)
    try:
        return subprocess.run(
            command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout_s
        ).stdout
    except FileNotFoundError:
        raise ServiceFailed(f"{command[0]} is not installed: run scripts/setup") from None
    except subprocess.TimeoutExpired:
        raise ServiceFailed(f"{shown}: still running after {timeout_s:.0f} s") from None
    except subprocess.CalledProcessError as exc:
        printed = os.fsdecode(exc.stdout + exc.stderr).strip()
        raise ServiceFailed(f"{shown}: ended with {exc.returncode}:\n{printed}") from None


def cannot(reason: str) -> Never:
    """Skip the test, or fail it in CI: what it needs is missing."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """A loopback port that nobody listens on, and that this process has not got before."""
    for port in _PORTS:
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServiceFailed("no loopback port is free")


class Server:
    """A server that runs. It listens at *address*, and answers ``GET path`` once it is ready.

    The answer is 200, or else that somebody must log in or speak TLS.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        address: str,
        path: str,
        log_path: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._command = command
        self._address = address
        self._path = path
        self._log_path = log_path
        self._environment = environment
        log_path.write_bytes(b"")
        self._start()

    def stop(self) -> None:
        """End it, by a signal that it can handle."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def killed(self) -> Iterator[None]:
        """Kill it, and start it again after the ``with`` block."""
        self._process.kill()
        self._process.wait()
        try:
            yield
        finally:
            self._start()

    def _start(self) -> None:
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if trouble := self._wait_until_ready():
            self.stop()
            printed = self._log_path.read_text(errors="replace").strip()
            name = Path(self._command[0]).name
            raise ServiceFailed(f"{name} at {self._address} {trouble}; its log:\n{printed}")

    def _wait_until_ready(self) -> str | None:
        """What went wrong, if anything did."""
        deadline = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                if _request(self._address, "GET", self._path)[0] in _READY:
                    return None
            except OSError:  # it does not listen yet
                pass
            time.sleep(0.01)
        ended = self._process.returncode
        return f"gave no answer in {_START_S:.0f} s" if ended is None else f"ended with {ended}"


@dataclass(frozen=True, slots=True)
class DockerRegistry:
    """A docker-registry that keeps what it is given below *root*, and listens at *address*.

    *root* is a directory, or a path in an S3 bucket. *config* is its configuration file.
    """

    root: Path
    address: str
    config: Path
    server: Server | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def killed(self) -> AbstractContextManager[None]:
        """Kill it, and start it again after the ``with`` block."""
        assert self.server is not None
        return self.server.killed()

    @classmethod
    @contextmanager
    def serving(
        cls,
        root: Path,
        *,
        cache: Literal["inmemory", "redis"] | None = None,
        user: str = "",
        **settings: object,
    ) -> Iterator[Self]:
        """Serve *root* inside the ``with`` block; *cache* is its descriptor cache.

        With *user* it runs as that user, who must be able to reach *root*, and will own it.
        *settings* are more sections of its configuration, or of its section http.

        Its configuration and log lie beside *root*, as ``<root>.yml`` and ``<root>.log``. Several
        may serve one root, and one may be started on what another left.
        """
        root.mkdir(parents=True, exist_ok=True)
        storage: dict[str, object] = {"filesystem": {"rootdirectory": str(root)}}
        if cache is not None:
            storage["cache"] = {"blobdescriptor": cache}
        registry = cls(root, f"127.0.0.1:{free_port()}", _beside(root, "yml"))
        with _serving(registry, storage, settings, user) as server:
            yield replace(registry, server=server)

    @classmethod
    @contextmanager
    def serving_s3(
        cls, parameters: Mapping[str, object], directory: Path, **settings: object
    ) -> Iterator[Self]:
        """Serve an S3 bucket, by the parameters of the registry's own S3 driver.

        Its configuration and log lie in *directory*; *settings* are as for ``serving``.
        """
        root = Path("/", str(parameters["rootdirectory"]))
        config = directory / "registry.yml"
        registry = cls(root, f"127.0.0.1:{free_port()}", config)
        with _serving(registry, {"s3": parameters}, settings) as server:
            yield replace(registry, server=server)

    @classmethod
    @contextmanager
    def configured(
        cls, root: Path, config: Path, variables: Mapping[str, str], log_path: Path
    ) -> Iterator[Self]:
        """Serve *root* by somebody's *config* and *variables*, which say so."""
        registry = cls(root, f"127.0.0.1:{free_port()}", config)
        environment = {**_environment(), **variables, "REGISTRY_HTTP_ADDR": registry.address}
        command = ("docker-registry", "serve", config)
        with serving(command, registry.address, "/v2/", log_path, environment) as server:
            yield replace(registry, server=server)


def _beside(root: Path, suffix: str) -> Path:
    return root.with_name(f"{root.name}.{suffix}")


def _environment() -> dict[str, str]:
    # Variables override the file; somebody's registry may be configured by them.
    return {k: v for k, v in os.environ.items() if not k.startswith(("REGISTRY_", "AWS_"))}


@contextmanager
def _serving(
    registry: DockerRegistry,
    storage: Mapping[str, object],
    settings: Mapping[str, object],
    user: str = "",
) -> Iterator[Server]:
    config = registry.config
    config.write_text(_config(registry, storage, settings))
    config.chmod(0o600)  # it may have keys
    command: tuple[str | Path, ...] = ("docker-registry", "serve", config)
    if user:
        shutil.chown(config, user)
        shutil.chown(registry.root, user)
        command = ("runuser", "-u", user, "--", *command)
    log_path = config.with_suffix(".log")
    with serving(command, registry.address, "/v2/", log_path, _environment()) as server:
        yield server


def _config(
    registry: DockerRegistry, storage: Mapping[str, object], settings: Mapping[str, object]
) -> str:
    settings = dict(settings)
    http = settings.pop("http", {})
    assert isinstance(http, dict)
    # JSON is YAML that needs no thought about quotes.
    return json.dumps(
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                **storage,
                "delete": {"enabled": True},
                # A test's unfinished upload is the test's to remove.
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            # With its own, an upload begun at one registry can be continued at another.
            "http": {
                "addr": registry.address,
                "secret": "every registry of the tests has this",
                **http,
            },
            **settings,
        },
        indent=2,
    )


@contextmanager
def serving(
    command: Sequence[str | Path],
    address: str,
    path: str,
    log_path: Path,
    environment: Mapping[str, str],
) -> Iterator[Server]:
    """Run a server inside the ``with`` block, as Server has it, from when it is ready."""
    server = Server(command, address, path, log_path, environment)
    try:
        yield server
    finally:
        server.stop()


def push(layout: Path, address: str, name: str, tag: str, *, source_tag: str | None = None) -> None:
    """Push the image *source_tag* (*tag* by default) of an OCI layout, for all its platforms."""
    _skopeo(
        "copy",
        "--all",
        "--quiet",
        "--dest-tls-verify=false",
        f"oci:{layout}:{source_tag or tag}",
        f"docker://{address}/{name}:{tag}",
    )


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as skopeo gets it from a registry: its *digest*, and the bytes it belongs to."""

    digest: str
    content: bytes

    @property
    def blobs(self) -> tuple[str, ...]:
        """The digests of an image's config and layers; none for an index."""
        document = json.loads(self.content)
        config = [document["config"]] if "config" in document else []
        return tuple(blob["digest"] for blob in config + document.get("layers", []))

    @property
    def platforms(self) -> dict[str, str]:
        """An index's "os/architecture" with the digest of the image for it; none for an image."""
        return {
            "{os}/{architecture}".format(**image["platform"]): image["digest"]
            for image in json.loads(self.content).get("manifests", [])
        }


def inspect(address: str, name: str, reference: str) -> Manifest:
    """What a registry serves for a tag or a digest of *name*; raises ServiceFailed."""
    separator = "@" if ":" in reference else ":"
    image = f"docker://{address}/{name}{separator}{reference}"
    content = _skopeo("inspect", "--tls-verify=false", "--raw", image)
    digest = _skopeo("inspect", "--tls-verify=false", "--format", "{{.Digest}}", image)
    return Manifest(digest.decode().strip(), content)


def delete_manifest(address: str, name: str, digest: str) -> None:
    """Have a registry forget a manifest and the tags that point to it."""
    _delete(address, f"/v2/{name}/manifests/{digest}")


def delete_blob(address: str, name: str, digest: str) -> None:
    """Have a registry forget that *name* may read a layer."""
    _delete(address, f"/v2/{name}/blobs/{digest}")


def _delete(address: str, path: str) -> None:
    status, body = _request(address, "DELETE", path)
    if status != http.client.ACCEPTED:
        answer = body.decode(errors="replace").strip()
        raise ServiceFailed(f"DELETE {path}: {address} answered {status}: {answer}")


def _request(address: str, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _skopeo(verb: str, *arguments: str) -> bytes:
    # Debian's skopeo brings no policy for signatures, and refuses to work without one.
    return run("skopeo", "--insecure-policy", verb, *arguments)
