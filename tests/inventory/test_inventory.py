"""What an inventory finds in a storage, how it goes on after a stop, and what it asks."""

import json
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.errors import MountRefused, StorageUnavailable
from blobfs.inventory import scanning
from blobfs.inventory.inventory import Depth, Inventory, Workers
from blobfs.inventory.rows import LinkKind, link_path, pack
from blobfs.inventory.scanning import ReferenceKind
from blobfs.inventory.spans import EntryKind
from blobfs.reference import RepositoryName, Tag
from tests.inventory.conftest import Storage
from tests.support.layout import APP, Layout, as_bytes, descriptor, image, index
from tests.support.s3_faults import Kind

T = TypeVar("T")
Tables = dict[str, set[tuple[Any, ...]]]

TABLES = ("repository", "blob", "link", "upload_file", "other", "manifest", "reference")


def taken(storage: Storage, state: Path | None = None, **options: Any) -> Tables:  # noqa: ANN401
    """The rows of each table, with names for the numbers of repositories."""
    with Inventory.taken(storage.url, state=state, **options) as inventory:
        return rows(inventory)


def rows(inventory: Inventory) -> Tables:
    db = inventory.journal.db
    names = dict(db.execute("SELECT id, name FROM repository"))
    found: Tables = {
        table: set(db.execute(f"SELECT * FROM {table}"))
        for table in TABLES
        if table not in {"link", "upload_file", "repository"}
    }
    found["link"] = {
        (names[repository], *link)
        for repository, *link in db.execute(
            "SELECT repository, kind, tag, digest, target, fault, size FROM link"
        )
    }
    found["upload_file"] = {
        (names[repository], *file)
        for repository, *file in db.execute(
            "SELECT repository, upload, name, size FROM upload_file"
        )
    }
    return found


def lay_out_images(layout: Layout, repositories: int = 3) -> list[Digest]:
    """Store an image of two layers in each repository, and return the manifests."""
    manifests = []
    for number in range(repositories):
        name = RepositoryName(f"team{number % 2}/app-{number}")
        parts = [layout.layer(f"{name} {part}".encode(), name) for part in range(3)]
        manifests.append(layout.revision(image(*parts), name))
        layout.tag(manifests[-1], Tag("v1"), name)
    return manifests


def test_blobs_and_links_are_found_with_their_sizes(storage: Storage) -> None:
    layer = storage.layout.layer(b"layer")
    stray = storage.layout.blob(b"of nobody")
    revision = storage.layout.revision(image(layer))
    storage.layout.tag(revision)
    found = taken(storage)
    sizes = {digest: size for digest, size, _ in found["blob"]}
    assert sizes == {pack(layer): 5, pack(stray): 9, pack(revision): len(image(layer))}
    assert found["link"] == {
        (APP, LinkKind.LAYER, None, pack(layer), pack(layer), None, 71),
        (APP, LinkKind.REVISION, None, pack(revision), pack(revision), None, 71),
        (APP, LinkKind.CURRENT, "latest", None, pack(revision), None, 71),
        (APP, LinkKind.INDEX, "latest", pack(revision), pack(revision), None, 71),
    }


def test_current_link_is_told_from_older_ones(storage: Storage) -> None:
    for number in range(4):
        storage.layout.tag(storage.layout.revision(image(storage.layout.layer(b"%d" % number))))
    current = storage.layout.revision(image(storage.layout.layer(b"1")))
    storage.layout.tag(current)
    found = [link for link in taken(storage)["link"] if link[1] == LinkKind.CURRENT]
    assert [link[4] for link in found] == [pack(current)]


def test_alias_refers_to_the_blob_that_its_link_names(storage: Storage) -> None:
    blob = storage.layout.blob(b"content")
    alias = Digest.of(b"content", "sha512")
    storage.layout.link(paths.layers(APP), alias, str(blob).encode())
    [link] = taken(storage)["link"]
    assert link == (APP, LinkKind.LAYER, None, pack(alias), pack(blob), None, 71)


@pytest.mark.parametrize("content", [b"", b"sha256:12", b"\xff" * 71], ids=repr)
def test_damaged_link_is_a_fault_and_not_a_target(storage: Storage, content: bytes) -> None:
    blob = storage.layout.blob(b"content")
    storage.layout.link(paths.layers(APP), blob, content)
    [link] = taken(storage, depth=Depth.EVERY_LINK)["link"]
    assert link[4] is None
    assert "link" in link[5]


def test_signature_has_the_path_of_its_revision(storage: Storage) -> None:
    signatures = f"{paths.revisions(APP)}/sha256/{'ab' * 32}/signatures"
    path = paths.link(signatures, storage.layout.link(signatures, Digest.of(b""), b"cut"))
    [(name, kind, tag, digest, target, fault, _)] = taken(storage)["link"]
    assert link_path(name, kind, tag, digest) == path
    assert (target, path in fault) == (None, True)


