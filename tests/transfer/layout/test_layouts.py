"""Image layouts in directories and archives: what is copied into them comes back, after a kill too.

The tools that read them are in ``test_tools``.
"""

import json
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.digest import Descriptor, Digest
from blobfs.errors import Busy, DigestMismatch, ManifestInvalid, MountRefused, PathNotFound
from blobfs.reference import Tag
from blobfs.transfer.base import Target
from blobfs.transfer.layout import LayoutSource, LayoutTarget
from tests.support.killing import MEMORY, ends_before
from tests.support.layout import image, index
from tests.support.places import ArchivePlace, LayoutPlace, described
from tests.support.transfers import Repository, content_of, copy, read

LATEST = Tag("latest")


Kind = type[LayoutPlace] | type[ArchivePlace]

kinds = pytest.mark.parametrize("kind", [LayoutPlace, ArchivePlace], ids=["directory", "archive"])

APP = "team/app"


class Made:
    """Puts images into a target, and keeps what is there then."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.content: dict[str, Repository] = {}

    def blob(self, repository: str, content: bytes, algorithm: str = "sha256") -> Digest:
        blob = described(content, algorithm)
        self._target.put_blob(repository, blob, [content])
        self._of(repository).blobs.add(blob.digest)
        return blob.digest

    def manifest(self, repository: str, payload: bytes) -> Digest:
        digest = Digest.of(payload)
        self._target.put_manifest(repository, digest, payload)
        self._of(repository).revisions.add(digest)
        return digest

    def image(self, repository: str, *layers: bytes) -> Digest:
        return self.manifest(repository, image(*(self.blob(repository, each) for each in layers)))

    def tag(self, repository: str, tag: Tag, digest: Digest, *history: Digest) -> None:
        self._target.tag(repository, tag, digest, history)
        whole = {digest, *history} if {*history} - {digest} else set()
        self._of(repository).tags[tag] = (digest, frozenset(whole))

    def _of(self, repository: str) -> Repository:
        return self.content.setdefault(repository, Repository())


def everything(target: Target) -> dict[str, Repository]:
    """Put one of everything that a registry may have, and return it."""
    made = Made(target)
    first = made.image(APP, b"config", b"layer")
    second = made.image(APP, b"config", bytes(2**20 + 7))
    both = made.manifest(APP, index(first, second))
    made.tag(APP, LATEST, both, first)
    made.tag(APP, Tag("v1"), first)
    made.image(APP, b"config", b"of no tag")
    made.blob(APP, b"single")
    made.tag("other", LATEST, made.image("other", b"config", b"layer"))
    alias = made.blob("other", b"with two names", "sha512")
    made.manifest("other", image(alias))
    made.blob("only/blobs", b"")
    target.finish()
    return made.content


@kinds
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_registry_comes_back_from_a_layout(kind: Kind, data: st.DataObject) -> None:
    with TemporaryDirectory(dir=MEMORY) as made_in:
        first, second = Path(made_in, "1"), Path(made_in, "2")
        with kind(first).target() as target:
            expected = _any_registry(data, Made(target))
            target.finish()
        with kind(first).source() as source:
            assert content_of(source) == expected
            with kind(second).target() as target:
                copy(source, target)
            with kind(second).target() as target:
                assert copy(source, target) == 0
        with kind(second).source() as source:
            assert content_of(source) == expected


def _any_registry(data: st.DataObject, made: Made) -> dict[str, Repository]:
    names = st.sampled_from(["a", "a/b", "c", ""])
    contents = st.binary(max_size=3)
    revisions: dict[str, list[Digest]] = {}
    for kind in data.draw(st.lists(st.sampled_from("bmmiitt"), max_size=12)):
        name = data.draw(names)
        known = revisions.setdefault(name, [])
        if kind == "b":
            made.blob(name, data.draw(contents), data.draw(st.sampled_from(["sha256", "sha512"])))
        elif kind == "m" or not known:
            known.append(made.image(name, *data.draw(st.lists(contents, min_size=1, max_size=3))))
        elif kind == "i":
            some = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
            known.append(made.manifest(name, index(*some)))
        else:
            tag = data.draw(st.sampled_from([LATEST, Tag("v1"), Tag("_x.y-z")]))
            if tag not in made.content[name].tags:
                made.tag(name, tag, *data.draw(st.lists(st.sampled_from(known), min_size=1)))
    return made.content


@kinds
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.long)])
def test_a_copy_that_is_killed_anywhere_goes_on_and_every_entry_is_complete(
    kind: Kind, memory: Path, step: int
) -> None:
    """[S22.43] `index.json` is replaced as a whole, at intervals and at the end"""
    origin = memory / "origin"
    with LayoutTarget(origin) as target:
        expected = everything(target)
    sent = [len(set().union(*(each.blobs for each in expected.values())))]
    for number in count(0, step):
        place = memory / str(number) / "copy"
        place.parent.mkdir()
        is_done = ends_before(number, partial(_copy, kind, origin, place))
        if (place if kind is ArchivePlace else place / "index.json").exists():
            with kind(place).source() as source:
                content_of(source)
        sent.append(_copy(kind, origin, place))
        assert sent[-1] <= sent[-2]
        with kind(place).source() as source:
            assert content_of(source) == expected
        found = {file.name for file in place.parent.rglob("*") if file.parent.name != "sha256"}
        assert found - {"blobs", "sha256", "sha512", "index.json", "oci-layout", "copy"} == {
            name for name in found if len(name) == 128
        }
        assert not list(place.parent.rglob("*.tmp"))
        if is_done:
            break
    assert (sent[-1], number > 30) == (0, True)


def _copy(kind: Kind, origin: Path, place: Path) -> int:
    with LayoutSource(origin) as source, kind(place).target() as target:
        return copy(source, target)


def test_a_second_name_of_a_blob_is_a_hard_link(tmp_path: Path) -> None:
    with LayoutTarget(tmp_path / "new") as target:
        everything(target)
    two = [
        tmp_path / "new/blobs" / algorithm / Digest.of(b"with two names", algorithm).encoded
        for algorithm in ("sha256", "sha512")
    ]
    assert two[0].samefile(two[1])


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """[S22.43] One copy at a time writes to a layout or an archive"""
    with LayoutTarget(tmp_path) as first, LayoutTarget(tmp_path) as second:
        Made(first).image(APP, b"config")
        with pytest.raises(Busy, match="another copy writes"):
            Made(second).image(APP, b"config")
        first.finish()
        first.close()
        with pytest.raises(Busy, match="copy again"):
            Made(second).image(APP, b"config")


def test_an_index_that_another_program_changes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """[S22.43] If another program changes `index.json` meanwhile"""
    with LayoutTarget(tmp_path) as target:
        Made(target).image(APP, b"config")
        (tmp_path / "index.json").write_text('{"schemaVersion":2,"manifests":[]}')
        with pytest.raises(Busy, match="another program has changed"):
            target.finish()
    assert "config" not in (tmp_path / "index.json").read_text()
    with LayoutTarget(tmp_path) as target:
        target.finish()  # from the notes
    with LayoutSource(tmp_path) as source:
        assert list(source.repositories()) == [APP]


def test_other_files_are_no_layout(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MountRefused, match="new or empty directory"):
        LayoutTarget(tmp_path)
    with pytest.raises(MountRefused, match="no OCI image layout"):
        LayoutSource(tmp_path)
    with pytest.raises(PathNotFound):
        LayoutSource(tmp_path / "missing")
    for damaged in ("", "[", "[]", '{"manifests": 1}', "[" * 100_000):
        (tmp_path / "index.json").write_text(damaged)
        with pytest.raises(ManifestInvalid, match="json is no"):
            LayoutSource(tmp_path)


def test_entries_of_other_tools_stay_as_they_are(tmp_path: Path) -> None:
    """[S22.40] The images of `docker save` (version 25 and later) have the names"""
    with LayoutTarget(tmp_path) as target:
        made = Made(target)
        digests = [made.image("", b"config", bytes([n])) for n in range(4)]
        target.finish()
    entries = [
        _entry(digests[0], **{"org.opencontainers.image.ref.name": "3.1", "x": "y"}),
        _entry(
            digests[1],
            **{
                "io.containerd.image.name": "docker.io/library/alpine:3.1",
                "org.opencontainers.image.ref.name": "3.1",
            },
        ),
        _entry(digests[2]) | {"platform": {"os": "linux", "architecture": "arm64"}},
        _entry(digests[3], **{"org.opencontainers.image.ref.name": "localhost:5000/app:v2"}),
        {"digest": "sha1:unknown", "more": [1]},
        7,
    ]
    whole = {"schemaVersion": 2, "manifests": entries, "annotations": {"a": "b"}, "more": {}}
    (tmp_path / "index.json").write_text(json.dumps(whole))
    with LayoutSource(tmp_path) as source:
        assert list(source.repositories()) == ["", "app", "docker.io/library/alpine"]
        assert set(source.revisions("")) == {digests[0], digests[2]}
        assert source.tagged("", Tag("3.1")) == digests[0]
        assert source.tagged("docker.io/library/alpine", Tag("3.1")) == digests[1]
        assert source.tagged("app", Tag("v2")) == digests[3]
    with LayoutTarget(tmp_path) as target:
        Made(target).tag("", Tag("new"), digests[2])
        target.tag("", Tag("3.1"), digests[0], [digests[2]])
        target.tag("docker.io/library/alpine", Tag("3.1"), digests[1], ())
        target.finish()
    after = json.loads((tmp_path / "index.json").read_bytes())
    entries[0]["annotations"]["io.blobfs.history"] = str(digests[2])  # type: ignore[index]
    assert all(entry in after["manifests"] for entry in entries)
    assert len(after["manifests"]) == len(entries) + 1
    assert (after["annotations"], after["more"]) == ({"a": "b"}, {})


def _entry(digest: Digest, **annotations: str) -> dict[str, object]:
    return {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": str(digest),
        "size": 7,
        "annotations": annotations,
    }


def test_a_tag_that_moves_keeps_its_name_and_the_manifest_before(tmp_path: Path) -> None:
    """[S22.42] If a tag moves, the manifest that it"""
    with LayoutTarget(tmp_path) as target:
        made = Made(target)
        old, new = made.image("", b"config", b"old"), made.image("", b"config", b"new")
        target.tag("", LATEST, old, ())
        target.finish()
        target.tag("", LATEST, new, ())
        target.finish()
    with LayoutSource(tmp_path) as source:
        assert source.tagged("", LATEST) == new
        assert set(source.revisions("")) == {old, new}
        assert source.history("", LATEST) == ()


def test_a_second_copy_of_the_same_writes_nothing(tmp_path: Path) -> None:
    with LayoutTarget(tmp_path / "1") as target:
        everything(target)
    with LayoutSource(tmp_path / "1") as source:
        with LayoutTarget(tmp_path / "2") as target:
            copy(source, target)
        before = {path: path.stat().st_ino for path in (tmp_path / "2").rglob("*")}
        with LayoutTarget(tmp_path / "2") as target:
            copy(source, target)
    assert before == {path: path.stat().st_ino for path in (tmp_path / "2").rglob("*")}


def test_a_missing_child_of_an_index_does_not_hide_the_others(tmp_path: Path) -> None:
    with LayoutTarget(tmp_path) as target:
        made = Made(target)
        first, second = made.image(APP, b"config", b"1"), made.image(APP, b"config", b"2")
        both = made.manifest(APP, index(first, second))
        made.tag(APP, LATEST, both)
        target.finish()
    (tmp_path / "blobs/sha256" / second.encoded).unlink()
    with LayoutSource(tmp_path) as source:
        assert set(source.revisions(APP)) == {first, both}
    (tmp_path / "blobs/sha256" / both.encoded).write_bytes(b"damaged")
    before = (tmp_path / "index.json").read_bytes()
    with LayoutSource(tmp_path) as source:
        assert source.tagged(APP, LATEST) == both
        assert set(source.revisions(APP)) == {both}
    with LayoutTarget(tmp_path) as target:
        Made(target).blob("other", b"single")
        target.finish()
    assert (
        json.loads(before)["manifests"][0]
        in json.loads((tmp_path / "index.json").read_bytes())["manifests"]
    )


def test_the_index_is_not_written_for_each_tag(memory: Path) -> None:
    with LayoutTarget(memory) as target:
        digest = Made(target).image(APP, b"config")
        written = set()
        for number in range(500):
            target.tag(APP, Tag(f"t{number}"), digest, ())
            target.flush()
            written.add((memory / "index.json").stat().st_ino)
        assert len(written) < 20
    with LayoutTarget(memory) as target:  # as after a kill
        assert len(list(target.tags(APP))) == 500
        target.finish()
    with LayoutSource(memory) as source:
        assert len(list(source.tags(APP))) == 500
        assert read(source, APP, Digest.of(b"config")) == b"config"


def test_a_blob_of_another_size_than_its_descriptor_says_is_not_read(tmp_path: Path) -> None:
    """A manifest may invent a size, and an archive keeps a small blob in memory."""
    with LayoutTarget(tmp_path) as target:
        blob = Made(target).blob(APP, b"ten bytes.")
        target.finish()
    with LayoutSource(tmp_path) as source, pytest.raises(DigestMismatch):
        source.open(APP, Descriptor(blob, 1))
