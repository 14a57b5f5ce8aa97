"""The S3 servers that tests stand on: Ceph's gateway, which is a real one, and moto."""

import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from tests.support.mounts import eventually
from tests.support.services import DockerRegistry, free_port, run, serving

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import ObjectIdentifierTypeDef

_REGION: Final = "us-east-1"
_SERVER: Final = Path(__file__).parents[2] / "scripts/s3-server"


@dataclass(frozen=True, slots=True)
class S3Server:
    """An S3 server, as a user with these keys has it.

    *other* is the same server for a user who may do nothing with what the first one makes.
    *directory* is that of a Ceph.
    """

    endpoint: str
    access_key: str
    secret_key: str
    other: Self | None = None
    directory: Path | None = None

    def storage_url(self, bucket: str, prefix: str = "") -> str:
        path = f"{bucket}/{prefix}" if prefix else bucket
        return f"s3://{path}?regionendpoint={self.endpoint}&region={_REGION}&forcepathstyle=true"

    def environment(self) -> dict[str, str]:
        """The variables that go with a storage URL."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": _REGION,
            # Somebody's profile is to change nothing.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> "S3Client":
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=_REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )

    def new_bucket(self) -> str:
        """The name of a bucket that is made now."""
        name = f"blobfs-{secrets.token_hex(8)}"
        with closing(self.client()) as client:
            client.create_bucket(Bucket=name)
        return name

    def remove_bucket(self, name: str) -> None:
        """Remove a bucket with its objects and unfinished uploads."""
        with closing(self.client()) as client:
            for uploads in client.get_paginator("list_multipart_uploads").paginate(Bucket=name):
                for upload in uploads.get("Uploads", ()):
                    client.abort_multipart_upload(
                        Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
                keys: list[ObjectIdentifierTypeDef] = [
                    {"Key": item["Key"]} for item in page.get("Contents", ())
                ]
                if keys:
                    client.delete_objects(Bucket=name, Delete={"Objects": keys, "Quiet": True})
            client.delete_bucket(Bucket=name)

    @contextmanager
    def bucket(self) -> Iterator[str]:
        """A new bucket, which is removed with all that is in it after the ``with`` block."""
        name = self.new_bucket()
        try:
            yield name
        finally:
            self.remove_bucket(name)

    @contextmanager
    def killed(self) -> Iterator[None]:
        """Kill the gateway of a Ceph, and start it again after the ``with`` block."""
        assert self.directory is not None
        pid = int((self.directory / "rgw.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self._is_reached())
        try:
            yield
        finally:
            start = 'exec setsid "$@" >>"$0/rgw.log" 2>&1 </dev/null & echo $! >"$0/rgw.pid"'
            run("sh", "-c", start, self.directory, *command)
            eventually(self._is_reached)

    def _is_reached(self) -> bool:
        parts = urlsplit(self.endpoint)
        try:
            socket.create_connection((parts.hostname, parts.port), timeout=1).close()
        except OSError:
            return False
        return True


@contextmanager
def serving_ceph(directory: Path) -> Iterator[S3Server]:
    """A Ceph of its own, in a *directory* that is made for it and removed."""
    try:
        printed = run(_SERVER, "start", directory).decode()
        values = dict(line.split("=", 1) for line in printed.splitlines())
        endpoint = values["AWS_ENDPOINT_URL"]
        other = S3Server(
            endpoint, values["BLOBFS_OTHER_ACCESS_KEY_ID"], values["BLOBFS_OTHER_SECRET_ACCESS_KEY"]
        )
        yield S3Server(
            endpoint, values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"], other, directory
        )
    finally:
        stop_ceph(directory)


def stop_ceph(directory: Path) -> None:
    """End what serves in *directory*, if anything does."""
    run(_SERVER, "stop", directory)


@contextmanager
def serving_moto(directory: Path) -> Iterator[S3Server]:
    """A moto of its own, whose log lies in *directory*."""
    port = free_port()
    program = Path(sys.executable).with_name("moto_server")
    command = (program, "-H", "127.0.0.1", "-p", str(port))
    address = f"127.0.0.1:{port}"
    with serving(command, address, "/moto-api/", directory / "moto.log", os.environ):
        yield S3Server(f"http://{address}", "moto", "moto")


@dataclass(frozen=True, slots=True)
class S3Registry:
    """A registry whose storage is a bucket of *server*, and the URL of that storage."""

    registry: DockerRegistry
    server: S3Server
    bucket: str
    storage_url: str


@contextmanager
def serving_registry(
    server: S3Server, bucket: str, directory: Path, prefix: str = "", **more: object
) -> Iterator[S3Registry]:
    """Serve what is below *prefix* in a bucket; configuration and log lie in *directory*.

    *more* are parameters of the driver.
    """
    parameters = {
        "accesskey": server.access_key,
        "secretkey": server.secret_key,
        "region": _REGION,
        "regionendpoint": server.endpoint,
        "bucket": bucket,
        "rootdirectory": f"/{prefix}",
        "secure": False,
        "v4auth": True,
        **more,
    }
    with DockerRegistry.serving_s3(parameters, directory) as registry:
        yield S3Registry(registry, server, bucket, server.storage_url(bucket, prefix))