def test_references_of_an_index_have_platforms_and_the_subject(storage: Storage) -> None:
    child = storage.layout.revision(image(storage.layout.layer(b"config")))
    subject = Digest.of(b"subject")
    document = json.loads(index(child))
    document["manifests"][0]["platform"] = {"os": "linux", "architecture": "arm", "variant": "v7"}
    document["subject"] = descriptor(subject)
    revision = storage.layout.revision(as_bytes(document))
    found = {row[2:] for row in taken(storage)["reference"] if row[0] == pack(revision)}
    assert found == {
        (ReferenceKind.CHILD, pack(child), 1, "linux/arm/v7"),
        (ReferenceKind.SUBJECT, pack(subject), 0, ""),
    }


@pytest.mark.parametrize("field", ["platform", "mediaType"])
def test_half_a_surrogate_pair_in_json_is_no_failure(directory: Storage, field: str) -> None:
    child = directory.layout.revision(image(directory.layout.layer(b"config")))
    document = json.loads(index(child))
    if field == "platform":
        document["manifests"][0]["platform"] = {"os": "\ud800"}
    else:
        document[field] = "\ud800"
    directory.layout.revision(as_bytes(document))
    assert pack(child) in {row[3] for row in taken(directory)["reference"]}


def test_unknown_document_refers_to_every_digest_in_it(storage: Storage) -> None:
    named = Digest.of(b"named", "sha512")
    payload = as_bytes({"schemaVersion": 2, "mediaType": "x/y", "odd": {"list": [str(named)]}})
    storage.layout.revision(payload)
    found = taken(storage)
    assert {row[2:4] for row in found["reference"]} == {(ReferenceKind.NAMED, pack(named))}
    [(_, _, _, fault)] = found["manifest"]
    assert "x/y" in fault


def test_missing_manifest_is_a_fault_that_the_next_pass_looks_at_again(
    directory: Storage, tmp_path: Path
) -> None:
    payload = image(directory.layout.layer(b"layer"))
    digest = Digest.of(payload)
    directory.layout.link(paths.revisions(APP), digest)
    state = tmp_path / "state"
    assert taken(directory, state)["manifest"] == {(pack(digest), "", 0, "is missing")}
    directory.layout.blob(payload)
    [(_, _, size, fault)] = taken(directory, state)["manifest"]
    assert (size, fault) == (len(payload), None)


def test_path_outside_of_the_layout_is_found(storage: Storage) -> None:
    strays = (
        f"{paths.BLOBS}/sha256/ab/data",
        f"{paths.BLOBS}/sha256/ab/{'cd' * 32}/data",
        f"{paths.repository(APP)}/_layers/sha256/short/link",
        f"{paths.REPOSITORIES}/README",
    )
    for path in strays:
        storage.layout.put(path, b"x")
    assert {row[0] for row in taken(storage)["other"]} == set(strays)


def test_names_that_are_no_text_are_found_and_hide_nothing(directory: Storage) -> None:
    lay_out_images(directory.layout)
    expected = taken(directory)
    team = Path(directory.url) / paths.REPOSITORIES[1:] / "team0"
    for name in (b"\xfe", b"app-0/_layers/\xff"):
        Path(os.fsdecode(os.fsencode(team) + b"/" + name)).mkdir()
    Path(os.fsdecode(os.fsencode(team.parent) + b"/\xfd")).write_text("x")
    found = taken(directory)
    names = {f"{paths.REPOSITORIES}/{name}"
             for name in (r"team0/\udcfe", r"team0/app-0/_layers/\udcff", r"\udcfd")}  # fmt: skip
    assert {row[:2] for row in found["other"]} == {(name, EntryKind.INVALID_NAME) for name in names}
    assert {**found, "other": set()} == expected


def test_empty_and_unreadable_directories_are_found(directory: Storage) -> None:
    root = Path(directory.url)
    repositories = root / paths.REPOSITORIES[1:]
    (repositories / "empty/_uploads").mkdir(parents=True)
    (repositories / "elsewhere").symlink_to("empty")
    (root / paths.BLOBS[1:]).mkdir(exist_ok=True)
    (root / paths.BLOBS[1:] / "lost+found").symlink_to("/")
    found = {row[:2] for row in taken(directory)["other"]}
    assert found == {
        (f"{paths.REPOSITORIES}/empty/_uploads", EntryKind.EMPTY_DIRECTORY),
        (f"{paths.REPOSITORIES}/elsewhere", EntryKind.UNREADABLE),
        (f"{paths.BLOBS}/lost+found", EntryKind.UNREADABLE),
    }


