"""Outlines of manifests of each kind."""

import json

import pytest

from blobfs.digest import Digest
from blobfs.errors import ManifestInvalid
from blobfs.storage.manifest import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST
from blobfs.transfer.outlines import outline_of
from tests.support.layout import as_bytes, descriptor, manifest

A, B, C, D = (Digest.of(bytes([n])) for n in range(4))


def test_the_outline_of_an_image_has_its_config_layers_foreign_layers_and_subject() -> None:
    document = json.loads(manifest(OCI_MANIFEST, A, B))
    foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    document["layers"] += [
        descriptor(C, size=5, media_type=foreign) | {"urls": ["https://example.org/c"]}
    ]
    document["layers"] += document["layers"][:1]  # twice
    document["subject"] = descriptor(D, media_type=OCI_MANIFEST)
    payload = as_bytes(document)
    found = outline_of(Digest.of(payload), payload)
    assert (found.manifest.size, found.manifest.media_type) == (len(payload), OCI_MANIFEST)
    assert [blob.digest for blob in found.blobs] == [A, B]
    assert [(blob.digest, blob.size) for blob in found.foreign] == [(C, 5)]
    assert (found.children, found.subject) == ((), D)


def test_the_layers_in_the_index_of_a_build_cache_are_blobs() -> None:
    layer = "application/vnd.oci.image.layer.v1.tar+gzip"
    children = [descriptor(A, media_type=OCI_MANIFEST), descriptor(B, media_type=layer)]
    for media_type in (OCI_INDEX, DOCKER_LIST):
        payload = as_bytes({"schemaVersion": 2, "mediaType": media_type, "manifests": children})
        found = outline_of(Digest.of(payload), payload)
        assert (found.children, [blob.digest for blob in found.blobs]) == ((A,), [B])


def test_bytes_with_another_digest_have_no_outline() -> None:
    with pytest.raises(ManifestInvalid, match="has the digest"):
        outline_of(A, manifest(OCI_MANIFEST, A, B))
