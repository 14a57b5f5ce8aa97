"""Indexes that ``Images`` builds, finds and counts, and images by platform."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blobfs import metrics
from blobfs.digest import Digest
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import LayerInvalid, NameInvalid, NotFound
from blobfs.images.image import Image
from blobfs.images.images import Images
from blobfs.images.index_store import IndexStore
from blobfs.images.platforms import Platform
from blobfs.reference import Tag
from blobfs.storage.registry import Registry
from tests.support.layers import archive, image_blobs, member, store_image
from tests.support.layout import APP, Layout, index

LOW = archive(member(b"etc/passwd", b"root"))
HIGH = archive(member(b"srv/data", b"x" * 1000))


@pytest.fixture
def layout() -> Layout:
    return Layout(InMemoryDriver())


class Opened:
    """Images of a registry in memory, with their indexes in a directory."""

    def __init__(self, layout: Layout, directory: Path) -> None:
        self.registry = Registry(layout.driver)
        self.repository = self.registry.repository(APP)
        self.read: list[int] = []
        self.images = Images(self.registry, IndexStore(directory, 2**30), self.read.append)

    def image(self, digest: Digest) -> Image:
        return self.images.image(self.repository, digest)

    def close(self) -> None:
        self.registry.close()


@pytest.fixture
def opened(layout: Layout, tmp_path: Path) -> Iterator[Opened]:
    with closing(Opened(layout, tmp_path)) as found:
        yield found


def count(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"blobfs_image_{name}", labels) or 0.0


def counts() -> dict[tuple[str, str], float]:
    return {
        (kind, result): count("indexes_total", kind=kind, result=result)
        for kind in ("layer", "tree")
        for result in ("built", "found", "failed")
    }


def changes(before: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    return {key: now - before[key] for key, now in counts().items() if now != before[key]}


def test_indexes_are_counted_when_they_are_built_and_found(
    layout: Layout, opened: Opened, tmp_path: Path
) -> None:
    digest = store_image(layout, LOW, HIGH, compress=True)
    before, seconds = counts(), count("index_seconds_count", kind="layer")
    files = opened.images.rootfs(opened.repository, opened.image(digest))
    assert changes(before) == {("layer", "built"): 2, ("tree", "built"): 1}
    assert count("index_seconds_count", kind="layer") == seconds + 2
    assert sum(opened.read) == sum(map(len, image_blobs([LOW, HIGH], compress=True)[:2]))

    before, spans = counts(), count("spans_decompressed_total")
    with files.open(files.resolve(b"/etc/passwd").number) as reader:
        assert reader.read_at(0, 10) == b"root"
    assert count("spans_decompressed_total") == spans + 1

    with closing(Opened(layout, tmp_path)) as again:
        again.images.rootfs(again.repository, again.image(digest))
        assert changes(before) == {("tree", "found"): 1}
        assert not again.read


def test_index_that_cannot_be_built_is_counted(layout: Layout, opened: Opened) -> None:
    image = opened.image(store_image(layout, b"no archive" * 100))
    before = counts()
    with pytest.raises(LayerInvalid, match=r"layer sha256:\w+: the layer is no tar archive"):
        opened.images.rootfs(opened.repository, image)
    assert changes(before) == {("layer", "failed"): 1, ("tree", "failed"): 1}


def test_damaged_layer_of_several_images_is_read_once(layout: Layout, opened: Opened) -> None:
    damaged = b"no archive" * 100
    for others in ((), (LOW,)):
        image = opened.image(store_image(layout, damaged, *others))
        with pytest.raises(LayerInvalid):
            opened.images.rootfs(opened.repository, image)
    assert opened.read.count(len(damaged)) == 1


def test_layers_without_an_index_are_known(layout: Layout, opened: Opened) -> None:
    low, both = (opened.image(store_image(layout, *each)) for each in ((LOW,), (LOW, HIGH)))
    assert len(opened.images.unindexed(both)) == 2
    assert opened.images.index_size(both) == 0
    opened.images.rootfs(opened.repository, low)
    [layer] = opened.images.unindexed(both)
    assert layer.descriptor.digest == Digest.of(HIGH)
    opened.images.rootfs(opened.repository, both)
    assert not opened.images.unindexed(both)
    assert opened.images.index_size(both) > opened.images.index_size(low) > 0


def test_image_for_a_platform(layout: Layout, opened: Opened) -> None:
    amd64 = store_image(layout, LOW, tag=Tag("amd64"))
    both = layout.revision(index(amd64))
    wanted, missing = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")
    for digest in (both, amd64):
        found = opened.images.for_platform(opened.repository, digest, wanted)
        assert found.digest == amd64
        with pytest.raises(NotFound, match="no image for linux/arm64; it has linux/amd64"):
            opened.images.for_platform(opened.repository, digest, missing)


@pytest.mark.parametrize(
    ("text", "other", "is_included"),
    [
        ("linux/arm", Platform("linux", "arm", "v6"), True),
        ("linux/arm/v7", Platform("linux", "arm"), True),
        ("linux/arm/v6", Platform("linux", "arm"), False),
        ("linux/arm64/v8", Platform("linux", "arm64"), True),
        ("linux/arm64", Platform("linux", "arm"), False),
    ],
)
def test_platform_includes_its_variants(text: str, other: Platform, is_included: bool) -> None:
    assert Platform.parse(text).includes(other) is is_included


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/a b"])
def test_text_that_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid, match="not a platform"):
        Platform.parse(text)
