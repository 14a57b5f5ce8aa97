"""An OCI layout of many tiny images, indexes and referrers, which is written in milliseconds."""

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Final

_OCI: Final = "application/vnd.oci.image"

Descriptor = dict[str, object]


class TinyImages:
    """Writes an OCI layout at *directory*; images share layers, and can be pushed by their tags."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._tags: list[Descriptor] = []
        (directory / "blobs/sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def add_image(self, tag: str, *layers: int) -> str:
        """Add an image of some *layers*, numbers of random contents; returns its digest."""
        return self._tagged(tag, self._image(tag, layers))

    def add_index(self, tag: str, *layers: int) -> str:
        """Add an index of an image for each of two platforms, and return its digest."""
        children = []
        for architecture in ("amd64", "arm64"):
            child = self._image(f"{tag} {architecture}", layers)
            children.append(child | {"platform": {"os": "linux", "architecture": architecture}})
        document = {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": children}
        return self._tagged(tag, self._json("index.v1+json", document))

    def add_referrer(self, tag: str, subject: str, layer: int) -> str:
        """Add an image that refers to *subject*, and return its digest."""
        size = self.blob(subject).stat().st_size
        of = {"mediaType": f"{_OCI}.manifest.v1+json", "digest": subject, "size": size}
        return self._tagged(tag, self._image(tag, (layer,), subject=of))

    def blob(self, digest: str) -> Path:
        """The file of a blob."""
        return self.directory / "blobs/sha256" / digest.partition(":")[2]

    def parts(self, digest: str) -> set[str]:
        """The digests of a manifest, of its children, and of all their blobs."""
        document = json.loads(self.blob(digest).read_bytes())
        found = {digest}
        for child in document.get("manifests", ()):
            found |= self.parts(child["digest"])
        for part in [document["config"], *document["layers"]] if "config" in document else ():
            found.add(part["digest"])
        return found

    def _image(self, name: str, layers: tuple[int, ...], **more: object) -> Descriptor:
        config = {"architecture": "amd64", "os": "linux", "author": name,
                  "rootfs": {"type": "layers", "diff_ids": []}}  # fmt: skip
        document = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": self._json("config.v1+json", config),
            "layers": [self._layer(number) for number in layers],
            **more,
        }
        return self._json("manifest.v1+json", document)

    def _layer(self, number: int) -> Descriptor:
        content = gzip.compress(random.Random(number).randbytes(3_000), mtime=0)
        return self._stored("layer.v1.tar+gzip", content)

    def _json(self, kind: str, document: object) -> Descriptor:
        return self._stored(kind, json.dumps(document).encode())

    def _stored(self, kind: str, content: bytes) -> Descriptor:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blob(digest).write_bytes(content)
        return {"mediaType": f"{_OCI}.{kind}", "digest": digest, "size": len(content)}

    def _tagged(self, tag: str, descriptor: Descriptor) -> str:
        name = {"org.opencontainers.image.ref.name": tag}
        self._tags.append(descriptor | {"annotations": name})
        index = {"schemaVersion": 2, "manifests": self._tags}
        (self.directory / "index.json").write_text(json.dumps(index))
        return str(descriptor["digest"])
