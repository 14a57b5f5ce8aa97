"""Repairs of planted faults, and a registry whose images are pulled again afterwards."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blobfs import paths
from blobfs.cache.base import DescriptorCache
from blobfs.cache.memory import MemoryCache
from blobfs.cli import main
from blobfs.digest import Descriptor, Digest
from blobfs.errors import Exists, StorageUnavailable
from blobfs.inventory.inventory import Inventory
from blobfs.maintenance.repair import Repair, Repairer, RepairKind
from blobfs.maintenance.verify import SecondLook
from blobfs.maintenance.verify import verify as verify_inventory
from blobfs.reference import Tag
from tests.support.cached_registry import SMALL, CachedRegistry
from tests.support.failing_driver import Call, TroubledDriver
from tests.support.layout import APP, Layout, image
from tests.support.redis_server import RedisServer
from tests.support.services import DockerRegistry, delete_manifest, inspect, run

V1 = Tag("v1")
KINDS = ("relink", "unlink", "quarantine", "fetch")


class Image:
    """``team/app:v1`` of a config and a layer, long ago."""

    def __init__(self, layout: Layout, root: Path) -> None:
        self.root = root
        self.layout = layout
        self.config, self.layer = layout.layer(b"c"), layout.layer(b"l")
        self.manifest = layout.revision(image(self.config, self.layer))
        layout.tag(self.manifest, V1)

    def file(self, path: str) -> Path:
        return self.root / path[1:]


@pytest.fixture
def stored(layout: Layout, tmp_path: Path) -> Image:
    return Image(layout, tmp_path)


def verify(storage: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", str(storage), *map(str, arguments)])


def repair(storage: Path, *arguments: object) -> Result:
    return verify(storage, "--yes", *arguments)


def kinds(result: Result) -> set[str]:
    return {fault["kind"] for fault in json.loads(result.stdout)["faults"]}


LINKS: dict[str, Callable[[Image], str]] = {
    "layer": lambda s: paths.link(paths.layers(APP), s.layer),
    "revision": lambda s: paths.link(paths.revisions(APP), s.manifest),
    "history": lambda s: paths.link(paths.tag_index(APP, V1), s.manifest),
}
CURRENT = paths.tag_current_link(APP, V1)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("content", [None, b"", b"sha256:12"], ids=repr)
def test_lost_or_damaged_link_is_written_again(
    stored: Image, tmp_path: Path, link: str, content: bytes | None
) -> None:
    """[S19.4] `relink` writes a lost or damaged link again."""
    file = stored.file(LINKS[link](stored))
    whole = file.read_bytes()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    result = repair(tmp_path, "--repair", "relink")
    assert result.exit_code == 0
    assert file.read_bytes() == whole


def test_link_without_its_blob_is_not_written(stored: Image, tmp_path: Path) -> None:
    link = stored.file(LINKS["layer"](stored))
    link.unlink()
    stored.file(paths.blob_data(stored.layer)).unlink()
    assert repair(tmp_path, "--repair", "relink").exit_code == 1
    assert not link.exists()


def test_tag_of_something_that_is_no_manifest_is_left_alone(stored: Image, tmp_path: Path) -> None:
    stored.layout.tag(stored.layout.blob(b"no manifest"), V1)
    assert repair(tmp_path, "--repair", "relink").exit_code == 1


def test_nothing_is_changed_without_yes(stored: Image, tmp_path: Path) -> None:
    """[S19.4] Without `--yes` it only shows what it would do."""
    link = stored.file(LINKS["layer"](stored))
    link.unlink()
    result = verify(tmp_path, "--repair", "relink")
    assert f"write {stored.layer} to" in result.stdout
    assert not link.exists()


def test_left_over_link_is_removed(stored: Image, tmp_path: Path) -> None:
    gone = stored.layout.link(paths.layers(APP), Digest.of(b"gone"))
    repair(tmp_path, "--repair", "unlink")
    assert not stored.file(f"{paths.layers(APP)}/sha256/{gone.encoded}").exists()
    assert "0 left-over" in verify(tmp_path).stdout


def test_old_empty_directories_are_removed_and_young_ones_stay(
    stored: Image, tmp_path: Path
) -> None:
    old, young = (stored.file(f"{paths.REPOSITORIES}/{name}") for name in ("old", "young"))
    for directory in old, young:
        directory.mkdir()
    os.utime(old, (0, 0))
    repair(tmp_path, "--repair", "unlink")
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("content", [b"", b"LL", b"X"], ids=repr)
def test_damaged_blob_is_kept_in_the_quarantine(
    stored: Image, tmp_path: Path, content: bytes
) -> None:
    """[S19.5] `quarantine` moves damaged blobs to the directory of `--quarantine`."""
    data = stored.file(paths.blob_data(stored.layer))
    data.write_bytes(content)
    quarantine = tmp_path / "quarantine"
    repair(tmp_path, "--content", "--repair", "quarantine", "--quarantine", quarantine)
    assert not data.exists()
    assert (quarantine / f"sha256-{stored.layer.encoded}").read_bytes() == content


def test_blob_that_has_its_digest_stays_though_its_manifest_gives_another_size(
    stored: Image, tmp_path: Path
) -> None:
    longer = stored.layout.layer(b"longer than its manifest says")
    stored.layout.revision(image(stored.config, longer))
    quarantine = tmp_path / "quarantine"
    result = repair(tmp_path, "--repair", "quarantine", "--quarantine", quarantine)
    assert result.exit_code == 1
    assert stored.file(paths.blob_data(longer)).exists()
    assert not quarantine.exists()


class Repairing:
    """A repair of *stored* whose calls of the storage a test can see, and change something at."""

    def __init__(
        self,
        stored: Image,
        kind: RepairKind,
        quarantine: Path | None = None,
        cache: DescriptorCache | None = None,
    ) -> None:
        self.driver = TroubledDriver(stored.layout.driver)
        with Inventory.taken(str(stored.root)) as inventory:
            found = verify_inventory(inventory)
        confirms = SecondLook(self.driver).confirms
        self.repairer = Repairer(self.driver, confirms, quarantine, cache=cache)
        self.planned: list[Repair] = self.repairer.plan(found.faults, [kind])

    def before(self, method: str, path: str, call: Callable[[], object]) -> None:
        """Call *call* once, before the first call of *method* for a *path* that ends so."""
        calls = [call]

        def on_call(made: Call) -> None:
            if made.method == method and made.path.endswith(path) and calls:
                calls.pop()()

        self.driver.on_call = on_call

    def make(self) -> list[bool]:
        return [self.repairer.make(repair) for repair in self.planned]


@pytest.mark.parametrize("method", ["stat", "read_at", "delete", "prune"])
def test_link_that_a_registry_writes_during_its_removal_stays(stored: Image, method: str) -> None:
    """[S19.4] A link whose blob is stored meanwhile stays."""
    gone = stored.layout.link(paths.layers(APP), Digest.of(b"gone"))
    link = stored.file(paths.link(paths.layers(APP), gone))
    repairing = Repairing(stored, RepairKind.UNLINK)
    path = "" if method == "prune" else "link"
    repairing.before(method, path, lambda: stored.layout.layer(b"gone"))
    assert len(repairing.make()) == 1
    assert link.read_text() == str(gone)


def unmount_blobs(stored: Image) -> None:
    shutil.rmtree(stored.file(paths.BLOBS))
    stored.file(paths.BLOBS).mkdir()


def damage_links_of_manifest(stored: Image) -> None:
    for path in LINKS["revision"](stored), CURRENT:
        stored.file(path).write_bytes(b"sha256:12")


def forbid_manifests(stored: Image) -> None:
    directory = stored.file(f"{paths.repository(APP)}/_manifests")
    shutil.rmtree(directory)
    directory.symlink_to("/etc")


LOST: dict[str, Callable[[Image], object]] = {
    "blobs are not mounted": unmount_blobs,
    "manifest is missing": lambda s: s.file(paths.blob_data(s.manifest)).unlink(),
    "manifest is damaged": lambda s: s.file(paths.blob_data(s.manifest)).write_bytes(b"{"),
    "revision's link is damaged": damage_links_of_manifest,
    "revisions cannot be read": forbid_manifests,
}


@pytest.mark.parametrize("lost", LOST)
def test_links_stay_that_an_unknown_manifest_may_need(
    stored: Image, tmp_path: Path, lost: str
) -> None:
    """[S19.4] A link is kept if the blobs or a manifest of the repository cannot be read."""
    gone = stored.layout.link(paths.layers(APP), Digest.of(b"gone"))
    LOST[lost](stored)
    result = repair(tmp_path, "--repair", "unlink", "--json")
    assert stored.file(paths.link(paths.layers(APP), gone)).exists()
    assert stored.file(LINKS["layer"](stored)).exists()
    assert "blob-missing" in kinds(result)
    assert "link-left-over" not in kinds(result)


def test_link_stays_that_the_manifest_of_a_tag_needs(stored: Image, tmp_path: Path) -> None:
    stored.file(LINKS["revision"](stored)).unlink()
    stored.file(paths.blob_data(stored.layer)).unlink()
    result = repair(tmp_path, "--repair", "unlink", "--json")
    assert stored.file(LINKS["layer"](stored)).exists()
    assert kinds(result) == {"tag-dangling", "blob-missing"}


@pytest.mark.parametrize("lost", ["blobs are not mounted", "manifest is missing"])
def test_links_stay_if_the_storage_is_lost_before_their_removal(stored: Image, lost: str) -> None:
    gone = stored.layout.link(paths.layers(APP), Digest.of(b"gone"))
    repairing = Repairing(stored, RepairKind.UNLINK)
    LOST[lost](stored)
    try:
        assert repairing.make() == [False]
    except StorageUnavailable:
        pass
    assert stored.file(paths.link(paths.layers(APP), gone)).exists()


def test_removed_link_is_cleared_in_the_cache(stored: Image) -> None:
    gone = stored.layout.link(paths.layers(APP), Digest.of(b"gone"))
    cache = MemoryCache()
    cache.set(gone, Descriptor(gone, 4), APP)
    assert Repairing(stored, RepairKind.UNLINK, cache=cache).make() == [True]
    assert cache.stat(gone, APP) is None


@pytest.fixture
def empty_redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    with closing(redis_server.client()) as client:
        client.flushall()
        yield redis_server
        client.flushall()  # a later registry must not believe it


@pytest.mark.redis
@pytest.mark.registry
def test_redis_of_the_registrys_file_is_cleared(empty_redis: RedisServer, tmp_path: Path) -> None:
    """[S19.4] With a registry's file as STORAGE its Redis is cleared."""
    with CachedRegistry.serving(tmp_path, empty_redis) as registry:
        assert registry.size_told() == registry.size
        delete_manifest(registry.address, SMALL, inspect(registry.address, SMALL, "v1").digest)
        (registry.root / paths.blob_data(registry.digest)[1:]).unlink()
        assert registry.size_told() == registry.size, "the registry believes Redis"
        repair(tmp_path / "registry.yml", "--repair", "unlink")
        assert registry.size_told() is None


