"""A registry in a directory, and a collection in it whose times are all zero."""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.cache.memory import MemoryCache
from blobfs.digest import Digest
from blobfs.drivers.factory import driver_for
from blobfs.errors import PathNotFound
from blobfs.inventory import scanning
from blobfs.inventory.rows import unpack
from blobfs.maintenance.gc.collector import Collection, Feedback, Options, Outcome
from blobfs.maintenance.gc.plan import Plan
from blobfs.maintenance.gc.planfile import PlanFile
from blobfs.reference import RepositoryName
from tests.support.layout import APP, Layout, image

AT_ONCE = Options(layers=True, untagged=True, age_s=0, grace_s=0, settle_s=0)


@dataclass(slots=True)
class Garbage:
    """A storage at *url*, the journal, and the cache of its registries."""

    url: str
    state: Path
    layout: Layout
    cache: MemoryCache = field(default_factory=MemoryCache)

    def collection(
        self, options: Options = AT_ONCE, wait: Callable[[float], None] | None = None
    ) -> Collection:
        feedback = Feedback(wait=wait or (lambda _seconds: None))
        return Collection(self.url, self.state, options, self.cache, feedback)

    def planned(self, options: Options = AT_ONCE) -> set[tuple[str, str, Digest]]:
        """The kind, repository and digest of all that would go."""
        with self.collection(options).planned() as plan:
            return entries(plan)

    def delete(
        self,
        options: Options = AT_ONCE,
        approved: PlanFile | None = None,
        wait: Callable[[float], None] | None = None,
    ) -> Outcome:
        return self.collection(options, wait).run(approved)

    def has(self, path: str) -> bool:
        return self.layout.driver.stat_many([path]) != [None]

    def has_blob(self, digest: Digest) -> bool:
        return self.has(paths.blob_data(digest))

    def has_aside(self, digest: Digest) -> bool:
        """True if the data of a blob are set aside, by any run."""
        directory = paths.blob_data(digest).rpartition("/")[0]
        with suppress(PathNotFound):
            return any(
                entry.name.startswith(paths.ASIDE)
                for entry in self.layout.driver.listdir(directory)
            )
        return False

    def has_layer(self, digest: Digest, repository: RepositoryName = APP) -> bool:
        return self.has(paths.link(paths.layers(repository), digest))

    def has_revision(self, digest: Digest, repository: RepositoryName = APP) -> bool:
        return self.has(paths.link(paths.revisions(repository), digest))


def entries(plan: Plan) -> set[tuple[str, str, Digest]]:
    return {(each.kind, each.repository, unpack(each.digest)) for each in plan.entries()}


def later(*, age_s: float = 0, grace_s: float = 0) -> Options:
    """The options with other times."""
    return replace(AT_ONCE, age_s=age_s, grace_s=grace_s)


def add_used_image(layout: Layout) -> None:
    """Store an image that stays. No blob is deleted from a storage without any link."""
    used = RepositoryName("used")
    layout.tag(layout.revision(image(layout.layer(b"used config", used)), used), repository=used)


def forbid(garbage: Garbage, blob: Digest) -> None:
    """Let all access to a blob be denied, also for root."""
    file = Path(garbage.url) / paths.blob_data(blob)[1:]
    file.unlink()
    file.symlink_to("/etc/hostname")


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Garbage]:
    """A storage without any file."""
    root = tmp_path / "storage"
    root.mkdir()
    with closing(driver_for(str(root))) as driver:
        yield Garbage(str(root), tmp_path / "state", Layout(driver))
    scanning.close_all()


@pytest.fixture
def garbage(bare: Garbage) -> Garbage:
    """A storage with an image that stays."""
    add_used_image(bare.layout)
    return bare
