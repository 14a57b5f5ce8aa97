"""A bucket that a mount shows: what is in it, as any other client of it sees."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from blobfs import paths
from blobfs.digest import Digest
from tests.support.s3_servers import S3Server

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

PREFIX = "some/where"
CHUNK = 5 * 2**20
"""The least part of a multipart upload: mounts get it, so that small uploads have several."""


class Bucket:
    """The storage below ``PREFIX`` of a bucket; *endpoint* is the server, or a proxy before it."""

    def __init__(self, client: "S3Client", server: S3Server, name: str) -> None:
        self.client = client
        self.server = server
        self.name = name
        self.url = self.url_at(server.endpoint)

    @classmethod
    @contextmanager
    def made(cls, server: S3Server) -> Iterator["Bucket"]:
        """A new one; what is started inside the block finds the keys to it."""
        with (
            server.bucket() as name,
            closing(server.client()) as client,
            pytest.MonkeyPatch.context() as patch,
        ):
            for variable, value in server.environment().items():
                patch.setenv(variable, value)
            yield cls(client, server, name)

    def url_at(self, endpoint: str) -> str:
        """The storage, reached through *endpoint*."""
        return (
            f"s3://{self.name}/{PREFIX}?regionendpoint={endpoint}&region=us-east-1"
            f"&forcepathstyle=true&chunksize={CHUNK}"
        )

    def keys(self, below: str = "") -> list[str]:
        """What the keys of all objects under *below*, a path of the storage, go on with."""
        prefix = f"{PREFIX}{below}"
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        return [found["Key"][len(prefix) :] for page in pages for found in page.get("Contents", ())]

    def multipart_uploads(self) -> list[str]:
        """The paths of all multipart uploads that have not ended."""
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name)
        return [
            found["Key"].removeprefix(PREFIX) for page in pages for found in page.get("Uploads", ())
        ]

    def get(self, path: str) -> bytes:
        """The object that stores *path*."""
        return self.client.get_object(Bucket=self.name, Key=f"{PREFIX}{path}")["Body"].read()

    def put(self, path: str, content: bytes) -> datetime:
        """Store an object as somebody else would; when that was, as the server says."""
        key = f"{PREFIX}{path}"
        self.client.put_object(Bucket=self.name, Key=key, Body=content)
        return self.client.head_object(Bucket=self.name, Key=key)["LastModified"]

    def remove(self, path: str) -> None:
        """Remove an object as somebody else would."""
        self.client.delete_object(Bucket=self.name, Key=f"{PREFIX}{path}")

    def empty(self) -> None:
        """Remove all objects but a stray one, without which the registry would be gone."""
        self.put(f"{paths.ROOT}/stray", b"")
        for path in self.keys():
            if not path.endswith("/stray"):
                self.remove(path)

    def abort_multipart_uploads(self) -> None:
        """Abort all that have not ended."""
        for found in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ()):
            self.client.abort_multipart_upload(
                Bucket=self.name, Key=found["Key"], UploadId=found["UploadId"]
            )

    def has_blob(self, digest: Digest) -> bool:
        """Whether anybody sees the blob."""
        return bool(self.keys(paths.blob_data(digest)))

    def blobs(self) -> dict[str, bytes]:
        """Every blob, by its digits."""
        found = [f"{paths.BLOBS}{key}" for key in self.keys(paths.BLOBS) if key.endswith("/data")]
        return {path.split("/")[-2]: self.get(path) for path in found}

    def leftovers(self) -> list[str]:
        """What is of no blob, link or tag: uploads' files, tails, and multipart uploads."""
        objects = [key for key in self.keys() if "/_uploads/" in key or key.endswith(".tmp")]
        return objects + self.multipart_uploads()
