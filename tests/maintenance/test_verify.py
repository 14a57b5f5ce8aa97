"""Faults that are planted into a healthy storage, and what ``verify`` says of each."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from blobfs import paths
from blobfs.cli import main
from blobfs.digest import Digest
from blobfs.inventory import journal
from blobfs.inventory.inventory import Inventory
from blobfs.maintenance.faults import Fault, FaultKind, Severity
from blobfs.maintenance.verify import verify
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.manifest import OCI_INDEX
from tests.support.layout import Layout, as_bytes, descriptor, image

A, B = RepositoryName("team/a"), RepositoryName("team/b")
V1, MULTI = Tag("v1"), Tag("multi")
OLD_NS = 10**18
"""A time long ago."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A healthy storage: ``team/a:v1`` of two layers, ``team/a:multi`` of two platforms."""

    layout: Layout
    root: Path
    config: Digest
    layers: tuple[Digest, Digest]
    v1: Digest
    children: tuple[Digest, Digest]
    multi: Digest
    referrer: Digest
    of_b: Digest

    def file(self, path: str) -> Path:
        return self.root / path[1:]

    def data(self, digest: Digest) -> Path:
        return self.file(paths.blob_data(digest))

    def link(self, link_set: str, digest: Digest) -> Path:
        return self.file(paths.link(link_set, digest))

    def write(self, path: str, content: bytes = b"") -> Path:
        file = self.file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def write_old(self, path: str) -> Path:
        file = self.write(path)
        os.utime(file, ns=(OLD_NS, OLD_NS))
        return file


