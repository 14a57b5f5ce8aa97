"""A registry with images and artifacts of every kind that clients push, of any size."""

import gzip
import io
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.factory import driver_for
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from blobfs.storage.registry import Registry
from tests.support.layout import Json, Layout, as_bytes, descriptor

_DOCKER: Final = "application/vnd.docker.image.rootfs"
_OCI: Final = "application/vnd.oci.image"
_EMPTY: Final = "application/vnd.oci.empty.v1+json"
_FOREIGN: Final = "https://example.org/layer"


class Holdings(NamedTuple):
    """All that the repositories of a registry hold, by repository."""

    tags: dict[str, dict[str, str]]
    revisions: dict[str, set[str]]
    layers: dict[str, set[str]]
    history: dict[str, dict[str, set[str]]]


def holdings(storage: str | Path) -> Holdings:
    """Read what the storage at a directory or URL holds, by its own lists."""
    found = Holdings({}, {}, {}, {})
    with closing(driver_for(str(storage))) as driver:
        registry = Registry(driver)
        for name in registry.enumerate():
            repository = registry.repository(name)
            tags = list(repository.tags.enumerate())
            found.tags[name] = {tag: str(repository.tags.get(tag)) for tag in tags}
            found.revisions[name] = set(map(str, repository.manifests.links.enumerate_all()))
            found.layers[name] = set(map(str, repository.layers.enumerate_all()))
            found.history[name] = {
                tag: set(map(str, repository.tags.history(tag).enumerate_all())) for tag in tags
            }
    return found


@contextmanager
def varied_registry(root: Path, size: int) -> Iterator["VariedRegistry"]:
    """Yield a registry in a new directory, whose layers have about *size* bytes."""
    root.mkdir(exist_ok=True)
    with closing(driver_for(str(root))) as driver:
        yield VariedRegistry(driver, size)


