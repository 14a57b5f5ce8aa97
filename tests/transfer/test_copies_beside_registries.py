"""A copy of a storage that a registry and its clients write to."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event
from typing import Final, NamedTuple

import pytest

from blobfs.drivers.factory import driver_for
from tests.support.buckets import PREFIX, Bucket
from tests.support.command import invoke
from tests.support.mounts import eventually
from tests.support.s3_servers import S3Server, serving_registry
from tests.support.services import DockerRegistry, delete_manifest, push
from tests.support.tiny_images import TinyImages
from tests.support.varied_registry import VariedRegistry, holdings

pytestmark = [pytest.mark.registry, pytest.mark.s3, pytest.mark.long]

_WRITERS: Final = 4
_IMAGES: Final = 8
_REPOSITORIES: Final = ("team0/app0", "team1/app1", "pushed")
"""Two that are copied with many images, and a new one."""

_RATE: Final = "300K"
"""A copy of the first 4 MB takes long enough then, so that the writers make many changes."""

_LEAST_CHANGES: Final = 20


class Change(NamedTuple):
    """A tag of a repository that got *digest*, or was deleted, between two times."""

    began: float
    ended: float
    tag: str
    digest: str | None


@dataclass
class Writer:
    """A client that pushes images, moves its tags, and deletes its images.

    *images* are tags of *layout* with the digests of the images, which no other client pushes.
    """

    registry: DockerRegistry
    layout: Path
    images: dict[str, str]
    random: Random
    changes: list[Change] = field(default_factory=list)
    _tags: dict[str, dict[str, str]] = field(default_factory=dict)

    def write(self, stopped: Event) -> None:
        """Change one image after the other until *stopped* is set."""
        while not stopped.is_set():
            name = self.random.choice(_REPOSITORIES)
            tags = self._tags.setdefault(name, {})
            unused = [image for image, digest in self.images.items() if digest not in tags.values()]
            began = time.monotonic()
            if tags and (not unused or self.random.random() < 0.3):
                tag = self.random.choice(list(tags))
                delete_manifest(self.registry.address, name, tags.pop(tag))
            else:
                image = self.random.choice(unused)
                tag = self.random.choice([*tags, image])
                push(self.layout, self.registry.address, name, tag, source_tag=image)
                tags[tag] = self.images[image]
            change = Change(began, time.monotonic(), f"{name}:{tag}", tags.get(tag))
            self.changes.append(change)


def _expected(changes: list[Change], began: float, ended: float) -> dict[str, set[str | None]]:
    """The digests that each tag had at some time of a copy; None if it was missing."""
    found: dict[str, set[str | None]] = {}
    for change in changes:  # in their order, for each tag
        if change.ended < began:
            found[change.tag] = {change.digest}
        elif change.began < ended:
            found.setdefault(change.tag, {None}).add(change.digest)
    return found


@pytest.fixture(params=["directory", "ceph"])
def source(
    request: pytest.FixtureRequest, ceph: S3Server, tmp_path: Path
) -> Iterator[tuple[str, DockerRegistry]]:
    """A storage with images of every kind, and the registry that serves it."""
    with ExitStack() as stack:
        if request.param == "ceph":
            bucket = stack.enter_context(Bucket.made(ceph))
            url = bucket.url
            served = serving_registry(ceph, bucket.name, tmp_path, PREFIX)
            registry = stack.enter_context(served).registry
        else:
            url = str(tmp_path / "source")
            registry = stack.enter_context(DockerRegistry.serving(tmp_path / "source"))
        with closing(driver_for(url)) as driver:
            VariedRegistry(driver, size=80_000).fill(images=24)
        yield url, registry


@pytest.fixture
def writers(source: tuple[str, DockerRegistry], tmp_path: Path) -> list[Writer]:
    """Writers of images and indexes, whose layers are shared among them."""
    images = TinyImages(tmp_path / "images")
    found = []
    for n in range(_WRITERS):
        own = {}
        for k in range(_IMAGES):
            add = images.add_image if k % 3 else images.add_index
            own[f"w{n}-{k}"] = add(f"w{n}-{k}", k, k + 1, 100 + n)
        found.append(Writer(source[1], images.directory, own, Random(n)))
    return found


def test_what_was_there_before_is_copied_beside_pushes_and_deletes(
    source: tuple[str, DockerRegistry], writers: list[Writer], tmp_path: Path
) -> None:
    """[S22.6] A tag is copied as it was when it was looked at"""
    storage, target = source[0], tmp_path / "target"
    before = _tags(storage)
    copies = []
    stopped = Event()
    with ThreadPoolExecutor(_WRITERS) as pool:
        writing = [pool.submit(writer.write, stopped) for writer in writers]
        try:
            eventually(
                lambda: all(len(writer.changes) > _IMAGES for writer in writers), within_s=60
            )
            for options in (("--bwlimit", _RATE), ("--all",), ()):
                began = time.monotonic()
                result = invoke("cp", storage, target, "--state-dir", tmp_path / "state", *options)
                copies.append((began, time.monotonic(), _tags(target)))
                assert result.exit_code == 0, result.output
                assert invoke("verify", "--content", target).exit_code == 0
        finally:
            stopped.set()
    for each in writing:
        each.result()
    changes = [change for writer in writers for change in writer.changes]
    assert sum(copies[0][0] < change.ended < copies[0][1] for change in changes) >= _LEAST_CHANGES
    for began, ended, tags in copies:
        assert {tag: tags.get(tag) for tag in before} == before
        for tag, digests in _expected(changes, began, ended).items():
            assert tags.get(tag) in digests or None in digests


def _tags(storage: str | Path) -> dict[str, str]:
    found = holdings(storage).tags
    return {f"{name}:{tag}": digest for name, tags in found.items() for tag, digest in tags.items()}
