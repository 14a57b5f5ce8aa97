"""A collection in S3: the same promises, where a blob is set aside by a copy."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.drivers.factory import driver_for
from blobfs.drivers.location import Location
from blobfs.inventory import scanning
from blobfs.inventory.inventory import Inventory
from blobfs.reference import RepositoryName
from tests.maintenance.gc.conftest import AT_ONCE, Garbage, add_used_image, later
from tests.support.files import walk
from tests.support.layout import APP, Layout, image
from tests.support.s3_faults import Kind
from tests.support.s3_prefixes import keys_of
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.s3

OTHER = RepositoryName("other")


@pytest.fixture(params=["ceph", "moto"])
def garbage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Garbage]:
    server: S3Server = request.getfixturevalue(request.param)
    with ExitStack() as stack:
        stack.enter_context(keys_of(server))
        url = server.storage_url(stack.enter_context(server.bucket()), secrets.token_hex(4))
        driver = stack.enter_context(closing(driver_for(url)))
        stack.callback(scanning.close_all)
        add_used_image(Layout(driver))
        yield Garbage(url, tmp_path / "state", Layout(driver))


def test_dead_image_goes_and_what_is_linked_meanwhile_stays(garbage: Garbage) -> None:
    layout = garbage.layout
    old = layout.revision(image(layout.layer(b"old")))
    new = layout.revision(image(layout.layer(b"new")))
    layout.tag(new)
    again = layout.blob(b"linked again")
    stray = layout.blob(b"of nobody")

    def link(_seconds: float) -> None:
        layout.link(paths.layers(OTHER), again)

    garbage.delete(replace(AT_ONCE, layers=False), wait=link)
    assert [garbage.has_blob(each) for each in (old, new, again, stray)] == [
        False, True, True, False,
    ]  # fmt: skip
    assert not any(paths.ASIDE in file.path for file in walk(layout.driver, paths.BLOBS))


@pytest.mark.parametrize("is_linked", [True, False])
def test_copy_of_a_killed_run_is_completed(garbage: Garbage, is_linked: bool) -> None:
    """The data and their copy are both there: the run was killed between copy and deletion."""
    blob = garbage.layout.layer(b"content", OTHER) if is_linked else garbage.layout.blob(b"content")
    garbage.layout.put(paths.blob_aside(blob, "of-a-killed-run"), b"content")
    garbage.delete(replace(AT_ONCE, layers=False))
    assert garbage.has_blob(blob) is is_linked
    assert not garbage.has_aside(blob)


def test_slow_push_gets_its_link_back(garbage: Garbage) -> None:
    layer = garbage.layout.layer(b"layer")
    garbage.delete(later(grace_s=3600))
    assert not garbage.has_layer(layer)
    garbage.layout.tag(garbage.layout.revision(image(layer)))
    garbage.delete(later(grace_s=3600))
    assert garbage.has_layer(layer, APP)


def test_plan_costs_the_requests_of_an_inventory(moto: S3Server, tmp_path: Path) -> None:
    """One LIST for a thousand keys of a span, and one GET for a manifest."""
    with ExitStack() as stack:
        stack.enter_context(keys_of(moto))
        proxy = stack.enter_context(S3Proxy.before(moto.endpoint))
        url = moto.storage_url(stack.enter_context(moto.bucket())).replace(moto.endpoint, proxy.url)
        layout = Layout(stack.enter_context(closing(driver_for(url))))
        stack.callback(scanning.close_all)
        for number in range(3):
            name = RepositoryName(f"app{number}")
            layout.revision(image(layout.layer(b"%d" % number, name)), name)
        scanning.opened(Location.of(url))  # asks if the bucket answers
        with proxy.counting() as expected, Inventory.taken(url, state=tmp_path / "inventory"):
            pass
        garbage = Garbage(url, tmp_path / "state", layout)
        with proxy.counting() as counted:
            assert len(garbage.planned()) == 12
        assert counted == expected
        assert counted[Kind.GET] == 3