@dataclass
class VariedRegistry:
    """Fills a storage. A layer has about *size* random bytes, so it cannot be compressed."""

    driver: StorageDriver
    size: int = 1000
    seed: int = 1

    def __post_init__(self) -> None:
        self._layout = Layout(self.driver)
        self._random = Random(self.seed)

    def fill(self, images: int = 40) -> None:
        """Make *images* tags of images, and all other kinds of content once."""
        shared = [self._layer() for _ in range(3)]
        for number in range(images):
            name = RepositoryName(f"team{number % 4}/app{number % 10}")
            kind = (self._docker, self._oci, self._index)[number % 3]
            layers = [*shared[: number % 4], self._layer()]
            self._tag(name, f"v{number}", kind(name, layers))
        self._artifacts(RepositoryName("team0"))

    def fill_what_has_no_tag(self, name: RepositoryName = RepositoryName("odds")) -> None:  # noqa: B008
        """Add a moved tag, an untagged revision, and a blob that no manifest names."""
        for _ in range(2):
            self._tag(name, "v1", self._oci(name, [self._layer()]))
        self._oci(name, [self._layer()])
        self._layout.layer(b"single " + self._random.randbytes(8), name)

    def _artifacts(self, name: RepositoryName) -> None:
        image = self._oci(name, [self._layer()])
        self._tag(name, "signed", image)
        self._tag(name, f"sha256-{image.encoded}.sig", self._artifact(name, "signature", None))
        sbom = self._artifact(name, "sbom", image)
        self._tag(name, f"sha256-{image.encoded}", self._manifests(name, [sbom]))
        self._tag(name, "chart", self._artifact(name, "helm", None))
        self._tag(name, "foreign", self._foreign(name))
        self._tag(name, "alias", self._aliased(name))
        self._tag(name, "cache", self._build_cache(name))

    def _tag(self, name: RepositoryName, tag: str, digest: Digest) -> None:
        self._layout.tag(digest, Tag(tag), name)

    def _layer(self) -> bytes:
        content = self._random.randbytes(self.size)
        return _archive(f"file-{content[:4].hex()}", content)

    def _part(self, name: RepositoryName, content: bytes, media_type: str) -> dict[str, Json]:
        digest = self._layout.layer(content, name)
        return descriptor(digest, size=len(content), media_type=media_type)

    def _config(self, name: RepositoryName, layers: list[bytes], kind: str) -> dict[str, Json]:
        diff_ids = [str(Digest.of(gzip.decompress(layer))) for layer in layers]
        rootfs: Json = {"type": "layers", "diff_ids": diff_ids}
        config = as_bytes({"architecture": "amd64", "os": "linux", "rootfs": rootfs})
        return self._part(name, config, kind)

    def _revision(self, name: RepositoryName, media_type: str, document: dict[str, Json]) -> Digest:
        payload = as_bytes({"schemaVersion": 2, "mediaType": media_type, **document})
        return self._layout.revision(payload, name)

    def _docker(self, name: RepositoryName, layers: list[bytes]) -> Digest:
        config = self._config(name, layers, "application/vnd.docker.container.image.v1+json")
        parts = [self._part(name, layer, f"{_DOCKER}.diff.tar.gzip") for layer in layers]
        return self._revision(name, DOCKER_MANIFEST, {"config": config, "layers": parts})

    def _oci(self, name: RepositoryName, layers: list[bytes]) -> Digest:
        config = self._config(name, layers, f"{_OCI}.config.v1+json")
        parts = [self._part(name, layer, f"{_OCI}.layer.v1.tar+gzip") for layer in layers]
        return self._revision(name, OCI_MANIFEST, {"config": config, "layers": parts})

    def _index(self, name: RepositoryName, layers: list[bytes]) -> Digest:
        """Store an index of two platforms, and an attestation as buildx makes them."""
        children: list[Json] = []
        for architecture in ("amd64", "arm64"):
            digest = self._oci(name, [*layers, _archive(architecture)])
            child = self._child(digest)
            child["platform"] = {"os": "linux", "architecture": architecture}
            children.append(child)
        attestation = self._child(self._artifact(name, "attestation", None))
        attestation["platform"] = {"os": "unknown", "architecture": "unknown"}
        attestation["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
        return self._revision(name, OCI_INDEX, {"manifests": [*children, attestation]})

    def _child(self, digest: Digest) -> dict[str, Json]:
        size = self.driver.stat(paths.blob_data(digest)).size
        return descriptor(digest, size=size, media_type=OCI_MANIFEST)

    def _manifests(self, name: RepositoryName, children: list[Digest]) -> Digest:
        found: list[Json] = [self._child(child) for child in children]
        return self._revision(name, OCI_INDEX, {"manifests": found})

    def _artifact(self, name: RepositoryName, kind: str, subject: Digest | None) -> Digest:
        content = kind.encode() + self._random.randbytes(16)
        document: dict[str, Json] = {
            "config": self._part(name, b"{}", _EMPTY),
            "layers": [self._part(name, content, f"application/vnd.test.{kind}")],
        }
        if subject is not None:
            document["subject"] = self._child(subject)
        return self._revision(name, OCI_MANIFEST, document)

    def _foreign(self, name: RepositoryName) -> Digest:
        elsewhere = b"not in this registry"
        layer = descriptor(
            Digest.of(elsewhere), size=len(elsewhere), media_type=f"{_DOCKER}.foreign.diff.tar.gzip"
        )
        config = self._config(name, [], "application/vnd.docker.container.image.v1+json")
        document: dict[str, Json] = {"config": config, "layers": [{**layer, "urls": [_FOREIGN]}]}
        return self._revision(name, DOCKER_MANIFEST, document)

    def _aliased(self, name: RepositoryName) -> Digest:
        """Store an image whose layer has a name of sha512, as clients push it."""
        layer = self._layer()
        stored = self._layout.layer(layer, name)
        alias = Digest.of(layer, "sha512")
        self._layout.link(paths.layers(name), alias, str(stored).encode())
        config = self._config(name, [layer], f"{_OCI}.config.v1+json")
        part = descriptor(alias, size=len(layer), media_type=f"{_OCI}.layer.v1.tar+gzip")
        return self._revision(name, OCI_MANIFEST, {"config": config, "layers": [part]})

    def _build_cache(self, name: RepositoryName) -> Digest:
        """Store an index whose children are layers, as buildkit's cache."""
        layer = self._part(name, self._layer(), f"{_OCI}.layer.v1.tar+gzip")
        config = self._part(name, b'{"layers":[]}', "application/vnd.buildkit.cacheconfig.v0")
        return self._revision(name, OCI_INDEX, {"manifests": [layer, config]})


def _archive(name: str, content: bytes = b"") -> bytes:
    """Return an archive of one file."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return gzip.compress(archive.getvalue(), compresslevel=1, mtime=0)
