"""The first request to a bucket: an endpoint that cannot be reached is reported at once.

botocore repeats a request that got no connection for half a minute, as it repeats all others. That
is right for a mount that runs, and too long for a person who has mistyped a host's name.
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
    """Inside the block, raise botocore's error of the first connection that cannot be made."""
    events = client.meta.events
    events.register(_EVENT, _give_up)
    try:
        yield
    finally:
        events.unregister(_EVENT, _give_up)


def _give_up(exception: Exception | None, **_: object) -> None:
    if isinstance(exception, _UNREACHABLE):
        raise exception