@pytest.mark.parametrize("method", ["open", "stat", "move", "delete"])
def test_blob_that_is_stored_during_its_quarantine_stays(
    stored: Image, tmp_path: Path, method: str
) -> None:
    """[S19.5] A blob that has its digest stays, also if it is stored meanwhile."""
    data = stored.file(paths.blob_data(stored.layer))
    data.write_bytes(b"")
    repairing = Repairing(stored, RepairKind.QUARANTINE, tmp_path / "quarantine")
    path = ".damaged" if method == "delete" else "data"
    repairing.before(method, path, lambda: stored.layout.blob(b"l"))
    assert len(repairing.make()) == 1
    assert data.read_bytes() == b"l"
    assert [file.name for file in data.parent.iterdir()] == ["data"]


def test_earlier_file_in_the_quarantine_stays(stored: Image, tmp_path: Path) -> None:
    """[S19.5] A file that the directory has stays."""
    data = stored.file(paths.blob_data(stored.layer))
    quarantine = tmp_path / "quarantine"
    for content in b"", b"XX", b"YYY":
        data.write_bytes(content)
        repair(tmp_path, "--repair", "quarantine", "--quarantine", quarantine)
    assert {file.read_bytes() for file in quarantine.iterdir()} == {b"", b"XX", b"YYY"}


