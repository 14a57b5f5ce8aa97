"""A place in S3 for the tests of a session, in which each driver has a prefix of its own."""

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.s3 import S3Driver
from blobfs.drivers.s3_client import client_for
from blobfs.drivers.s3_options import MIN_PART, S3Options
from tests.s3 import S3Server

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


class S3Place:
    """A bucket of *server*; *client* sees and makes what no driver would."""

    def __init__(self, server: S3Server, bucket: str, client: "S3Client") -> None:
        self.server = server
        self.bucket = bucket
        self.client = client
        self._shared = self._connected(self.options())

    @classmethod
    @contextmanager
    def on(cls, server: S3Server) -> Iterator["S3Place"]:
        """One in a new bucket, which is removed after the ``with`` block."""
        with server.bucket() as bucket, closing(server.client()) as client:
            place = cls(server, bucket, client)
            yield place
            place._shared.close()

    def options(self, endpoint: str | None = None, **changes: Any) -> S3Options:  # noqa: ANN401
        """A new prefix, and parts as small as may be; *endpoint* may be a proxy's."""
        url = self.server.storage_url(self.bucket, secrets.token_hex(8))
        options = replace(S3Options.parse(url), chunk_size=MIN_PART)
        return replace(options, endpoint=endpoint or self.server.endpoint, **changes)

    def driver(self, options: S3Options) -> S3Driver:
        """One that does not wait for a client to be made, which takes longer than most tests."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("blobfs.drivers.s3.client_for", lambda _: self._shared)
            return S3Driver(options)

    def driver_through(self, options: S3Options) -> S3Driver:
        """One with a client of its own, for an endpoint of its own."""
        with self.user():
            return S3Driver(options)

    @contextmanager
    def user(self) -> Iterator[None]:
        """Let clients that are made in the ``with`` block find the user's keys."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.server.environment().items():
                patch.setenv(name, value)
            yield

    def _connected(self, options: S3Options) -> "S3Client":
        with self.user():
            return client_for(options)

    def keys(self, options: S3Options) -> list[str]:
        """Those below the prefix, without it, hidden ones too."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{options.root}/"
        )
        found = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return [key.removeprefix(f"{options.root}/") for key in found]

    def uploads(self, options: S3Options) -> list[str]:
        """The keys, without the prefix, of the multipart uploads below it."""
        # moto has no pages.
        answer = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=f"{options.root}/")
        assert not answer["IsTruncated"]
        return [
            upload["Key"].removeprefix(f"{options.root}/") for upload in answer.get("Uploads", ())
        ]

    def take_down(self, driver: StorageDriver, options: S3Options) -> None:
        """Remove what a test left, and see that nothing is there that the driver does not know."""
        store = self.driver(options)
        for unfinished in list(store.unfinished("/")):
            store.abandon(unfinished)
        for entry in list(driver.listdir("/")):
            driver.delete(f"/{entry.name}")
        driver.close()
        store.close()
        left = [*self.keys(options), *self.uploads(options)]
        assert left == [], "delete left something behind"
