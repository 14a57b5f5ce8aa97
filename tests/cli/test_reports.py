"""What is told of a registry without a mount: repositories, tags, contents."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import pytest

from blobfs import paths
from blobfs.cli import reports
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import (
    AccessDenied,
    BlobUnknown,
    DigestMismatch,
    LinkInvalid,
    RepositoryUnknown,
    StorageUnavailable,
    TagUnknown,
)
from blobfs.reference import Reference, RepositoryName, Tag
from blobfs.storage.manifest import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST
from blobfs.storage.registry import Registry
from tests.support.layout import APP, LATEST, Layout, as_bytes, image, index, manifest
from tests.support.watched_driver import WatchedDriver

T = TypeVar("T")

CONFIG, LAYER = b"{}", b"a layer's bytes"
PAYLOAD = image(Digest.of(CONFIG), Digest.of(LAYER))
LAYERS, REVISIONS = paths.layers(APP), paths.revisions(APP)


def at_once(items: Iterable[T], label: str) -> Iterator[T]:
    """Progress that nobody is shown."""
    assert label
    return iter(items)


@pytest.fixture
def driver() -> StorageDriver:
    return BaseDriver(InMemoryDriver())


@pytest.fixture
def layout(driver: StorageDriver) -> Layout:
    return Layout(driver)


@pytest.fixture
def registry(driver: StorageDriver) -> Registry:
    return Registry(driver)


def put_image(layout: Layout, repository: RepositoryName = APP, tag: Tag = LATEST) -> Digest:
    """Tag an image of a config and a layer."""
    layout.layer(CONFIG, repository)
    layout.layer(LAYER, repository)
    revision = layout.revision(PAYLOAD, repository)
    layout.tag(revision, tag, repository)
    return revision


def rows(report: reports.Report) -> list[tuple[str | int | None, ...]]:
    """The rows without the time of tagging and the state, for tests of the other columns."""
    return [row[:-2] for row in report.rows]


def states(report: reports.Report) -> list[str | int | None]:
    """The last column: the state of a tag, or the number of damaged things of a repository."""
    return [row[-1] for row in report.rows]


def test_table_has_numbers_to_the_right_and_text_to_the_left() -> None:
    report = reports.Report(("name", "count"), [("a", 1), ("longer", 12345), ("b", None)])
    assert report.as_table().splitlines() == [
        "name    count",
        "a           1",
        "longer  12345",
        "b           ?",
    ]


def test_table_of_nothing_is_its_columns() -> None:
    assert reports.Report(("name", "count"), []).as_table() == "name  count"


def test_human_sizes_have_a_unit_and_at_most_four_characters() -> None:
    sizes = [0, 1023, 1024, 10_188, 10_240, 1_023_999, 2**20, 5 * 10**9, 2**63]
    report = reports.Report(("bytes",), [(size,) for size in sizes])
    assert report.as_table(human=True).split()[1:] == [
        "0", "1023", "1.0K", "9.9K", "10K", "1.0M", "1.0M", "4.7G", "8.0E",
    ]  # fmt: skip


def test_table_shows_what_a_terminal_would_obey_as_text() -> None:
    assert reports.Report(("state",), [("\x1b[2J",)]).as_table().splitlines()[1] == r"\x1b[2J"


def test_totals_count_a_shared_blob_once_and_are_no_row(layout: Layout, registry: Registry) -> None:
    for name in ("a", "b"):
        put_image(layout, RepositoryName(name))
    report = reports.repositories(registry, at_once)
    size = len(CONFIG) + len(LAYER) + len(PAYLOAD)
    assert report.totals == ("total", 2, 2, 4, size, "", 0)
    assert len(report.rows) == 2


def test_state_of_a_whole_tag_is_ok(layout: Layout, registry: Registry) -> None:
    put_image(layout)
    report = reports.tags(registry, APP)
    assert (states(report), report.damaged) == (["ok"], 0)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda layout: layout.driver.delete(paths.blob_data(Digest.of(LAYER))), "is missing"),
        (lambda layout: layout.driver.delete(paths.link(LAYERS, Digest.of(LAYER))), "has no link"),
        (lambda layout: layout.put(paths.tag_current_link(APP, LATEST)), "holds nothing"),
    ],
    ids=["missing blob", "missing layer link", "emptied tag"],
)
def test_state_of_a_damaged_tag_says_why(
    layout: Layout, registry: Registry, break_it: Callable[[Layout], None], told: str
) -> None:
    put_image(layout)
    break_it(layout)
    report = reports.tags(registry, APP)
    [state] = states(report)
    assert told in str(state)
    assert report.damaged == 1


def test_tag_of_a_revision_that_is_gone_is_damage(layout: Layout, registry: Registry) -> None:
    revision = put_image(layout)
    layout.driver.delete(paths.link(REVISIONS, revision))
    assert states(reports.repositories(registry, at_once)) == [1]


def test_json_has_an_object_for_each_row() -> None:
    report = reports.Report(("name", "count"), [("a", 1), ("b", None)])
    assert json.loads(report.as_json()) == [
        {"name": "a", "count": 1},
        {"name": "b", "count": None},
    ]


def test_json_of_nothing_is_an_empty_array() -> None:
    assert json.loads(reports.Report(("name",), []).as_json()) == []


def test_repositories_are_counted_in_order(layout: Layout, registry: Registry) -> None:
    for name in ("team/app", "team", "a"):
        put_image(layout, RepositoryName(name))
    layout.layer(b"four", RepositoryName("a"))
    layout.tag(Digest.of(PAYLOAD), Tag("v1"), RepositoryName("a"))
    size = len(CONFIG) + len(LAYER) + len(PAYLOAD)
    report = reports.repositories(registry, at_once)
    assert report.columns == (
        "repository", "tags", "manifests", "layers", "bytes", "tagged", "damaged",
    )  # fmt: skip
    assert rows(report) == [
        ("a", 2, 1, 3, size + 4),
        ("team", 1, 1, 2, size),
        ("team/app", 1, 1, 2, size),
    ]


def test_empty_registry_has_no_repositories(registry: Registry) -> None:
    assert rows(reports.repositories(registry, at_once)) == []


def test_empty_repository_counts_nothing(layout: Layout, registry: Registry) -> None:
    layout.put(f"{paths.uploads(APP)}/placeholder")
    assert rows(reports.repositories(registry, at_once)) == [("team/app", 0, 0, 0, 0)]


def test_blob_counts_its_bytes_once_within_a_repository(layout: Layout, registry: Registry) -> None:
    digest = layout.layer(LAYER)
    layout.link(REVISIONS, digest)
    layout.link(LAYERS, Digest.of(LAYER, "sha512"), str(digest).encode())
    assert rows(reports.repositories(registry, at_once)) == [("team/app", 0, 1, 2, len(LAYER))]


def test_progress_is_shown_for_each_repository(layout: Layout, registry: Registry) -> None:
    shown: list[object] = []

    def showing(items: Iterable[T], label: str) -> Iterator[T]:
        for item in items:
            shown.append((label, item))
            yield item

    put_image(layout)
    reports.repositories(registry, showing)
    assert shown == [("Reading", "team/app")]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda layout: layout.put(paths.link(LAYERS, Digest.of(LAYER))),
        lambda layout: layout.put(paths.blob_data(Digest.of(LAYER))),
        lambda layout: layout.driver.delete(paths.blob_data(Digest.of(LAYER))),
    ],
    ids=["emptied link", "emptied blob", "missing blob"],
)
def test_broken_layer_counts_but_has_no_bytes(
    layout: Layout, registry: Registry, break_it: Callable[[Layout], None]
) -> None:
    put_image(layout)
    break_it(layout)
    report = reports.repositories(registry, at_once)
    assert rows(report) == [("team/app", 1, 1, 2, len(CONFIG) + len(PAYLOAD))]
    assert (states(report), report.damaged) == ([1], 1)


def test_tags_are_told_in_order_with_what_they_need(layout: Layout, registry: Registry) -> None:
    revision = put_image(layout)
    layout.tag(revision, Tag("V1"))
    layout.tag(layout.revision(manifest(DOCKER_LIST)), Tag("none"))
    report = reports.tags(registry, APP)
    assert report.columns == ("tag", "digest", "media_type", "bytes", "tagged", "state")
    size = len(PAYLOAD) + 2  # the manifest says that each blob has one byte
    empty = manifest(DOCKER_LIST)
    assert rows(report) == [
        ("V1", str(revision), OCI_MANIFEST, size),
        ("latest", str(revision), OCI_MANIFEST, size),
        ("none", str(Digest.of(empty)), DOCKER_LIST, len(empty)),
    ]


def test_blob_counts_once_within_a_tag(layout: Layout, registry: Registry) -> None:
    payload = image(Digest.of(CONFIG), *[Digest.of(LAYER)] * 10)
    layout.tag(layout.revision(payload))
    assert rows(reports.tags(registry, APP))[0][3] == len(payload) + 2


def test_index_needs_what_its_manifests_need(layout: Layout, registry: Registry) -> None:
    payloads = [manifest(OCI_MANIFEST, *map(Digest.of, (b"1", b"2")), size=1000)]
    payloads += [manifest(OCI_MANIFEST, *map(Digest.of, (b"2", b"3")), size=1000)]
    inner = index(*map(layout.revision, payloads))
    outer = index(layout.revision(inner), layout.revision(payloads[0]))
    layout.tag(layout.revision(outer))
    size = sum(map(len, payloads)) + len(inner) + len(outer) + 3 * 1000
    assert rows(reports.tags(registry, APP)) == [("latest", str(Digest.of(outer)), OCI_INDEX, size)]


def test_index_counts_the_manifests_that_are_there(layout: Layout, registry: Registry) -> None:
    put_image(layout)
    garbage = layout.revision(b"garbage")
    payload = index(Digest.of(PAYLOAD), garbage, Digest.of(b"missing"))
    layout.tag(layout.revision(payload))
    assert rows(reports.tags(registry, APP))[0][3] == len(payload) + len(PAYLOAD) + 2


def test_manifest_is_read_no_more_often_than_it_is_shared(
    layout: Layout, driver: StorageDriver
) -> None:
    opened: list[str] = []
    payload = index(*[put_image(layout)] * 100)
    layout.tag(layout.revision(payload))
    reports.tags(Registry(WatchedDriver(driver, opened.append)), APP)
    assert opened.count(paths.blob_data(Digest.of(PAYLOAD))) == 1


def test_indexes_may_be_nested_ever_so_deep(layout: Layout, registry: Registry) -> None:
    payload = index()
    size = len(payload)
    for _ in range(2_000):
        payload = index(layout.revision(payload))
        size += len(payload)
    layout.tag(layout.revision(payload))
    assert rows(reports.tags(registry, APP))[0][3] == size


def test_sizes_that_add_up_to_more_than_a_registry_can_hold_are_told(
    layout: Layout, registry: Registry
) -> None:
    digests = [Digest.of(bytes([i])) for i in range(100)]
    payload = manifest(OCI_MANIFEST, *digests, size=2**63 - 1)
    layout.tag(layout.revision(payload))
    report = reports.tags(registry, APP)
    assert rows(report)[0][3] == len(payload) + 100 * (2**63 - 1)
    assert report.as_table()
    assert report.as_json()


def test_tag_whose_link_is_broken_is_told_as_unknown(layout: Layout, registry: Registry) -> None:
    put_image(layout)
    layout.put(paths.tag_current_link(APP, Tag("broken")))
    assert rows(reports.tags(registry, APP))[0] == ("broken", None, None, None)
    assert len(rows(reports.tags(registry, APP))) == 2


@pytest.mark.parametrize(
    "break_it",
    [
        lambda layout, revision: layout.driver.delete(paths.link(REVISIONS, revision)),
        lambda layout, revision: layout.put(paths.link(REVISIONS, revision)),
        lambda layout, revision: layout.driver.delete(paths.blob_data(revision)),
        lambda layout, revision: layout.put(paths.blob_data(revision), b"{}"),
    ],
    ids=["missing link", "emptied link", "missing blob", "wrong bytes"],
)
def test_tag_whose_manifest_is_broken_is_told_with_its_digest(
    layout: Layout, registry: Registry, break_it: Callable[[Layout, Digest], None]
) -> None:
    revision = put_image(layout)
    good = layout.revision(image(Digest.of(CONFIG)))
    layout.tag(good, Tag("zz"))
    break_it(layout, revision)
    told = rows(reports.tags(registry, APP))
    assert told[0] == ("latest", str(revision), None, None)
    assert told[1][:3] == ("zz", str(good), OCI_MANIFEST)


def test_tag_of_what_is_no_manifest_is_told_with_its_digest(
    layout: Layout, registry: Registry
) -> None:
    digest = layout.revision(as_bytes({"schemaVersion": 3}))
    layout.tag(digest)
    assert rows(reports.tags(registry, APP)) == [("latest", str(digest), None, None)]


def test_tags_of_an_unknown_repository_are_not_told(layout: Layout, registry: Registry) -> None:
    put_image(layout)
    for name in ("team", "nowhere"):
        with pytest.raises(RepositoryUnknown):
            reports.tags(registry, RepositoryName(name))


def test_repository_without_tags_has_none(layout: Layout, registry: Registry) -> None:
    layout.layer(LAYER)
    assert rows(reports.tags(registry, APP)) == []


def test_what_is_refused_is_told_like_what_is_broken(layout: Layout, driver: StorageDriver) -> None:
    revision = put_image(layout)
    put_image(layout, RepositoryName("zz"))

    def refuse(path: str) -> None:
        if path == paths.link(REVISIONS, revision):
            raise AccessDenied(path)

    registry = Registry(WatchedDriver(driver, refuse))
    assert rows(reports.tags(registry, APP)) == [("latest", str(revision), None, None)]
    told = rows(reports.repositories(registry, at_once))
    assert [row[:4] for row in told] == [("team/app", 1, 1, 2), ("zz", 1, 1, 2)]


def test_failing_storage_is_not_told_as_broken(layout: Layout, driver: StorageDriver) -> None:
    put_image(layout)

    def fail(path: str) -> None:
        raise StorageUnavailable(path)

    registry = Registry(WatchedDriver(driver, fail))
    with pytest.raises(StorageUnavailable):
        reports.tags(registry, APP)
    with pytest.raises(StorageUnavailable):
        reports.repositories(registry, at_once)


def read(registry: Registry, text: str) -> bytes:
    return b"".join(reports.content(registry, Reference.parse(text)))


def test_content_of_a_layer_and_of_a_manifest_by_digest(layout: Layout, registry: Registry) -> None:
    revision = put_image(layout)
    assert read(registry, f"team/app@{Digest.of(LAYER)}") == LAYER
    assert read(registry, f"team/app@{revision}") == PAYLOAD


def test_content_of_a_tag_is_its_manifest(layout: Layout, registry: Registry) -> None:
    put_image(layout)
    assert read(registry, "team/app:latest") == PAYLOAD


def test_content_comes_in_pieces(layout: Layout, registry: Registry) -> None:
    big = bytes(range(256)) * 10_000
    reference = Reference(APP, layout.layer(big))
    pieces = list(reports.content(registry, reference))
    assert len(pieces) > 1
    assert b"".join(pieces) == big


def test_content_of_the_empty_blob_is_nothing(layout: Layout, registry: Registry) -> None:
    assert read(registry, f"team/app@{layout.layer(b'')}") == b""


@pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
def test_content_is_found_by_an_alias(layout: Layout, registry: Registry, algorithm: str) -> None:
    alias = Digest.of(LAYER, algorithm)
    layout.link(LAYERS, alias, str(layout.blob(LAYER)).encode())
    assert read(registry, f"team/app@{alias}") == LAYER


def test_content_is_verified_against_the_digest_that_was_asked_for(
    layout: Layout, registry: Registry
) -> None:
    alias = Digest.of(LAYER, "sha512")
    layout.link(LAYERS, alias, str(layout.blob(b"other bytes")).encode())
    with pytest.raises(DigestMismatch, match=alias.encoded):
        read(registry, f"team/app@{alias}")


@pytest.mark.parametrize("stored", [b"", LAYER[:-1], LAYER + b"!", LAYER.upper()])
def test_wrong_content_fails_after_its_last_piece(
    layout: Layout, registry: Registry, stored: bytes
) -> None:
    digest = layout.layer(LAYER)
    layout.put(paths.blob_data(digest), stored)
    pieces = reports.content(registry, Reference(APP, digest))
    for _ in range(bool(stored)):
        assert next(pieces) == stored
    with pytest.raises(DigestMismatch, match=digest.encoded):
        next(pieces)


def test_content_needs_a_link_in_the_repository(layout: Layout, registry: Registry) -> None:
    put_image(layout, RepositoryName("other"))
    layout.put(f"{paths.uploads(APP)}/placeholder")
    for digest in (Digest.of(LAYER), Digest.of(PAYLOAD), Digest.of(b"missing")):
        with pytest.raises(BlobUnknown):
            read(registry, f"team/app@{digest}")


def test_content_of_a_tag_needs_its_revision(layout: Layout, registry: Registry) -> None:
    revision = put_image(layout)
    layout.driver.delete(paths.link(REVISIONS, revision))
    with pytest.raises(BlobUnknown, match=revision.encoded):
        read(registry, "team/app:latest")


def test_content_of_what_is_unknown_is_an_error(layout: Layout, registry: Registry) -> None:
    put_image(layout)
    with pytest.raises(TagUnknown):
        read(registry, "team/app:other")
    with pytest.raises(RepositoryUnknown):
        read(registry, "nowhere:latest")
    layout.driver.delete(paths.blob_data(Digest.of(LAYER)))
    with pytest.raises(BlobUnknown):
        read(registry, f"team/app@{Digest.of(LAYER)}")


def test_content_through_a_broken_link_is_an_error(layout: Layout, registry: Registry) -> None:
    put_image(layout)
    layout.put(paths.link(LAYERS, Digest.of(LAYER)))
    layout.put(paths.tag_current_link(APP, LATEST))
    for text in (f"team/app@{Digest.of(LAYER)}", "team/app:latest"):
        with pytest.raises(LinkInvalid):
            read(registry, text)
