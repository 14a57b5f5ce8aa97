"""A place in S3 for the tests of a session, in which each driver has a prefix of its own."""

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.s3.client import client_for, session_for
from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import MIN_PART, S3Options
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server

if TYPE_CHECKING:
    from botocore.session import Session
    from types_boto3_s3 import S3Client


class S3Place:
    """A bucket of *server*; *client* sees and makes what no driver would.

    *proxy* is before the server, for those whose options name it as their endpoint.
    """

    def __init__(self, server: S3Server, bucket: str, client: "S3Client", proxy: S3Proxy) -> None:
        self.server = server
        self.bucket = bucket
        self.client = client
        self.proxy = proxy
        self._clients: dict[tuple[S3Server, str | None], tuple[Session, S3Client]] = {}

    @classmethod
    @contextmanager
    def on(cls, server: S3Server) -> Iterator["S3Place"]:
        """One in a new bucket, which is removed after the ``with`` block."""
        with (
            server.bucket() as bucket,
            closing(server.client()) as client,
            S3Proxy.before(server.endpoint) as proxy,
        ):
            yield cls(server, bucket, client, proxy)

    def options(self, endpoint: str | None = None, **changes: Any) -> S3Options:  # noqa: ANN401
        """A new prefix, and parts as small as may be."""
        url = self.server.storage_url(self.bucket, secrets.token_hex(8))
        options = replace(S3Options.parse(url), chunk_size=MIN_PART, attempts=3)
        return replace(options, endpoint=endpoint or self.server.endpoint, **changes)

    def driver(self, options: S3Options, user: S3Server | None = None) -> S3Driver:
        """One of *user*, by default the bucket's owner; it is to be closed.

        It shares its client, which takes longer to be made than most tests.
        """
        of = (user or self.server, options.endpoint)
        if of not in self._clients:
            with keys_of(of[0]):
                session = session_for(options)
                self._clients[of] = session, client_for(options, session)
        session, client = self._clients[of]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("blobfs.drivers.s3.driver.session_for", lambda _: session)
            patch.setattr("blobfs.drivers.s3.driver.client_for", lambda *_: client)
            return S3Driver(options)

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
        store = self.driver(replace(options, endpoint=self.server.endpoint))
        for unfinished in list(store.unfinished("/")):
            store.abandon(unfinished)
        for name in {entry.name for entry in driver.listdir("/")}:
            driver.delete(f"/{name}")
        driver.close()
        store.close()
        left = [*self.keys(options), *self.uploads(options)]
        assert left == [], "delete left something behind"


@contextmanager
def keys_of(user: S3Server) -> Iterator[None]:
    """Let clients that are made in the ``with`` block find a user's keys."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in user.environment().items():
            patch.setenv(name, value)
        yield
