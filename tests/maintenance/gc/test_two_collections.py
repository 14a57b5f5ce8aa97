"""Two collections of one storage at the same time, with different journals."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from blobfs import paths
from blobfs.inventory.rows import unpack
from tests.maintenance.gc.conftest import AT_ONCE, Garbage
from tests.maintenance.gc.test_collector import OTHER, once

TIMEOUT_S = 60.0
CONTENT = b"pushed again"


@pytest.fixture
def other(garbage: Garbage, tmp_path: Path) -> Garbage:
    """Another collection of the same storage."""
    return replace(garbage, state=tmp_path / "other")


def test_blob_that_is_pushed_while_two_set_it_aside_stays(garbage: Garbage, other: Garbage) -> None:
    """[S19.37] Several collections of a storage at the same time lose nothing, also with different
    journals.

    The first sets the blob aside, a push stores it, the second sets that aside, the first deletes,
    and the push links.
    """
    blob = garbage.layout.blob(CONTENT)
    pushed, is_aside = Event(), Event()

    def push() -> None:
        garbage.layout.blob(CONTENT)
        pushed.set()
        assert is_aside.wait(TIMEOUT_S)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(garbage.delete, wait=once(push))
        assert pushed.wait(TIMEOUT_S)

        def link() -> None:
            is_aside.set()
            first.result(TIMEOUT_S)
            garbage.layout.link(paths.layers(OTHER), blob)

        outcome = other.delete(wait=once(link))
    assert garbage.has_blob(blob)
    assert not garbage.has_aside(blob)
    assert outcome.lost == set()


@pytest.mark.parametrize("is_linked", [True, False])
def test_blob_that_another_collection_has_set_aside_is_completed_once(
    garbage: Garbage, other: Garbage, is_linked: bool
) -> None:
    blob = garbage.layout.blob(CONTENT)

    def collect() -> None:
        if is_linked:
            garbage.layout.link(paths.layers(OTHER), blob)
        other.delete(replace(AT_ONCE, layers=False))

    outcome = garbage.delete(replace(AT_ONCE, layers=False), wait=once(collect))
    assert garbage.has_blob(blob) is is_linked
    assert not garbage.has_aside(blob)
    assert outcome.lost == set()


def test_needed_blob_that_another_program_deletes_is_reported(garbage: Garbage) -> None:
    blob = garbage.layout.blob(CONTENT)

    def delete_and_link() -> None:
        [entry] = garbage.layout.driver.listdir(paths.blob_data(blob).rpartition("/")[0])
        garbage.layout.driver.delete(f"{paths.blob_data(blob).rpartition('/')[0]}/{entry.name}")
        garbage.layout.link(paths.layers(OTHER), blob)

    outcome = garbage.delete(replace(AT_ONCE, layers=False), wait=once(delete_and_link))
    assert [unpack(each) for each in outcome.lost] == [blob]
