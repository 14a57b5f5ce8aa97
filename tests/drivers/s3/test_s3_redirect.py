"""URLs by which others may fetch what a bucket has."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import S3Options
from tests.support.s3_prefixes import S3Place

pytestmark = pytest.mark.s3


def test_file_is_fetched_by_its_url(store: S3Driver) -> None:
    store.put_content("/a/b", b"content")
    url = store.redirect_url("/a/b")
    assert url is not None
    with urlopen(url, timeout=10) as answer:
        assert answer.read() == b"content"


def test_url_is_good_for_its_file_only(ceph_store: S3Driver) -> None:
    for path in ("/a", "/b"):
        ceph_store.put_content(path, b"content")
    url = ceph_store.redirect_url("/a")
    assert url is not None
    with pytest.raises(HTTPError, match="403"):
        urlopen(url.replace("/a?", "/b?"), timeout=10)


@pytest.fixture
def store_whose_reader_pays(ceph_place: S3Place) -> Iterator[S3Driver]:
    paid: S3Options = replace(ceph_place.options(), for_reads={"RequestPayer": "requester"})
    with closing(ceph_place.driver(paid)) as store:
        yield store


def test_who_would_have_to_agree_to_pay_gets_no_url(store_whose_reader_pays: S3Driver) -> None:
    assert store_whose_reader_pays.redirect_url("/a") is None
