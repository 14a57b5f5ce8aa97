"""Links that a registry truncates before it writes them, seen through a mount."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blobfs import paths
from tests.support.layout import APP, LATEST, Layout
from tests.support.mounts import MountedRegistry, mounted

pytestmark = pytest.mark.fuse

_TRUNCATED_FOR_S = 0.002
_UNCACHED = [f"--{what}-timeout=0" for what in ("tag", "negative", "entry", "attr")]


@contextmanager
def _rewritten(*links: Path) -> Iterator[None]:
    """Write the links again and again, as a registry does: cut to nothing, then written."""
    contents = {link: link.read_bytes() for link in links}
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for link, content in contents.items():
                with link.open("r+b", buffering=0) as file:
                    file.truncate(0)
                    time.sleep(_TRUNCATED_FOR_S)
                    file.write(content)

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def uncached(storage: Path, tmp_path: Path, layout: Layout) -> Iterator[MountedRegistry]:
    layout.layer(b"a layer")
    layout.tag(layout.revision(b"{}"))
    with mounted(storage, tmp_path, "--cache=none", *_UNCACHED) as mount:
        yield mount


def test_readers_beside_a_registry_that_writes_links_meet_no_error(
    uncached: MountedRegistry, storage: Path
) -> None:
    """[S5.4] A link that is too short and younger than 2 s is read again for up to 50 ms before it
    counts as damaged.
    """
    root = storage / paths.repository(APP)[1:]
    repository = uncached.path / APP
    tag = repository / "_manifests/tags" / LATEST
    with _rewritten(*root.rglob("link")):
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            with os.scandir(tag.parent) as tags:
                assert [entry.is_symlink() for entry in tags] == [True]
            target = os.readlink(tag)
            [revision] = (repository / "_manifests/revisions/sha256").iterdir()
            assert revision.read_bytes() == b"{}"
            assert target.endswith(revision.name)
            [layer] = (repository / "_layers/sha256").iterdir()
            assert layer.stat().st_size == len(b"a layer")
    assert uncached.warnings() == []


def test_mount_answers_while_a_short_link_is_waited_for(
    uncached: MountedRegistry, storage: Path
) -> None:
    """[S5.4] No other request waits for that. 40 links take at least 2 s of waiting, in threads."""
    versions = 0
    for number in range(40):
        link = storage / paths.tag_current_link(APP, LATEST).replace(LATEST, f"v{number}")[1:]
        link.parent.mkdir(parents=True)
        link.touch()
    tags = uncached.path / APP / "_manifests/tags"
    listing = threading.Thread(target=os.listdir, args=(tags,))
    listing.start()
    slowest = 0.0
    while listing.is_alive():
        began = time.monotonic()
        assert (uncached.path / ".blobfs/version").read_text()
        slowest = max(slowest, time.monotonic() - began)
        versions += 1
    listing.join()
    assert versions > 10
    assert slowest < 1.0