def test_quarantine_is_durable_before_the_blob_is_removed(
    stored: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.file(paths.blob_data(stored.layer)).write_bytes(b"")
    quarantine = tmp_path / "quarantine"
    repairing = Repairing(stored, RepairKind.QUARANTINE, quarantine)
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    before: list[str] = []
    repairing.before("delete", "", lambda: before.extend(synced))
    assert repairing.make() == [True]
    assert {*map(str, (quarantine, *quarantine.iterdir(), tmp_path))} <= {*before}


def test_data_that_a_stopped_repair_has_set_aside_stay(stored: Image, tmp_path: Path) -> None:
    data = stored.file(paths.blob_data(stored.layer))
    data.write_bytes(b"")
    aside = data.with_name("data.damaged")
    aside.write_bytes(b"l")
    repairing = Repairing(stored, RepairKind.QUARANTINE, tmp_path / "quarantine")
    with pytest.raises(Exists, match="stopped repair"):
        repairing.make()
    assert aside.read_bytes() == b"l"
    assert "blob-aside" in kinds(verify(tmp_path, "--json"))


def test_missing_blobs_are_copied_from_another_storage_and_verified(
    stored: Image, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """[S19.6] `fetch` copies missing blobs from another storage, and verifies them."""
    other = tmp_path_factory.mktemp("other") / "storage"
    shutil.copytree(tmp_path, other)
    for digest in stored.layer, stored.manifest:
        stored.file(paths.blob_data(digest)).unlink()
    bad = other / paths.blob_data(stored.layer)[1:]
    bad.write_bytes(b"X")
    result = repair(tmp_path, "--repair", "fetch", "--repair-from", other, "--json")
    assert kinds(result) == {"blob-missing"}
    assert "does not match its digest" in result.stderr
    bad.write_bytes(b"l")
    assert repair(tmp_path, "--repair", "fetch", "--repair-from", other).exit_code == 0


@pytest.mark.parametrize(
    ("kind", "option"), [("quarantine", "--quarantine"), ("fetch", "--repair-from")]
)
def test_repair_without_its_option_is_refused(tmp_path: Path, kind: str, option: str) -> None:
    result = verify(tmp_path, "--repair", kind)
    assert result.exit_code == 2
    assert option in result.stderr


@pytest.mark.registry
def test_every_image_is_pulled_again_after_the_repair(
    registry: DockerRegistry, tmp_path: Path
) -> None:
    storage, quarantine = tmp_path / "storage", tmp_path / "quarantine"
    shutil.copytree(registry.root, storage)
    root = storage / "docker/registry/v2"
    blobs = sorted((root / "blobs").rglob("data"), key=lambda file: file.stat().st_size)
    layer_links = sorted((root / "repositories").rglob("_layers/**/link"))
    revision_links = sorted((root / "repositories").rglob("revisions/**/link"))
    blobs[0].unlink()
    blobs[1].write_bytes(b"")
    blobs[-1].write_bytes(bytes(blobs[-1].stat().st_size))
    layer_links[0].unlink()
    layer_links[-1].write_bytes(b"")
    revision_links[0].write_bytes(revision_links[0].read_bytes() + b"\n")
    revision_links[-1].unlink()
    assert verify(storage, "--content").exit_code == 1
    options = [word for kind in KINDS for word in ("--repair", kind)]
    result = repair(
        storage, "--content", *options, "--quarantine", quarantine, "--repair-from", registry.root
    )
    assert result.exit_code == 0, result.output
    with DockerRegistry.serving(storage) as served:
        for number, name in enumerate(
            ("library/small:v1", "library/small:v2", "library/multi:latest", "team/app:v1",
             "team/app/debug:v1")
        ):  # fmt: skip
            target = tmp_path / f"pulled{number}"
            source = f"docker://{served.address}/{name}"
            pull = ("--insecure-policy", "copy", "--all", "--src-tls-verify=false")
            run("skopeo", *pull, source, f"oci:{target}:x")