@pytest.fixture
def stored(layout: Layout, tmp_path: Path) -> Stored:
    config, one, two, arm, amd = (layout.layer(letter.encode(), A) for letter in "cotra")
    v1 = layout.revision(image(config, one, two), A)
    layout.tag(v1, V1, A)
    payloads = [image(config, layer) for layer in (arm, amd)]
    children = (layout.revision(payloads[0], A), layout.revision(payloads[1], A))
    platforms: list[dict[str, object]] = [
        {"os": "linux", "architecture": "arm", "variant": "v7"},
        {"os": "linux", "architecture": "amd64"},
    ]
    manifests = [
        {**descriptor(child, size=len(payload)), "platform": platform}
        for child, payload, platform in zip(children, payloads, platforms, strict=True)
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    multi = layout.revision(json.dumps(document).encode(), A)
    layout.tag(multi, MULTI, A)
    about = json.loads(image(config)) | {
        "subject": descriptor(v1, size=len(image(config, one, two)))
    }
    referrer = layout.revision(as_bytes(about), A)
    of_b = layout.revision(image(layout.layer(b"b", B)), B)
    layout.tag(of_b, V1, B)
    for file in tmp_path.rglob("*"):  # as if it was pushed long ago
        os.utime(file, ns=(OLD_NS, OLD_NS))
    return Stored(layout, tmp_path, config, (one, two), v1, children, multi, referrer, of_b)


def faults(stored: Stored, *repositories: str) -> list[Fault]:
    with Inventory.taken(str(stored.root)) as inventory:
        return list(verify(inventory, repositories).faults)


def truncated(file: Path) -> None:
    os.truncate(file, 0)


def removed(file: Path) -> Path:
    file.unlink()
    return file


def replaced_by_a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def signature(stored: Stored) -> str:
    """The path of the link to a signature of ``team/a:v1``, which is a layer here."""
    signatures = f"{paths.revisions(A)}/sha256/{stored.v1.encoded}/signatures"
    return paths.link(signatures, stored.layers[0])


BLOB_A = f"{paths.BLOBS}/sha256/ab"
Plant = Callable[[Stored], object]
PLANTED: dict[str, tuple[Plant, set[FaultKind]]] = {
    "layer is missing": (
        lambda s: removed(s.data(s.layers[0])), {FaultKind.BLOB_MISSING}),
    "layer of every image is missing": (
        lambda s: removed(s.data(s.config)), {FaultKind.BLOB_MISSING}),
    "blob is empty": (
        lambda s: truncated(s.data(s.layers[0])), {FaultKind.BLOB_EMPTY}),
    "blob is too long": (
        lambda s: s.data(s.layers[0]).write_bytes(b"oo"), {FaultKind.BLOB_SIZE}),
    "blob's data is a directory": (
        lambda s: replaced_by_a_directory(s.data(s.layers[0])),
        {FaultKind.BLOB_MISSING, FaultKind.STRAY}),
    "blob that nothing links": (
        lambda s: os.utime(s.data(s.layout.blob(b"orphan")), ns=(OLD_NS, OLD_NS)),
        {FaultKind.BLOB_ORPHAN}),
    "blob in another shard": (
        lambda s: s.write(f"{BLOB_A}/{'cd' * 32}/data"), {FaultKind.STRAY}),
    "blob without a hash": (
        lambda s: s.write(f"{BLOB_A}/data", b"x"), {FaultKind.STRAY}),
    "blob of an unknown algorithm": (
        lambda s: s.write(f"{paths.BLOBS}/md5/ab/{'ab' * 16}/data"), {FaultKind.STRAY}),
    "blob with capital digits": (
        lambda s: s.write(f"{paths.BLOBS}/sha256/AB/{'AB' * 32}/data"), {FaultKind.STRAY}),
    "blob that was set aside": (
        lambda s: s.write(f"{BLOB_A}/{'ab' * 32}/data.aside"), {FaultKind.BLOB_ASIDE}),
    "link is missing": (
        lambda s: removed(s.link(paths.layers(A), s.layers[0])),
        {FaultKind.BLOB_UNLINKED}),
    "link is empty": (
        lambda s: truncated(s.link(paths.layers(A), s.layers[0])),
        {FaultKind.LINK_INVALID}),
    "link ends with a newline": (
        lambda s: s.link(paths.layers(A), s.layers[0]).write_bytes(f"{s.layers[0]}\n".encode()),
        {FaultKind.LINK_INVALID}),
    "link is cut": (
        lambda s: s.link(paths.layers(A), s.layers[0]).write_bytes(b"sha256:12"),
        {FaultKind.LINK_INVALID}),
    "link of a tag is cut": (
        lambda s: s.file(paths.tag_current_link(A, V1)).write_bytes(b"sha256:12"),
        {FaultKind.LINK_INVALID}),
    "link of a signature is cut": (
        lambda s: s.write(signature(s), b"sha256:12"), {FaultKind.LINK_INVALID}),
    "link of a signature holds another digest": (
        lambda s: s.write(signature(s), str(s.layers[1]).encode()), {FaultKind.LINK_ELSEWHERE}),
    "link is a directory": (
        lambda s: replaced_by_a_directory(s.link(paths.layers(A), s.layers[0])),
        {FaultKind.BLOB_UNLINKED, FaultKind.STRAY}),
    "link is a symlink": (
        lambda s: s.file(f"{paths.layers(A)}/sha256/{'ab' * 32}").symlink_to("/etc"),
        {FaultKind.UNREADABLE}),
    "link holds another digest": (
        lambda s: s.link(paths.layers(A), s.layers[0]).write_bytes(str(s.layers[1]).encode()),
        {FaultKind.LINK_ELSEWHERE}),
    "link of another size than a digest": (
        lambda s: s.write(f"{paths.layers(A)}/sha256/short/link", b"x"), {FaultKind.STRAY}),
    "link is left over": (
        lambda s: s.layout.link(paths.layers(A), Digest.of(b"gone")),
        {FaultKind.LINK_LEFT_OVER}),
    "alias to nothing": (
        lambda s: s.layout.link(
            paths.layers(A), Digest.of(b"gone", "sha512"), str(Digest.of(b"gone")).encode()),
        {FaultKind.LINK_LEFT_OVER}),
    "manifest is missing": (
        lambda s: removed(s.data(s.v1)), {FaultKind.MANIFEST_MISSING}),
    "manifest of an index is missing": (
        lambda s: removed(s.data(s.children[0])),
        {FaultKind.MANIFEST_MISSING, FaultKind.CHILD_MISSING}),
    "revision is missing": (
        lambda s: removed(s.link(paths.revisions(A), s.v1)),
        {FaultKind.TAG_DANGLING, FaultKind.SUBJECT_MISSING}),
    "revision of an index's child is missing": (
        lambda s: removed(s.link(paths.revisions(A), s.children[0])),
        {FaultKind.BLOB_UNLINKED}),
    "manifest is cut": (
        lambda s: os.truncate(s.data(s.v1), 20),
        {FaultKind.MANIFEST_INVALID}),
    "manifest has a flipped bit": (
        lambda s: s.data(s.v1).write_bytes(s.data(s.v1).read_bytes().replace(b"o", b"n", 1)),
        {FaultKind.MANIFEST_INVALID}),
    "revision is no manifest": (
        lambda s: s.layout.revision(b"no manifest", A), {FaultKind.MANIFEST_INVALID}),
    "revision is of an unknown type": (
        lambda s: s.layout.revision(b'{"schemaVersion": 2, "mediaType": "x/y"}', A),
        {FaultKind.MANIFEST_INVALID}),
    "tag of another repository's revision": (
        lambda s: s.layout.tag(s.of_b, V1, A), {FaultKind.TAG_DANGLING}),
    "tag of a revision that is nowhere": (
        lambda s: s.layout.tag(Digest.of(b"gone"), V1, A), {FaultKind.TAG_DANGLING}),
    "tag without a current link": (
        lambda s: removed(s.file(paths.tag_current_link(A, V1))), {FaultKind.TAG_UNSET}),
    "tag without its history": (
        lambda s: removed(s.link(paths.tag_index(A, V1), s.v1)),
        {FaultKind.TAG_HISTORY}),
    "tag with an invalid name": (
        lambda s: s.write(f"{paths.tags(A)}/-v/current/link", str(s.v1).encode()),
        {FaultKind.STRAY}),
    "stray file in a repository": (
        lambda s: s.write(f"{paths.repository(A)}/README"), {FaultKind.STRAY}),
    "stray file among the repositories": (
        lambda s: s.write(f"{paths.REPOSITORIES}/x.txt"), {FaultKind.STRAY}),
    "name with a space": (
        lambda s: s.write(f"{paths.REPOSITORIES}/a b/x"), {FaultKind.STRAY}),
    "repository with an invalid name": (
        lambda s: s.write(
            f"{paths.REPOSITORIES}/UPPER/_layers/sha256/{s.layers[0].encoded}/link",
            str(s.layers[0]).encode()),
        {FaultKind.REPOSITORY_NAME}),
    "directory of a repository is empty": (
        lambda s: s.file(f"{paths.REPOSITORIES}/empty").mkdir(), {FaultKind.REPOSITORY_EMPTY}),
    "directory cannot be read": (
        lambda s: s.file(f"{paths.REPOSITORIES}/elsewhere").symlink_to("team"),
        {FaultKind.UNREADABLE}),
    "directory beside the blobs cannot be read": (
        lambda s: s.file(f"{paths.BLOBS}/lost+found").symlink_to("/"), {FaultKind.UNREADABLE}),
    "upload was abandoned": (
        lambda s: [s.write_old(f) for f in (
            paths.upload_startedat(A, "id"), paths.upload_data(A, "id"))],
        {FaultKind.UPLOAD_STALE}),
    "upload without its start": (
        lambda s: s.write_old(paths.upload_data(A, "id")),
        {FaultKind.UPLOAD_DAMAGED}),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_planted_fault_is_found_and_no_other(stored: Stored, planted: str) -> None:
    """[S19.1] `blobfs verify` names each fault of the storage once."""
    plant, kinds = PLANTED[planted]
    plant(stored)
    found = faults(stored)
    assert {fault.kind for fault in found} == kinds
    assert len({(fault.kind, fault.place, fault.detail) for fault in found}) == len(found)


def test_healthy_storage_has_no_fault(stored: Stored) -> None:
    assert faults(stored) == []


def test_empty_storage_has_no_fault(tmp_path: Path, layout: Layout) -> None:
    with Inventory.taken(str(tmp_path)) as inventory:
        assert verify(inventory).faults == []


def test_work_in_progress_is_no_fault(stored: Stored) -> None:
    stored.layout.blob(b"pushed, and not yet linked")
    stored.layout.put(paths.upload_data(A, "just-begun"), b"half")
    for directory in "_uploads/x/hashstates/sha256", "_layers/sha256", "_manifests/tags":
        stored.file(f"{paths.repository(B)}/{directory}").mkdir(parents=True, exist_ok=True)
    assert faults(stored) == []


@pytest.mark.parametrize(
    ("hurt", "images"),
    [
        (lambda s: s.layers[0], {"team/a:v1"}),
        (lambda s: s.config, {"team/a:v1", "team/a:multi (linux/arm/v7)",
                              "team/a:multi (linux/amd64)"}),
        (lambda s: s.children[1], {"team/a:multi (linux/amd64)"}),
    ],
)  # fmt: skip
def test_images_that_need_the_blob_are_named(
    stored: Stored, hurt: Callable[[Stored], Digest], images: set[str]
) -> None:
    """[S19.2] For damage it names each image that cannot be pulled, with its platform."""
    removed(stored.data(hurt(stored)))
    found = [fault for fault in faults(stored) if fault.severity is Severity.DAMAGE]
    assert {image for fault in found for image in fault.images} == images


def test_faults_of_other_repositories_are_left_out_if_one_is_asked_for(stored: Stored) -> None:
    stored.write(f"{paths.repository(A)}/README")
    removed(stored.link(paths.revisions(B), stored.of_b))
    truncated(stored.data(stored.layers[0]))
    assert {fault.kind for fault in faults(stored, B)} == {
        FaultKind.TAG_DANGLING,
    }


def test_fault_that_is_gone_at_the_second_look_is_not_reported(stored: Stored) -> None:
    link = stored.link(paths.layers(A), stored.layers[0])
    content = link.read_bytes()
    removed(link)
    with Inventory.taken(str(stored.root)) as inventory:
        link.write_bytes(content)
        assert verify(inventory).faults == []


MENDED: dict[str, tuple[Plant, Plant]] = {
    "empty blob is stored": (
        lambda s: truncated(s.data(s.layers[0])), lambda s: s.data(s.layers[0]).write_bytes(b"o")),
    "blob of another size is stored": (
        lambda s: s.data(s.layers[0]).write_bytes(b"oo"),
        lambda s: s.data(s.layers[0]).write_bytes(b"o")),
    "flipped bit is mended": (
        lambda s: s.data(s.layers[0]).write_bytes(b"O"),
        lambda s: s.data(s.layers[0]).write_bytes(b"o")),
    "cut manifest is deleted": (
        lambda s: os.truncate(s.data(s.v1), 20),
        lambda s: [removed(s.link(paths.revisions(A), s.v1)), removed(s.data(s.v1))]),
    "tag of a missing revision is moved": (
        lambda s: s.layout.tag(s.of_b, V1, A), lambda s: s.layout.tag(s.v1, V1, A)),
    "tag without its history is moved": (
        lambda s: removed(s.link(paths.tag_index(A, V1), s.v1)),
        lambda s: s.layout.tag(s.multi, V1, A)),
}  # fmt: skip


@pytest.mark.parametrize("mended", MENDED)
def test_second_look_is_at_what_is_wrong(stored: Stored, mended: str) -> None:
    """[S19.1] A second look must find it too."""
    plant, mend = MENDED[mended]
    plant(stored)
    with Inventory.taken(str(stored.root)) as inventory:
        inventory.hash_blobs()
        assert verify(inventory).faults != []
        mend(stored)
        assert verify(inventory).faults == []


def test_flipped_bit_is_found_by_reading_the_contents(stored: Stored) -> None:
    """[S19.3] With `--content` it reads and hashes every blob."""
    stored.data(stored.layers[1]).write_bytes(b"T")
    assert faults(stored) == []
    with Inventory.taken(str(stored.root)) as inventory:
        inventory.hash_blobs()
        [found] = verify(inventory).faults
    assert (found.kind, found.images) == (FaultKind.BLOB_CONTENT, ("team/a:v1",))


def test_contents_are_hashed_once_if_the_state_is_kept(stored: Stored, tmp_path: Path) -> None:
    state = tmp_path / "state"
    read: list[int] = []
    for _ in range(2):
        with Inventory.taken(str(stored.root), state=state) as inventory:
            inventory.hash_blobs(progress=lambda _kind, count: read.append(count))
            inventory.hash_blobs(progress=lambda _kind, count: read.append(count))
    assert len(read) == 2


def test_hashing_that_was_stopped_goes_on(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S19.3] With `--state FILE` a run that was stopped goes on."""
    monkeypatch.setattr(journal, "_BATCH", 1)
    state = tmp_path / "state"
    hashed: list[int] = []

    def stop_at_the_third(_kind: str, count: int) -> None:
        hashed.append(count)
        if len(hashed) == 3:
            raise KeyboardInterrupt

    with (
        Inventory.taken(str(stored.root), state=state) as inventory,
        pytest.raises(KeyboardInterrupt),
    ):
        inventory.hash_blobs(progress=stop_at_the_third)
    with Inventory.taken(str(stored.root), state=state) as inventory:
        inventory.hash_blobs(progress=lambda _kind, count: hashed.append(count))
        assert len(hashed) == verify(inventory).counts["blobs"]


def test_manifest_that_an_earlier_run_has_read_is_read_again(
    stored: Stored, tmp_path: Path
) -> None:
    arguments = ["verify", str(stored.root), "--state", str(tmp_path / "state")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    data = stored.data(stored.v1)
    data.write_bytes(data.read_bytes().replace(b"o", b"n", 1))
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, "manifest-invalid" in result.stdout) == (1, True)
