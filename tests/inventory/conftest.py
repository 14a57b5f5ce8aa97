"""Storages that an inventory is taken of, by their URL, and what lays a registry out in them."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from blobfs.drivers.factory import driver_for
from blobfs.inventory import scanning
from tests.support.layout import Layout
from tests.support.s3_prefixes import keys_of
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage, and the requests that it gets if it is remote."""

    url: str
    layout: Layout
    proxy: S3Proxy | None = None


@pytest.fixture(autouse=True)
def _drivers_are_closed() -> Iterator[None]:
    yield
    scanning.close_all()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Storage]:
    root = tmp_path / "storage"
    root.mkdir()
    with closing(driver_for(str(root))) as driver:
        yield Storage(str(root), Layout(driver))


@pytest.fixture
def bucket(moto: S3Server) -> Iterator[Storage]:
    """A new bucket of moto, behind a proxy."""
    with ExitStack() as stack:
        stack.enter_context(keys_of(moto))
        proxy = stack.enter_context(S3Proxy.before(moto.endpoint))
        url = moto.storage_url(stack.enter_context(moto.bucket()), secrets.token_hex(4))
        url = url.replace(moto.endpoint, proxy.url)
        driver = stack.enter_context(closing(driver_for(url)))
        yield Storage(url, Layout(driver), proxy)
        scanning.close_all()


@pytest.fixture(params=["directory", "bucket"])
def storage(request: pytest.FixtureRequest) -> Storage:
    found: Storage = request.getfixturevalue(request.param)
    return found


Lay = Callable[[Layout], None]
