"""Images of manifests and of indexes: platforms, layers, diff IDs, and what hostile JSON says."""

import json
from collections.abc import Mapping

import pytest

from blobfs.digest import Digest
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import ManifestInvalid
from blobfs.images.image import Image, best_image, images_of
from blobfs.images.platforms import Platform
from blobfs.storage.manifest import OCI_INDEX
from blobfs.storage.registry import Registry
from tests.support.layout import APP, Json, Layout, as_bytes, descriptor, image

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64", "v8")


class Stored:
    """A repository in memory."""

    def __init__(self) -> None:
        self.layout = Layout(InMemoryDriver())
        self.repository = Registry(self.layout.driver).repository(APP)

    def image(self, config: object, *layers: bytes) -> Digest:
        stored = [self.layout.layer(each) for each in (json.dumps(config).encode(), *layers)]
        return self.layout.revision(image(*stored))

    def index(self, *children: tuple[Digest, Json]) -> Digest:
        manifests: list[Json] = [
            {**descriptor(child), "platform": platform} if platform else descriptor(child)
            for child, platform in children
        ]
        document: Json = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        return self.layout.revision(as_bytes(document))


@pytest.fixture
def stored() -> Stored:
    return Stored()


def _config(platform: Platform, **others: object) -> Mapping[str, object]:
    return {"os": platform.os, "architecture": platform.architecture, **others}


def test_image_has_the_layers_and_diff_ids_of_its_config(stored: Stored) -> None:
    config = _config(
        AMD64, rootfs={"diff_ids": [str(Digest.of(b"1"))]}, created="2020-01-01T00:00:00.5Z"
    )
    found = Image.read(stored.repository, stored.image(config, b"one", b"two"))
    assert [layer.descriptor.digest for layer in found.layers] == [
        Digest.of(b"one"),
        Digest.of(b"two"),
    ]
    assert [layer.diff_id for layer in found.layers] == [Digest.of(b"1"), None]
    assert (found.platform, found.created_ns) == (AMD64, 1577836800_500000000)


@pytest.mark.parametrize(
    "config",
    [[], 1, {}, {"rootfs": 1}, {"rootfs": {"diff_ids": [1, "x", None]}}, {"created": "x"},
     {"os": 1, "architecture": []}, {"os": "a/b", "architecture": "c"}],
)  # fmt: skip
def test_what_a_config_says_wrongly_is_left_out(stored: Stored, config: object) -> None:
    found = Image.read(stored.repository, stored.image(config, b"one"))
    assert (found.layers[0].diff_id, found.platform, found.created_ns) == (None, None, 0)


def test_config_that_is_not_json_is_refused(stored: Stored) -> None:
    digest = stored.layout.revision(image(stored.layout.layer(b"["), stored.layout.layer(b"l")))
    with pytest.raises(ManifestInvalid, match="not JSON"):
        Image.read(stored.repository, digest)


def test_index_has_an_image_for_each_platform_and_no_attestation(stored: Stored) -> None:
    amd, arm = (stored.image(_config(each), str(each).encode()) for each in (AMD64, ARM64))
    other = stored.image({}, b"attestation")
    unknown: Json = {"os": "unknown", "architecture": "unknown"}
    declared: Json = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    index = stored.index((arm, declared), (amd, None), (other, unknown))
    assert images_of(stored.repository, index) == {ARM64: arm, AMD64: amd}
    assert images_of(stored.repository, amd) == {None: amd}


def test_image_here_is_that_of_this_machine_or_the_first(stored: Stored) -> None:
    here, strange = Platform.here(), Platform("plan9", "pdp11")
    ours, other = (stored.image(_config(each), str(each).encode()) for each in (here, strange))
    both = stored.index((other, None), (ours, None))
    assert best_image(images_of(stored.repository, both)) == ours
    assert best_image(images_of(stored.repository, stored.index((other, None)))) == other
    assert best_image(images_of(stored.repository, stored.index())) is None


def test_missing_child_hides_no_other(stored: Stored) -> None:
    gone = stored.image(_config(ARM64), b"gone")
    here = stored.image(_config(AMD64), b"here")
    index = stored.index((gone, None), (here, None))
    stored.layout.driver.delete("/docker/registry/v2/blobs/sha256/" + gone.encoded[:2])
    assert images_of(stored.repository, index) == {AMD64: here}


def test_nested_indexes_are_read_once_each(stored: Stored) -> None:
    top = stored.image(_config(AMD64), b"here")
    for _ in range(20):
        top = stored.index(*[(top, None)] * 20)
    assert list(images_of(stored.repository, top)) == [AMD64]


@pytest.mark.parametrize(
    ("here", "found", "best"),
    [
        (Platform("linux", "arm64"), [ARM64], ARM64),
        (
            Platform("linux", "arm", "v6"),
            [Platform("linux", "arm"), Platform("linux", "arm", "v6")],
            Platform("linux", "arm", "v6"),
        ),
        (AMD64, [ARM64], None),
        (AMD64, [Platform("windows", "amd64"), AMD64], AMD64),
    ],
)
def test_best_platform(here: Platform, found: list[Platform], best: Platform | None) -> None:
    assert here.best_of(found) == best
