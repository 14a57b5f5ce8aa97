"""The first request to a bucket, which does not retry a failed connection.

botocore retries a request without a connection for half a minute, as it retries all others. That
suits a running mount, but is too long for a person who has mistyped the name of a host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from botocore.exceptions import (
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
)

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

_EVENT: Final = "response-received.s3"
_UNREACHABLE: Final = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError)


@contextmanager
def connecting_once(client: S3Client) -> Iterator[None]:
    """Within the block, raise botocore's error of the first failed connection."""
    events = client.meta.events
    events.register(_EVENT, _give_up)
    try:
        yield
    finally:
        events.unregister(_EVENT, _give_up)


def _give_up(exception: Exception | None, **_: object) -> None:
    if isinstance(exception, _UNREACHABLE):
        raise exception
