"""A registry's storage that is copied to another one, by the commands."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import Result

from blobfs.cli.copy_progress import CopyProgress
from blobfs.digest import Digest
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.manifest import OCI_INDEX, OCI_MANIFEST
from blobfs.transfer.copying import Copy, OpenCopy, workers_for
from blobfs.transfer.outcome import Failure, failures
from blobfs.transfer.places import Place
from blobfs.transfer.route import Fault, Route, close_all
from blobfs.transfer.selection import Selection
from blobfs.transfer.target_tasks import Done
from tests.support.command import invoke
from tests.support.layout import APP, Layout, as_bytes, descriptor, image

_ROOT = "docker/registry/v2"


@dataclass(frozen=True)
class Copies:
    """The directories ``source`` and ``target`` below *directory*, and the journal of copies."""

    directory: Path

    @property
    def source(self) -> Path:
        """The storage that is copied from."""
        return self.directory / "source"

    @property
    def target(self) -> Path:
        """The storage that is copied to."""
        return self.directory / "target"

    @property
    def state(self) -> Path:
        """The directory of journals."""
        return self.directory / "state"

    def has_journal(self) -> bool:
        """True while a copy has begun and not ended."""
        return bool([*self.state.glob("cp-*")])

    @property
    def layout(self) -> Layout:
        """The content of the source."""
        self.source.mkdir(exist_ok=True)
        return Layout(FilesystemDriver.below(self.source))

    def put_image(self, tag: str = "", *contents: bytes, name: RepositoryName = APP) -> Digest:
        """Store an image with a config and layers of these contents in the source."""
        parts = [
            descriptor(self.layout.layer(content, name), size=len(content)) for content in contents
        ]
        payload = as_bytes(
            {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": parts[0], "layers": parts[1:]}
        )
        digest = self.layout.revision(payload, name)
        if tag:
            self.layout.tag(digest, Tag(tag), name)
        return digest

    def put_index(self, tag: str, *children: Digest, name: RepositoryName = APP) -> Digest:
        """Store an index of manifests that are stored."""
        listed = [
            descriptor(child, size=self.blob(self.source, child).stat().st_size)
            for child in children
        ]
        payload = as_bytes({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed})
        digest = self.layout.revision(payload, name)
        self.layout.tag(digest, Tag(tag), name)
        return digest

    def put_referrer(self, subject: Digest, content: bytes, name: RepositoryName = APP) -> Digest:
        """Store an image without a tag that refers to *subject*."""
        document = json.loads(image(self.layout.layer(content, name)))
        return self.layout.revision(as_bytes(document | {"subject": descriptor(subject)}), name)

    def run(self, command: str, *options: object, source: str = "", target: str = "") -> Result:
        """Run a command that copies; *source* and *target* name parts, such as ``!/app``."""
        places = f"{self.source}{source}", f"{self.target}{target}"
        return self.between(command, *places, *options)

    def between(self, command: str, source: object, target: object, *options: object) -> Result:
        """Run a command that copies between any places."""
        return invoke(command, source, target, "--state-dir", self.state, *options)

    def cp(self, *options: object, source: str = "", target: str = "") -> Result:
        """Run ``blobfs cp``."""
        return self.run("cp", *options, source=source, target=target)

    @contextmanager
    def opened(self) -> Iterator[OpenCopy]:
        """Yield a copy of all images that has a plan, and has not begun."""
        route = Route(Place.parse(str(self.source)), Place.parse(str(self.target)))
        with (
            workers_for(route, jobs=2) as crew,
            Copy(route, Selection()).open(None, crew, lambda *_: None) as copy,
        ):
            yield copy
        close_all()

    def files(self, storage: Path) -> dict[str, bytes]:
        """The files of a storage by their paths below its root directory."""
        root = storage / _ROOT
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }

    def tags(self, storage: Path | None = None) -> dict[str, str]:
        """The digests that the tags of a storage name, that of the target by default."""
        return {
            path.replace("/_manifests/tags/", ":")
            .removeprefix("repositories/")
            .rpartition("/current/")[0]: content.decode()
            for path, content in self.files(storage or self.target).items()
            if path.endswith("/current/link")
        }

    def blob(self, storage: Path, digest: Digest) -> Path:
        """The file of a blob."""
        return storage / _ROOT / f"blobs/sha256/{digest.encoded[:2]}/{digest.encoded}/data"


class Noted(CopyProgress):
    """Notes the items of a copy; *then* is called with each before the next one."""

    def __init__(self, then: Callable[[str, str], None] = lambda _kind, _name: None) -> None:
        super().__init__(as_json=False)
        self._then = then

    def item(self, kind: str, repository: str, name: str, result: Done | Fault) -> None:
        super().item(kind, repository, name, result)
        self._then(kind, name)


def completed(copy: OpenCopy, feedback: CopyProgress | None = None) -> list[Failure]:
    """Complete a copy, and return its failures."""
    copy.run(feedback or Noted())
    copy.finish()
    return list(failures(copy.catalog))


def counts(result: Result) -> dict[str, dict[str, int]]:
    """Return the counts of each kind in the summary of a copy with ``--json``."""
    summary = json.loads(result.stdout.splitlines()[-1])
    return {kind: summary[f"{kind}s"] for kind in ("blob", "manifest", "tag")}


def events(result: Result, kind: str) -> list[dict[str, Any]]:
    """Return the events of *kind* that a copy with ``--json`` has printed."""
    found = map(json.loads, result.stdout.splitlines())
    return [event for event in found if event["event"] == kind]
