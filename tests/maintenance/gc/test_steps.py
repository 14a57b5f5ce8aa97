"""Every moment of a collection: a registry acts there, or the collection is killed there."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from blobfs import paths
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.location import Location
from blobfs.inventory import inventory, scanning
from blobfs.reference import RepositoryName, Tag
from tests.maintenance.gc.conftest import Garbage
from tests.support.failing_driver import Call, Crash, TroubledDriver
from tests.support.files import content_of, walk
from tests.support.layout import APP, Layout, image, index

URL = "memory:"
OTHER = RepositoryName("other")
CONTENT = b"pushed again"
CHANGES = {"move", "delete", "put_content"}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each run make the same calls in the same order."""
    monkeypatch.setattr(inventory, "_LOCAL_JOBS", 1)
    yield
    scanning.close_all()


@pytest.fixture
def state() -> Iterator[Path]:
    """A directory in memory: the tests open hundreds of journals."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as directory:
        yield Path(directory)


Moments = Callable[..., list[int]]


@pytest.fixture(params=["changes", pytest.param("all", marks=pytest.mark.long)])
def moments(request: pytest.FixtureRequest, state: Path) -> Moments:
    """The calls of a run: all, or those that change the storage and one between each two."""

    def found(*, linked: bool) -> list[int]:
        calls = Run(state, 0, linked=linked).collect()
        if request.param == "all":
            return list(range(1, len(calls)))
        changes = [n for n, call in enumerate(calls, 1) if call.method in CHANGES]
        assert len(changes) > 5
        between = [(one + other) // 2 for one, other in pairwise([1, *changes])]
        return sorted({*changes, *(n + 1 for n in changes), *between})[:-1]

    return found


class Client:
    """A push of an image with the layer ``CONTENT``, as a registry does it."""

    def __init__(self, layout: Layout, repository: RepositoryName) -> None:
        self.layout = layout
        self.repository = repository
        self.layer = Digest.of(CONTENT)
        self.link = paths.link(paths.layers(repository), self.layer)

    def has(self, path: str) -> bool:
        return self.layout.driver.stat_many([path]) != [None]

    def decide(self) -> bool:
        """True if the registry has looked, and will not store the layer."""
        return self.has(paths.blob_data(self.layer))

    def push(self, is_stored: bool) -> None:
        if not is_stored:
            self.layout.blob(CONTENT)
        self.layout.link(paths.layers(self.repository), self.layer)
        self.put_manifest()

    def has_link(self) -> bool:
        return self.has(self.link)

    def put_manifest_if(self, is_linked: bool) -> None:
        if is_linked:
            self.put_manifest()

    def put_manifest(self) -> None:
        manifest = image(self.layout.layer(b"config", self.repository), self.layer)
        self.layout.tag(
            self.layout.revision(manifest, self.repository), Tag("again"), self.repository
        )


def lay_out(layout: Layout, *, linked: bool) -> None:
    """Store live images, dead ones, and ``CONTENT``, linked by nothing or by a dead link."""
    child = layout.revision(image(layout.layer(b"live")))
    layout.tag(layout.revision(index(child)), Tag("index"))
    layout.revision(image(layout.layer(b"dead")))
    if linked:
        layout.layer(CONTENT)
    else:
        layout.blob(CONTENT)


def broken(layout: Layout) -> list[str]:
    """The parts of tagged images that are missing."""
    found = []
    has = Client(layout, APP).has
    for file in list(walk(layout.driver, paths.REPOSITORIES)):
        if not file.path.endswith("/current/link"):
            continue
        place = paths.parse(file.path)
        assert place.repository is not None
        name = place.repository
        pending = [Digest.parse(content_of(layout.driver, file.path).decode())]
        while pending:
            manifest = pending.pop()
            if not has(paths.link(paths.revisions(name), manifest)):
                found.append(f"revision {manifest}")
            document = json.loads(content_of(layout.driver, paths.blob_data(manifest)))
            pending += [Digest.parse(d["digest"]) for d in document.get("manifests", ())]
            for part in [document["config"], *document["layers"]] if "config" in document else ():
                digest = Digest.parse(part["digest"])
                wanted = (paths.blob_data(digest), paths.link(paths.layers(name), digest))
                found += [path for path in wanted if not has(path)]
    return found


def data_of(layout: Layout) -> set[str]:
    """All data of blobs, and data that are set aside."""
    files = walk(layout.driver, paths.BLOBS)
    return {file.path for file in files if not file.is_dir}


class Run:
    """A storage in memory, and a collection in it that calls *at* before each of its calls."""

    def __init__(self, state: Path, number: int, *, linked: bool = False) -> None:
        self.memory = InMemoryDriver()
        self.layout = Layout(self.memory)
        lay_out(self.layout, linked=linked)
        self.garbage = Garbage(URL, state / str(number), self.layout)

    def collect(
        self,
        at: Callable[[int], object] = bool,
        wait: Callable[[float], None] | None = None,
        **trouble: Any,  # noqa: ANN401
    ) -> list[Call]:
        """Run to the end; returns the calls."""
        driver = TroubledDriver(self.memory, **trouble)
        driver.on_call = lambda _call: at(len(driver.calls))
        scanning._drivers[Location.of(URL)] = driver
        self.garbage.delete(wait=wait)
        return driver.calls


class Registry:
    """A registry that looks at a storage at one call of a run, and acts on what it has seen later.

    *look* makes the decision, and *act* takes it.
    """

    def __init__(
        self, moment: int, look: Callable[[], bool], act: Callable[[bool], object]
    ) -> None:
        self.moment = moment
        self.look = look
        self.act = act
        self.seen: list[bool] = []

    def at(self, call: int) -> None:
        if call == self.moment:
            self.seen.append(self.look())

    def settle(self, _seconds: float) -> None:
        if self.seen:
            self.act(self.seen.pop())


@pytest.mark.parametrize("repository", [APP, OTHER])
@pytest.mark.parametrize("linked", [False, True], ids=["unlinked", "linked"])
def test_image_that_is_pushed_at_any_moment_is_whole(
    state: Path, moments: Moments, repository: RepositoryName, linked: bool
) -> None:
    """[S19.29] A blob that a registry or a mount links while `gc` runs stays."""
    for moment in moments(linked=linked):
        run = Run(state, moment, linked=linked)
        client = Client(run.layout, repository)

        def push(call: int, moment: int = moment, client: Client = client) -> None:
            if call == moment:
                client.push(client.decide())

        run.collect(push)
        run.collect()
        assert broken(run.layout) == [], f"pushed at call {moment}"
        assert Digest.of(b"dead").encoded not in str(data_of(run.layout))


@pytest.mark.parametrize("repository", [APP, OTHER])
def test_link_that_a_registry_decided_on_at_any_moment_is_enough(
    state: Path, moments: Moments, repository: RepositoryName
) -> None:
    """The registry has looked at the blob, and links it before the settling time ends."""
    for moment in moments(linked=False):
        run = Run(state, moment)
        client = Client(run.layout, repository)
        registry = Registry(moment, client.decide, client.push)
        run.collect(registry.at, registry.settle)
        run.collect()
        assert broken(run.layout) == [], f"decided at call {moment}"


def test_manifest_that_a_registry_decided_on_at_any_moment_is_whole(
    state: Path, moments: Moments
) -> None:
    """[S19.30] A removed link that a new manifest or tag needs is restored by the same run."""
    for moment in moments(linked=True):
        run = Run(state, moment, linked=True)
        client = Client(run.layout, APP)
        registry = Registry(moment, client.has_link, client.put_manifest_if)
        run.collect(registry.at, registry.settle)
        run.collect()
        assert broken(run.layout) == [], f"decided at call {moment}"


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("linked", [False, True], ids=["unlinked", "linked"])
def test_run_after_a_kill_at_any_moment_completes_it(
    state: Path, moments: Moments, linked: bool, done: bool
) -> None:
    """[S19.32] A run can be stopped at any moment, also by SIGKILL."""
    clean = Run(state, 10**6, linked=linked)
    clean.collect()
    for moment in moments(linked=linked):
        run = Run(state, moment, linked=linked)
        with suppress(Crash):
            run.collect(fail_at=moment, done=done, crash=True)
        run.collect()
        assert broken(run.layout) == [], f"killed at call {moment}"
        assert data_of(run.layout) == data_of(clean.layout), f"killed at call {moment}"


def test_push_after_a_kill_at_any_moment_is_whole(state: Path, moments: Moments) -> None:
    """[S19.32] A run can be stopped at any moment, also by SIGKILL."""
    for moment in moments(linked=True):
        run = Run(state, moment, linked=True)
        with suppress(Crash):
            run.collect(fail_at=moment, crash=True)
        client = Client(run.layout, APP)
        client.push(client.decide())
        for _ in range(2):
            run.collect()
            assert broken(run.layout) == [], f"killed at call {moment}"


def after_first_removal(calls: list[Call]) -> int:
    return next(n for n, call in enumerate(calls, 1) if call.method == "delete") + 1


def test_blob_that_is_linked_before_the_sweep_is_never_hidden(state: Path) -> None:
    """A puller of a blob that was linked again sees no gap, if it was linked in time."""
    moment = after_first_removal(Run(state, 0).collect())
    run = Run(state, 1)
    client = Client(run.layout, OTHER)
    seen: list[bool] = []

    def link(call: int) -> None:
        if call == moment:
            client.push(client.decide())

    run.collect(link, lambda _seconds: seen.append(client.decide()))
    assert seen[0]


def test_blob_that_is_stored_again_before_it_is_set_aside_is_never_hidden(state: Path) -> None:
    """[S19.22] What was changed within `--age` stays."""
    calls = Run(state, 0).collect()
    moment = next(n for n, call in enumerate(calls, 1) if call.method == "move") - 1
    run = Run(state, 1)
    client = Client(run.layout, OTHER)
    seen: list[bool] = []

    def store(call: int) -> None:
        if call == moment:
            client.layout.blob(CONTENT)

    run.collect(store, lambda _seconds: seen.append(client.decide()))
    assert seen[0]


def test_link_that_is_needed_at_once_is_restored_before_the_settling_time(state: Path) -> None:
    calls = Run(state, 0, linked=True).collect()
    moment = next(
        n for n, call in enumerate(calls, 1) if call.method == "delete" and "_layers" in call.path
    )
    run = Run(state, 1, linked=True)
    client = Client(run.layout, APP)
    seen: list[bool] = []

    def store(call: int) -> None:
        if call == moment:
            client.put_manifest()

    run.collect(store, lambda _seconds: seen.append(client.has_link()))
    assert seen[0]


def test_link_that_is_written_again_before_its_removal_stays(state: Path) -> None:
    """A client that pushes a layer again, and its manifest later, is not refused."""
    calls = Run(state, 0, linked=True).collect()
    moment = next(n for n, call in enumerate(calls, 1) if call.method == "delete") - 1
    run = Run(state, 1, linked=True)
    client = Client(run.layout, APP)
    seen: list[bool] = []

    def write(call: int) -> None:
        if call == moment:
            client.layout.link(paths.layers(APP), client.layer)

    run.collect(write, lambda _seconds: seen.append(client.has_link()))
    assert seen[0]


def test_removed_links_are_cleared_before_the_next_look(state: Path) -> None:
    """A push that was accepted by the cache is seen by the look."""
    calls = Run(state, 0, linked=True).collect()
    removals = [n for n, call in enumerate(calls, 1) if call.path.endswith("/link")]
    last = max(n for n in removals if calls[n - 1].method == "delete")
    run = Run(state, 1, linked=True)
    layer = Digest.of(CONTENT)
    run.garbage.cache.set(layer, Descriptor(layer, len(CONTENT)), APP)
    seen: list[bool] = []

    def look(call: int) -> None:
        if call == last + 1:
            seen.append(run.garbage.cache.stat(layer, APP) is None)

    run.collect(look)
    assert seen == [True]
