"""Sources and targets in which a user may write to one repository, and attacks the others."""

from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.manifest import OCI_MANIFEST
from tests.support.copies import Copies
from tests.support.layout import image, index, manifest

_BAD = RepositoryName("bad")
_GOOD = RepositoryName("good")
_LIE = Digest.of(b"a lie", "sha512")


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    """A source with one image that is in order."""
    copies = Copies(tmp_path)
    copies.put_image("v1", b"config", b"layer", name=_GOOD)
    return copies


def test_a_link_that_makes_a_circle_of_manifests_keeps_only_them_out(copies: Copies) -> None:
    """[S22.34] manifests that refer to each other in a circle"""
    layout = copies.layout
    digest = layout.revision(index(_LIE), _BAD)
    layout.link(paths.revisions(_BAD), _LIE, str(digest).encode())
    layout.tag(digest, Tag("v1"), _BAD)
    result = copies.cp()
    assert result.exit_code == 1
    assert f"manifest bad@{digest}: it refers to itself" in result.output
    assert set(copies.tags()) == {"good:v1"}


def test_a_chain_of_manifests_is_copied_in_order(copies: Copies) -> None:
    digest = copies.layout.revision(image(copies.layout.layer(b"x", _BAD)), _BAD)
    for _ in range(20):
        digest = copies.layout.revision(index(digest), _BAD)
    copies.layout.tag(digest, Tag("v1"), _BAD)
    assert copies.cp().exit_code == 0
    assert set(copies.tags()) == {"bad:v1", "good:v1"}


@pytest.mark.parametrize("size", [-(2**63), -1, 2**62, 2**63 - 1])
def test_sizes_that_no_blob_has_do_no_harm(copies: Copies, size: int) -> None:
    """[S22.4] Each blob is hashed on its way"""
    layer = copies.layout.layer(b"x", _BAD)
    digest = copies.layout.revision(manifest(OCI_MANIFEST, layer, size=size), _BAD)
    copies.layout.tag(digest, Tag("v1"), _BAD)
    result = copies.cp()
    assert result.exit_code == 0, result.output
    assert copies.blob(copies.target, layer).read_bytes() == b"x"
    assert not copies.has_journal()


def test_a_second_digest_that_lies_is_not_linked(copies: Copies) -> None:
    """[S22.53] A second digest of a blob is verified all the same."""
    secret = copies.layout.layer(b"secret", _GOOD)
    copies.layout.link(paths.layers(_BAD), _LIE, str(secret).encode())
    digest = copies.layout.revision(image(_LIE), _BAD)
    copies.layout.tag(digest, Tag("v1"), _BAD)
    assert copies.cp("--link", "--all").exit_code == 1
    assert not [name for name in copies.files(copies.target) if _LIE.encoded in name]
