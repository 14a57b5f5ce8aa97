"""Make a large registry of small blobs in a directory, to measure what reads all of it.

``scripts/make_registry.py DIRECTORY --links 1000000`` needs three minutes. Each image has a config,
nine layers, a revision and a tag, so 13 links. A tenth of the blobs is in no repository.
"""

from __future__ import annotations

import argparse
import json
import os
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Final

_IMAGES: Final = 20
_LAYERS: Final = 9
_LINKS: Final = _LAYERS + 4
_SIZE: Final = 16
_OCI: Final = "application/vnd.oci.image"


class Registry:
    """Writes the layout of a registry below *root*."""

    def __init__(self, root: Path) -> None:
        self._root = f"{root}/docker/registry/v2"

    def write(self, path: str, content: str) -> None:
        """Write a file of the layout."""
        path = f"{self._root}/{path}"
        os.makedirs(path.rpartition("/")[0], exist_ok=True)
        with open(path, "x", encoding="ascii") as file:
            file.write(content)

    def blob(self, content: str) -> str:
        """Store a blob, and return the hexadecimal digits of its digest."""
        digits = sha256(content.encode("ascii")).hexdigest()
        self.write(f"blobs/sha256/{digits[:2]}/{digits}/data", content)
        return digits

    def link(self, links: str, digits: str) -> None:
        """Write the link of a digest in a link set."""
        self.write(f"repositories/{links}/sha256/{digits}/link", f"sha256:{digits}")


def main() -> None:
    """Make the registry that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--links", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    registry, random = Registry(args.directory), Random(args.seed)
    images = max(1, args.links // _LINKS)
    blobs = [
        registry.blob(f"blob {n}".ljust(_SIZE)) for n in range(max(20, args.links // 10 - images))
    ]
    linked = blobs[len(blobs) // 10 :]
    for number in range(0, images, _IMAGES):
        name = f"team{number // _IMAGES % 50}/app{number // _IMAGES}"
        _fill(registry, name, min(_IMAGES, images - number), linked, random)


def _fill(registry: Registry, name: str, images: int, blobs: list[str], random: Random) -> None:
    """Make a repository of *images*, whose layers are a repository's own or shared."""
    written: set[str] = set()
    for number in range(images):
        parts = random.sample(blobs, _LAYERS + 1)
        manifest = registry.blob(json.dumps(_manifest(name, number, parts)))
        for digits in set(parts) - written:
            registry.link(f"{name}/_layers", digits)
        written |= set(parts)
        registry.link(f"{name}/_manifests/revisions", manifest)
        registry.link(f"{name}/_manifests/tags/v{number}/index", manifest)
        current = f"repositories/{name}/_manifests/tags/v{number}/current/link"
        registry.write(current, f"sha256:{manifest}")


def _manifest(name: str, number: int, parts: list[str]) -> dict[str, object]:
    def descriptor(kind: str, digits: str) -> dict[str, object]:
        return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{digits}", "size": _SIZE}

    return {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": descriptor("config.v1+json", parts[0]),
        "layers": [descriptor("layer.v1.tar+gzip", digits) for digits in parts[1:]],
        "annotations": {"name": name, "number": str(number)},
    }


if __name__ == "__main__":
    main()
