"""Manifests put to docker-registry and to blobfs, and read by both, with every difference named."""

import http.client
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from blobfs import open_registry
from blobfs.digest import Digest
from blobfs.errors import BlobfsError, ManifestRejected
from blobfs.reference import RepositoryName
from blobfs.storage.manifest import MEDIA_TYPES, SCHEMA_1, SIGNED_SCHEMA_1
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from tests.support.layout import image
from tests.support.odd_manifests import Odd, Stock, odd_manifests
from tests.support.services import DockerRegistry, run

pytestmark = pytest.mark.registry

NUMBER = 300
PUT, READ = RepositoryName("put"), RepositoryName("read")

STRICTER = {
    r"both an index and a manifest": (
        "docker-registry 2.8 takes a docker manifest that is both; distribution 3 takes none,"
        " and clients take it for either (CVE-2021-41190)"
    ),
    r"does not look like its media type": (
        "a docker manifest or list with the members of the other kind only is read as empty"
    ),
    r"not JSON": "Python reads 990 levels of nesting, Go 10,000",
    r"annotations|\.data|artifactType": (
        "distribution 3 declares more members than 2.8, and could not read it"
    ),
}
"""Why blobfs refuses to store what docker-registry stores, by the message."""


READ_OTHERWISE = {
    None: "Python reads 990 levels of nesting, Go 10,000",
    SCHEMA_1: (
        "docker-registry signs it with a key of its own, so that it is not what its digest names;"
        " blobfs serves the bytes that are stored, which have no signature"
    ),
}
"""Why blobfs reads a manifest as this media type, or as none, and docker-registry as another."""


@dataclass(frozen=True)
class Verdict:
    """What one of the two does with a manifest: stores it or why not, and reads it as what."""

    stored: bool
    message: str
    media_type: str | None


class Peer:
    """The docker-registry, on one connection, which it closes when it panics."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=20)

    def close(self) -> None:
        self._connection.close()

    def put(self, odd: Odd) -> tuple[int, str]:
        headers = {"Content-Type": odd.media_type}
        status, body, _ = self._ask(
            "PUT", f"/v2/{PUT}/manifests/{tag_of(odd)}", odd.payload, headers
        )
        return status, body

    def media_type(self, repository: str, reference: str) -> str | None:
        headers = {"Accept": ", ".join(sorted(MEDIA_TYPES))}
        path = f"/v2/{repository}/manifests/{reference}"
        status, _, media_type = self._ask("GET", path, None, headers)
        return media_type if status == http.client.OK else None

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, str, str]:
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            text = response.read().decode(errors="replace")
            return response.status, text, response.headers.get("Content-Type", "")
        except (http.client.HTTPException, ConnectionError) as exc:
            self._connection.close()
            return 0, repr(exc), ""


def tag_of(odd: Odd) -> str:
    return "t" + Digest.of(odd.payload).encoded


@dataclass(frozen=True)
class Bench:
    """The two programs: the peer's own storage, and that of blobfs."""

    peer: Peer
    theirs: Registry
    ours: Registry
    ours_at: Path
    stock: Stock

    def judged(self, odd: Odd) -> tuple[Verdict, Verdict]:
        """The verdicts of docker-registry and of blobfs."""
        status, message = self.peer.put(odd)
        digest = self.theirs.repository(READ).manifests.links.put(odd.payload).digest
        theirs = Verdict(
            status == http.client.CREATED, message, self.peer.media_type(READ, str(digest))
        )
        try:
            self.ours.repository(PUT).manifests.put(odd.payload)
            stored, message = True, ""
        except ManifestRejected as exc:
            stored, message = False, str(exc)
        try:
            media_type = self.theirs.repository(READ).manifests.get(digest).media_type
        except BlobfsError as exc:
            media_type, message = None, message or str(exc)
        return theirs, Verdict(stored, message, media_type)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The two programs with what manifests may refer to; nothing waits for the disk."""
    directory = tmp_path_factory.mktemp("manifests")
    theirs, ours = directory / "theirs", directory / "ours"
    ours.mkdir()
    validation = {"manifests": {"urls": {"allow": [".*"]}}}
    with (
        pytest.MonkeyPatch.context() as patch,
        DockerRegistry.serving(theirs, validation=validation) as peer,
        open_registry(str(theirs)) as their_registry,
        open_registry(str(ours)) as our_registry,
    ):
        patch.setattr(os, "fsync", os.fstat)
        stocks = [stocked(r.repository(PUT)) for r in (their_registry, our_registry)]
        with closing(Peer(peer.address)) as client:
            yield Bench(client, their_registry, our_registry, ours, stocks[0])


def stocked(repository: Repository) -> Stock:
    config, layer = (repository.layers.put(content).digest for content in (b"config", b"layer!"))
    child = repository.manifests.put(image(config, layer)).digest
    return Stock(config, layer, child, Digest.of(b"missing"))


@pytest.fixture(scope="module")
def verdicts(bench: Bench) -> list[tuple[Odd, Verdict, Verdict]]:
    return [(odd, *bench.judged(odd)) for odd in odd_manifests(NUMBER, bench.stock)]


def test_blobfs_stores_what_a_registry_stores_but_for_named_differences(
    verdicts: list[tuple[Odd, Verdict, Verdict]],
) -> None:
    """[S8.2] It must be of one of the four media types and such that docker-registry 2.8 and
    distribution 3 can read it.
    """
    differences: Counter[str] = Counter()
    unnamed = []
    for odd, theirs, ours in verdicts:
        if theirs.stored == ours.stored:
            continue
        named = [row for row in STRICTER if theirs.stored and re.search(row, ours.message)]
        differences.update(named[:1])
        if not named:
            unnamed.append((odd.changes, odd.payload[:600], theirs, ours))
    stored = sum(theirs.stored for _, theirs, _ in verdicts)
    lines = [f"{len(verdicts)} manifests, of which docker-registry stores {stored}"]
    lines += [f"blobfs refuses {count}: {STRICTER[row]}" for row, count in differences.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    assert unnamed == []
    assert set(differences) == set(STRICTER), "some are no differences"


def test_blobfs_reads_what_a_registry_reads_but_for_named_differences(
    verdicts: list[tuple[Odd, Verdict, Verdict]],
) -> None:
    """[S8.15] A stored manifest is whatever docker-registry 2.8 can read, with the same media type.
    Under the same media type.
    """
    different = [
        (odd, theirs, ours)
        for odd, theirs, ours in verdicts
        if theirs.media_type != ours.media_type
    ]
    for odd, theirs, ours in different:
        why = READ_OTHERWISE[ours.media_type]
        sys.stdout.write(f"{odd.changes}: {theirs.media_type}, {ours.media_type}: {why}\n")
    assert all(
        theirs.media_type == SIGNED_SCHEMA_1
        if ours.media_type == SCHEMA_1
        else odd.changes == ("nested 1,100 times",)
        for odd, theirs, ours in different
    )
    assert sum(theirs.media_type is not None for _, theirs, _ in verdicts) > NUMBER / 3


def test_registry_reads_and_collects_what_blobfs_has_stored(
    bench: Bench, verdicts: list[tuple[Odd, Verdict, Verdict]], tmp_path: Path
) -> None:
    """[S8.14] A manifest that a registry could not read, such as one with a number for an
    annotation, is never stored.
    """
    assert any(ours.stored for _, _, ours in verdicts)
    storage = {"filesystem": {"rootdirectory": str(bench.ours_at)}}
    config = tmp_path / "config.yml"
    config.write_text(json.dumps({"version": 0.1, "storage": storage}))
    run("docker-registry", "garbage-collect", "--dry-run", config)
