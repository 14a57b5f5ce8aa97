"""Storages as sources and targets: those that become registries, and those that are damaged."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import LinkInvalid, MountRefused, StorageUnavailable
from blobfs.reference import RepositoryName, Tag
from blobfs.transfer.storage import StorageSource
from blobfs.transfer.storage_target import StorageTarget
from tests.support.command import invoke
from tests.support.copies import Copies
from tests.support.failing_driver import Crash, TroubledDriver
from tests.support.files import content_of, walk
from tests.support.layout import APP, LATEST, Layout
from tests.support.places import StoragePlace, bucket_place, described, directory_place, put_image
from tests.support.s3_faults import Kind
from tests.support.s3_prefixes import keys_of
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server


@pytest.fixture(params=["directory", pytest.param("bucket", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoragePlace]:
    if request.param == "directory":
        yield directory_place(tmp_path)
    else:
        with bucket_place(request.getfixturevalue("moto")) as place:
            yield place


def test_a_missing_place_is_made_by_the_first_change(place: StoragePlace) -> None:
    """[S22.50] A missing or empty directory below an existing one becomes a registry."""
    with place.target() as target:
        assert list(target.repositories()) == []
        assert target.missing(APP, [described(b"c")]) == [described(b"c")]
        assert not Path(place.url).exists()
    with pytest.raises(MountRefused):
        place.source()
    with place.writing() as target:
        digest = put_image(target, APP, b"c", b"l", tag=LATEST)
    with place.source() as source:
        assert source.tagged(APP, LATEST) == digest


def test_a_directory_of_other_files_is_no_target(tmp_path: Path) -> None:
    """[S22.50] A place with other files and a missing bucket are refused."""
    (tmp_path / "file").touch()
    with pytest.raises(MountRefused, match="other files"):
        StorageTarget(str(tmp_path))
    with pytest.raises(MountRefused, match="not a directory"):
        StorageTarget(str(tmp_path / "file"))
    with pytest.raises(MountRefused, match="does not exist"):
        StorageTarget(str(tmp_path / "missing/storage"))


@pytest.mark.s3
def test_a_missing_bucket_is_refused_with_advice(moto: S3Server) -> None:
    with keys_of(moto):
        url = moto.storage_url(f"none-{secrets.token_hex(4)}")
        for place in (StorageSource, StorageTarget):
            with pytest.raises(MountRefused, match="create the bucket"):
                place(url)


def test_damaged_links_are_errors_in_a_source_and_missing_in_a_target(
    place: StoragePlace,
) -> None:
    with place.writing() as target:
        digest = put_image(target, APP, b"c", b"l", tag=LATEST)
    links = paths.layers(RepositoryName(APP))
    with closing(place.driver()) as driver:
        layout = Layout(driver)
        layout.put(paths.tag_current_link(APP, LATEST), b"../../etc/passwd")
        layout.put(paths.link(links, Digest.of(b"l")), b"sha256:short")
        layout.put(f"{links}/sha256/not-a-digest/link", b"stray")
        layout.put(f"{paths.tags(APP)}/.stray/current/link", b"stray")
    with place.source() as source:
        assert set(source.blobs(APP)) == {Digest.of(b"c"), Digest.of(b"l")}
        assert list(source.tags(APP)) == [LATEST]
        with pytest.raises(LinkInvalid):
            source.tagged(APP, LATEST)
        with pytest.raises(LinkInvalid):
            source.size(APP, Digest.of(b"l"))
    with place.writing() as target:
        assert target.missing(APP, [described(b"l")]) == [described(b"l")]
        assert target.link(APP, described(b"l"), None)
        target.tag(APP, LATEST, digest, ())
    with place.source() as source:
        assert source.tagged(APP, LATEST) == digest
        assert source.size(APP, Digest.of(b"l")) == 1


def test_a_directory_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    place = directory_place(tmp_path)
    with place.writing() as target:
        put_image(target, APP, b"c", b"l", tag=LATEST)
    with closing(place.driver()) as driver:
        for path in (
            paths.link(paths.layers(APP), Digest.of(b"l")),
            paths.tag_current_link(APP, LATEST),
            paths.blob_data(Digest.of(b"l")),
        ):
            driver.delete(path)
            driver.put_content(f"{path}/stray", b"")
    with place.writing() as target:
        assert target.missing(APP, [described(b"l")]) == [described(b"l")]
        digest = put_image(target, APP, b"c", b"l", tag=LATEST)
    with place.source() as source:
        assert source.tagged(APP, LATEST) == digest
        assert source.size(APP, Digest.of(b"l")) == 1


def _copy_something(driver: StorageDriver) -> None:
    large = bytes(200_000)
    with StorageTarget("memory:", driver=driver) as target:
        target.put_blob("other", described(large), [large])
        put_image(target, APP, b"c", b"l", large, tag=LATEST)
        target.flush()
        target.put_blob(APP, described(b"alias", "sha512"), [b"alias"])
        put_image(target, APP, b"c", b"other", tag=LATEST)


def _check_stored(driver: StorageDriver) -> None:
    """Check that each blob has its digest, and that all that is named exists."""
    for file in [found for found in walk(driver, "/") if not found.is_dir]:
        content = content_of(driver, file.path)
        if file.path.endswith("/link"):
            driver.stat(paths.blob_data(Digest.parse(content.decode())))
        elif digest := paths.digest_of_blob(file.path):
            assert Digest.of(content) == digest
    with suppress(MountRefused), StorageSource("memory:", driver=driver) as source:
        for repository in source.repositories():
            for digest in source.revisions(repository):
                for blob in source.outline(repository, digest).blobs:
                    source.size(repository, blob.digest)
            for tag in source.tags(repository):
                source.manifest(repository, source.tagged(repository, tag))


def test_a_copy_that_is_killed_at_any_call_leaves_nothing_wrong() -> None:
    """[S22.51] Each file of the target is complete or missing after a kill or a crash."""
    counted = TroubledDriver(InMemoryDriver())
    _copy_something(counted)
    calls = len(counted.calls)
    _check_stored(counted)
    for fail_at in range(1, calls + 1):
        for done in (False, True):
            driver = InMemoryDriver()
            with pytest.raises(Crash):
                _copy_something(TroubledDriver(driver, fail_at=fail_at, done=done, crash=True))
            _check_stored(driver)
            _copy_something(driver)
            _check_stored(driver)


@pytest.mark.s3
def test_a_second_survey_reads_listings_only(moto: S3Server, tmp_path: Path) -> None:
    """[S22.54] It reads a manifest once, also over several runs."""
    with ExitStack() as stack:
        stack.enter_context(keys_of(moto))
        proxy = stack.enter_context(S3Proxy.before(moto.endpoint))
        bucket = stack.enter_context(moto.bucket())
        url = moto.storage_url(bucket).replace(moto.endpoint, proxy.url)
        with StoragePlace(url).writing() as target:
            digests = {put_image(target, APP, b"c", b"%d" % n, tag=f"v{n}") for n in range(9)}
        for reads in (True, False):
            source = stack.enter_context(StorageSource(url, state_dir=tmp_path))
            with proxy.counting() as requests:
                source.survey(lambda _kind, _count: None)
                found = {source.tagged(APP, tag) for tag in source.tags(APP)}
                outlines = [source.outline(APP, digest) for digest in found]
            assert found == digests
            assert {len(outline.blobs) for outline in outlines} == {2}
            assert (requests[Kind.GET] > 0) is reads
            source.close()


@pytest.mark.s3
def test_a_second_copy_of_a_registry_asks_for_pages(moto: S3Server, tmp_path: Path) -> None:
    """[S22.54] If nothing has changed, it reads nothing but the listings of both places."""
    copies = Copies(tmp_path)
    for number in range(12):
        copies.put_image(f"v{number}", b"config", *(b"%d %d" % (number, n) for n in range(9)))
    with ExitStack() as stack:
        stack.enter_context(keys_of(moto))
        proxy = stack.enter_context(S3Proxy.before(moto.endpoint))
        bucket = stack.enter_context(moto.bucket())
        url = moto.storage_url(bucket).replace(moto.endpoint, proxy.url)
        command = ("cp", "--all", "--state-dir", tmp_path / "state", copies.source, url)
        assert invoke(*command).exit_code == 0
        proxy.forget()
        assert invoke(*command).exit_code == 0
        assert {request.kind for request in proxy.requests} <= {Kind.BUCKET, Kind.LIST}
        assert len(proxy.requests) < 16


def test_two_copies_from_one_source_run_at_once(tmp_path: Path) -> None:
    place = directory_place(tmp_path)
    with place.writing() as target:
        put_image(target, APP, b"c", b"l", tag=LATEST)
    with ExitStack() as stack:
        for _ in range(2):
            source = stack.enter_context(StorageSource(place.url, state_dir=tmp_path))
            source.survey(lambda _kind, _count: None)
            assert list(source.tags(APP)) == [LATEST]


def test_what_a_copy_has_stored_is_not_asked_again(tmp_path: Path) -> None:
    place = directory_place(tmp_path, survey=True)
    with place.writing() as target:
        digest = put_image(target, APP, b"c", b"l", tag=LATEST)
    with place.target() as target:
        target.put_blob("new/app", described(b"new"), [b"new"])
        assert target.link("new/app", described(b"l"), APP)
        target.flush()
        for file in sorted(tmp_path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        assert target.missing("new/app", [described(b"new"), described(b"l")]) == []
        assert list(target.repositories()) == ["new/app", APP]
        assert target.tagged(APP, LATEST) == digest


def test_a_blob_that_arrived_without_an_answer_is_not_sent_again(tmp_path: Path) -> None:
    root = tmp_path / "storage"
    with directory_place(tmp_path).writing() as target:
        put_image(target, APP, b"c", b"l", tag=LATEST)
    driver = TroubledDriver(FilesystemDriver.below(root), done=True)
    large = described(bytes(100_000))
    with StorageTarget(str(root), driver=driver) as target:
        target.survey(lambda _kind, _count: None)
        driver.fail_method = "put_content"
        assert not target.link(APP, large, None)
        with pytest.raises(StorageUnavailable):
            target.put_blob(APP, large, [bytes(100_000)])
        assert target.link(APP, large, None)
        target.flush()
        assert target.missing(APP, [large]) == []


def test_a_blob_that_a_collection_has_deleted_since_the_survey_is_sent(tmp_path: Path) -> None:
    """[S22.51] Registries may use the target meanwhile."""
    place = directory_place(tmp_path, survey=True)
    with place.writing() as target:
        put_image(target, APP, b"c", b"l", tag=LATEST)
        target.put_blob("gone/app", described(b"unused"), [b"unused"])
        target.flush()
        target.remove("gone/app")
    with place.target() as target:
        digest = described(b"unused").digest
        blob = tmp_path / f"storage{paths.blob_data(digest)}"
        blob.unlink()
        assert not target.link(APP, described(b"unused"), None)
        target.put_blob(APP, described(b"unused"), [b"unused"])
        target.flush()
        assert blob.read_bytes() == b"unused"


@pytest.mark.s3
def test_a_server_copies_between_its_buckets_for_the_same_keys(
    ceph: S3Server, tmp_path: Path
) -> None:
    """[S22.52] Between buckets of one server that the same keys open, the server copies blobs."""
    large = bytes(range(256)) * 40_000
    with bucket_place(ceph) as origin, bucket_place(ceph) as place:
        with origin.writing() as target:
            target.put_blob(APP, described(large), [large])
        with place.writing() as target:
            with origin.source() as source:
                assert target.copy(source, APP, "other", described(large))
                assert not target.copy(source, APP, "other", described(b"unknown"))
            with directory_place(tmp_path).writing() as elsewhere:
                elsewhere.put_blob(APP, described(b"c"), [b"c"])
            with directory_place(tmp_path).source() as source:
                assert not target.copy(source, APP, "other", described(b"c"))
            target.flush()
            assert target.missing("other", [described(large)]) == []
        with place.source() as source, source.open("other", described(large)) as reader:
            assert b"".join(reader.chunks()) == large


def test_files_are_linked_on_one_file_system_only_if_asked(tmp_path: Path) -> None:
    """[S22.53] reflinks, or else hard links."""
    origin = directory_place(tmp_path)
    with origin.writing() as target:
        target.put_blob(APP, described(b"blob"), [b"blob"])
    path = paths.blob_data(Digest.of(b"blob"))
    with origin.source() as source:
        for is_asked in (False, True):
            root = tmp_path / f"linked {is_asked}"
            with StorageTarget(str(root), link_files=is_asked) as target:
                assert target.copy(source, APP, "other", described(b"blob")) is is_asked
                assert not target.copy(source, APP, "other", described(b"unknown"))
                target.flush()
                assert bool(target.missing("other", [described(b"blob")])) is not is_asked
    linked = tmp_path / f"linked True{path}"
    assert linked.samefile(tmp_path / f"storage{path}")
    assert [name.name for name in linked.parent.iterdir()] == ["data"]


def test_a_blob_that_has_arrived_is_not_sent_again_for_its_other_digest(tmp_path: Path) -> None:
    """A copy may have been killed before it has written the links."""
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    source, place = directory_place(tmp_path / "from"), directory_place(tmp_path / "to")
    alias = described(b"content", "sha512")
    with source.writing() as target:
        target.put_blob(APP, alias, [b"content"])
    with place.writing() as target:
        target.put_blob("other", described(b"content"), [b"content"])
        target.flush()
    with place.writing() as target, source.source() as origin:
        assert target.copy(origin, APP, APP, alias)
        target.flush()
        assert target.missing(APP, [alias, described(b"content")]) == []


def test_a_tag_with_its_history_is_written_once(tmp_path: Path) -> None:
    digest = Digest.of(b"manifest")
    link = tmp_path / "t/docker/registry/v2/repositories/app/_manifests/tags/v1/current/link"
    with closing(StorageTarget(str(tmp_path / "t"))) as target:
        target.tag("app", Tag("v1"), digest, [digest])
        target.flush()
        before = link.stat()
        target.tag("app", Tag("v1"), digest, [digest])
        target.flush()
        assert link.stat().st_ino == before.st_ino
        link.unlink()
        target.tag("app", Tag("v1"), digest, [digest])
        target.flush()
        assert link.exists()