def test_files_of_uploads_are_found(storage: Storage) -> None:
    storage.layout.put(paths.upload_startedat(APP, "some-id"), b"2026-01-01T00:00:00Z")
    storage.layout.put(paths.upload_hashstate(APP, "some-id", "sha256", 0), b"state")
    assert taken(storage)["upload_file"] == {
        (APP, "some-id", "startedat", 20),
        (APP, "some-id", "hashstates/sha256/0", 5),
    }


def test_steps_of_any_length_find_the_same(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out_images(storage.layout)
    storage.layout.put(f"{paths.REPOSITORIES}/app-0", b"")  # the name of a directory's beginning
    storage.layout.put(f"{paths.REPOSITORIES}/team0-x/_layers/stray", b"")
    whole = taken(storage)
    for step in (1, 2, 5):
        monkeypatch.setattr(scanning, "STEP", step)
        assert taken(storage) == whole


class Threads(ThreadPoolExecutor):
    """One thread that counts its tasks, and does at most *limit* of them."""

    def __init__(self, limit: int = 10_000) -> None:
        super().__init__(1)
        self._limit = limit
        self.tasks = 0

    def submit(self, call: Callable[..., T], /, *args: object, **kwargs: object) -> Future[T]:
        if self.tasks == self._limit:
            raise StorageUnavailable("the network is gone")
        self.tasks += 1
        return super().submit(call, *args, **kwargs)


def test_pass_that_was_stopped_goes_on_at_its_last_step(
    directory: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out_images(directory.layout)
    monkeypatch.setattr(scanning, "STEP", 4)
    with Threads() as threads:
        whole = taken(directory, workers=Workers(threads, 1))
    all_tasks = threads.tasks
    for tasks in range(1, all_tasks):
        state = tmp_path / f"state{tasks}"
        with Threads(tasks) as threads, pytest.raises(StorageUnavailable):
            taken(directory, state, workers=Workers(threads, 1))
        with Threads() as threads:
            assert taken(directory, state, workers=Workers(threads, 1)) == whole
        assert threads.tasks == all_tasks - tasks


def test_second_pass_reads_only_new_manifests(bucket: Storage, tmp_path: Path) -> None:
    lay_out_images(bucket.layout)
    state = tmp_path / "state"
    taken(bucket, state)
    assert bucket.proxy is not None
    bucket.layout.tag(bucket.layout.revision(image(bucket.layout.layer(b"new"))))
    with bucket.proxy.counting() as counted:
        taken(bucket, state)
    assert counted[Kind.GET] == 1


def test_bucket_is_asked_for_its_pages_and_its_manifests_only(bucket: Storage) -> None:
    manifests = lay_out_images(bucket.layout, 5)
    assert bucket.proxy is not None
    with bucket.proxy.counting() as counted:
        taken(bucket)
    assert counted.keys() == {Kind.LIST, Kind.GET}
    assert counted[Kind.GET] == len(manifests)


def test_state_of_another_storage_is_refused(directory: Storage, tmp_path: Path) -> None:
    state = tmp_path / "state"
    taken(directory, state)
    (tmp_path / "other").mkdir()
    with pytest.raises(MountRefused, match="not of"):
        Inventory.taken(str(tmp_path / "other"), state=state)


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("is_symlink", [False, True])
def test_state_that_another_user_has_made_for_us_is_refused(
    directory: Storage, tmp_path: Path, *, is_symlink: bool
) -> None:
    """[S22.35] A journal that another user has made"""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o1777)
    shared.chmod(0o1777)
    taken(directory, shared / "state")
    if is_symlink:
        (shared / "state").rename(tmp_path / "state")
        (shared / "state").symlink_to(tmp_path / "state")
    os.chown(shared / "state", 1234, -1, follow_symlinks=False)
    with pytest.raises(MountRefused, match="of another user"):
        Inventory.taken(directory.url, state=shared / "state")


def test_state_in_use_is_refused(directory: Storage, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with (
        Inventory.taken(directory.url, state=state),
        pytest.raises(MountRefused, match="locked by another blobfs; wait until it has ended"),
    ):
        Inventory.taken(directory.url, state=state)


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + bytes(84)])
def test_file_that_is_no_state_is_refused_and_kept(
    directory: Storage, tmp_path: Path, content: bytes
) -> None:
    state = tmp_path / "precious"
    state.write_bytes(content)
    with pytest.raises(MountRefused, match="--state"):
        Inventory.taken(directory.url, state=state)
    assert state.read_bytes() == content


def test_processes_find_the_same(directory: Storage) -> None:
    lay_out_images(directory.layout)
    with ProcessPoolExecutor(2) as processes:
        assert taken(directory, workers=Workers(processes, 4)) == taken(directory)
