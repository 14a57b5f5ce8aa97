"""What the tests of a mount that is written to share: names in a repository, and its contents."""

import os
import subprocess
from pathlib import Path

from blobfs.digest import CANONICAL, Digest
from tests.support.mounts import MountedRegistry


def upload(repository: Path, name: str | Digest) -> Path:
    """A blob on its way in."""
    return repository / "_uploads" / str(name)


def layer(repository: Path, digest: Digest) -> Path:
    """A blob, through the repository's link."""
    return repository / "_layers" / digest.algorithm / digest.encoded


def revision(repository: Path, digest: Digest) -> Path:
    """A manifest."""
    return repository / "_manifests/revisions" / digest.algorithm / digest.encoded


def layers(repository: Path) -> dict[str, bytes]:
    """Every layer's content, by its digits."""
    return {file.name: file.read_bytes() for file in (repository / "_layers/sha256").iterdir()}


def put_layer(repository: Path, content: bytes, algorithm: str = CANONICAL) -> Digest:
    """Upload a layer under its own digest."""
    digest = Digest.of(content, algorithm)
    upload(repository, digest).write_bytes(content)
    upload(repository, digest).unlink()
    return digest


def put_manifest(repository: Path, content: bytes, tag: str = "") -> Digest:
    """Upload a manifest under a tag, or under its own digest."""
    digest = Digest.of(content)
    file = repository / "_manifests/_uploads" / (tag or str(digest))
    file.write_bytes(content)
    file.unlink()
    return digest


def stored_uploads(mount: MountedRegistry, repository: Path) -> list[Path]:
    """The directories that the storage has of a repository's uploads."""
    name = repository.relative_to(mount.path)
    uploads = Path(mount.storage) / "docker/registry/v2/repositories" / name / "_uploads"
    return list(uploads.iterdir()) if uploads.exists() else []


def shell(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program, which speaks English; its failure is for the test to look at."""
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=environment
    )
