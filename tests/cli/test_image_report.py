"""``blobfs show``: an image's platforms, config, layers and history."""

import json

import pytest

from blobfs import paths
from blobfs.cli import image_report
from blobfs.digest import Digest
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import RepositoryUnknown, TagUnknown
from blobfs.reference import Reference
from blobfs.storage.manifest import OCI_INDEX, OCI_MANIFEST
from blobfs.storage.registry import Registry
from tests.support.layout import APP, Json, Layout, as_bytes, image, index

CONFIG: dict[str, Json] = {
    "os": "linux",
    "architecture": "arm64",
    "variant": "v8",
    "created": "2024-02-29T12:00:00Z",
    "history": [
        {"created_by": "ADD rootfs.tar /"},
        {"created_by": "ENV A=1", "empty_layer": True},
        {"created_by": "RUN make"},
    ],
}


@pytest.fixture
def layout() -> Layout:
    return Layout(BaseDriver(InMemoryDriver()))


def put(layout: Layout, config: Json = CONFIG, layers: int = 2) -> Digest:
    """Store an image, and return its revision."""
    blobs = [layout.layer(as_bytes(config)), *(layout.layer(b"%d" % n) for n in range(layers))]
    return layout.revision(image(*blobs))


def show(layout: Layout, text: str = f"{APP}:latest") -> image_report.ImageReport:
    return image_report.show(Registry(layout.driver), Reference.parse(text))


def test_image_is_shown_with_its_platform_and_steps(layout: Layout) -> None:
    layout.tag(put(layout))
    [shown] = show(layout).images
    assert (shown.platform, shown.created) == ("linux/arm64/v8", "2024-02-29T12:00:00Z")
    first, second = str(Digest.of(b"0")), str(Digest.of(b"1"))
    assert [(step.digest, step.created_by) for step in shown.steps] == [
        (first, "ADD rootfs.tar /"), (None, "ENV A=1"), (second, "RUN make"),
    ]  # fmt: skip


def test_index_shows_an_image_for_each_platform(layout: Layout) -> None:
    images = [put(layout), put(layout, {"os": "linux", "architecture": "amd64"})]
    layout.tag(layout.revision(index(*images)))
    shown = show(layout)
    assert shown.media_type == OCI_INDEX
    assert [one.platform for one in shown.images] == ["linux/arm64/v8", "linux/amd64"]
    assert [one.digest for one in shown.images] == [str(digest) for digest in images]


def test_layers_without_a_history_come_last(layout: Layout) -> None:
    layout.tag(put(layout, {"history": [{"created_by": "only"}]}, layers=2))
    [shown] = show(layout).images
    assert [step.created_by for step in shown.steps] == ["only", ""]


@pytest.mark.parametrize(
    "config",
    [
        [],
        "text",
        {"os": 1, "architecture": None, "created": [], "history": {}},
        {"history": [1, None, {"created_by": 7, "empty_layer": "yes"}]},
    ],
    ids=["list", "text", "wrong types", "wrong history"],
)
def test_hostile_config_is_shown_as_far_as_it_can_be_read(layout: Layout, config: Json) -> None:
    layout.tag(put(layout, config))
    [shown] = show(layout).images
    assert (shown.platform, shown.created) == (None, None)
    assert [step.digest for step in shown.steps] == [str(Digest.of(b"0")), str(Digest.of(b"1"))]


def test_escape_sequences_of_a_history_reach_no_terminal(layout: Layout) -> None:
    layout.tag(put(layout, {"history": [{"created_by": "\x1b[2Jsh\nx"}]}, layers=1))
    assert r"\x1b[2Jsh\nx" in show(layout).as_text()


def test_missing_layer_is_damage(layout: Layout) -> None:
    layout.tag(put(layout))
    layout.driver.delete(paths.blob_data(Digest.of(b"1")))
    shown = show(layout)
    assert shown.is_damaged
    assert f"{Digest.of(b'1')} is missing" in shown.as_text()


def test_child_that_is_missing_is_damage_and_the_others_are_shown(layout: Layout) -> None:
    layout.tag(layout.revision(index(Digest.of(b"missing"), put(layout))))
    shown = show(layout)
    assert shown.is_damaged
    assert [one.platform for one in shown.images] == ["linux/arm64/v8"]


def test_image_is_found_by_its_digest(layout: Layout) -> None:
    revision = put(layout)
    shown = show(layout, f"{APP}@{revision}")
    assert (shown.digest, shown.tagged) == (str(revision), None)


def test_json_is_one_object(layout: Layout) -> None:
    layout.tag(put(layout))
    document = json.loads(show(layout).as_json())
    assert document["media_type"] == OCI_MANIFEST
    assert document["images"][0]["steps"][1] == {
        "digest": None, "size": 0, "media_type": None, "created_by": "ENV A=1",
    }  # fmt: skip


def test_unknown_tag_and_repository_are_errors(layout: Layout) -> None:
    layout.tag(put(layout))
    with pytest.raises(TagUnknown):
        show(layout, f"{APP}:none")
    with pytest.raises(RepositoryUnknown):
        show(layout, "nowhere:latest")
