"""The ``docker/registry/v2`` layout, from names to paths and back. No I/O.

Source: distribution, ``registry/storage/paths.go``. A link file holds a digest::

    /docker/registry/v2/
      blobs/<algorithm>/<hex[:2]>/<hex>/data             layers, configs and manifests
      repositories/<name>/
        _layers/<algorithm>/<hex>/link                   link to a blob
        _manifests/revisions/<algorithm>/<hex>/link      link to a manifest
        _manifests/tags/<tag>/current/link               link to the tag's revision
        _manifests/tags/<tag>/index/<algorithm>/<hex>/link    link to a past revision
        _uploads/<id>/data                               received bytes
        _uploads/<id>/startedat                          start of the upload, RFC 3339
        _uploads/<id>/hashstates/<algorithm>/<offset>    state of the digester
        _uploads/<id>/blobfs.json, _trash/<time>-<tag>   ours: an upload's record, a removed tag
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from blobfs.digest import Digest
from blobfs.errors import DigestInvalid, NameInvalid, PathInvalid
from blobfs.reference import RepositoryName, Tag

ROOT: Final = "/docker/registry/v2"
BLOBS: Final = f"{ROOT}/blobs"
REPOSITORIES: Final = f"{ROOT}/repositories"

CREATED: Final = f"{REPOSITORIES}/.blobfs"
"""An empty object that marks an empty registry in an object store; registries ignore it."""

TRASH: Final = "_trash"
"""The directory of a repository's removed tags; registries ignore it."""

ASIDE: Final = "data.aside"
"""The beginning of the names that ``blob_aside`` gives to a blob's data; registries ignore them."""

MARKERS: Final = ("_layers", "_manifests", "_uploads")
"""A directory with one of these children is a repository."""


def blob_data(digest: Digest) -> str:
    """The file with the blob's bytes."""
    encoded = digest.encoded
    return f"{BLOBS}/{digest.algorithm}/{encoded[:2]}/{encoded}/data"


def blob_aside(digest: Digest, run: str) -> str:
    """The file, beside ``blob_data``, to which the collection *run* sets the bytes aside."""
    return blob_data(digest).removesuffix("data") + f"{ASIDE}.{run}"


def repository(name: str) -> str:
    """The directory of a repository or of a prefix of repository names; *name* may be empty."""
    return f"{REPOSITORIES}/{name}" if name else REPOSITORIES


def layers(name: RepositoryName) -> str:
    """The directory of the links to the repository's blobs: a link set."""
    return f"{REPOSITORIES}/{name}/_layers"


def revisions(name: RepositoryName) -> str:
    """The link set of the repository's manifests."""
    return f"{REPOSITORIES}/{name}/_manifests/revisions"


def tags(name: RepositoryName) -> str:
    """The directory whose children are the repository's tags."""
    return f"{REPOSITORIES}/{name}/_manifests/tags"


def tag(name: RepositoryName, tag: Tag) -> str:
    """The directory of one tag."""
    return f"{tags(name)}/{tag}"


def tag_current_link(name: RepositoryName, tag: Tag) -> str:
    """The link file to the tag's current revision."""
    return f"{tags(name)}/{tag}/current/link"


def tag_index(name: RepositoryName, tag: Tag) -> str:
    """The link set of the tag's current and past revisions."""
    return f"{tags(name)}/{tag}/index"


def link(link_set: str, digest: Digest) -> str:
    """The link file for *digest* in a link set."""
    return f"{link_set}/{digest.algorithm}/{digest.encoded}/link"


def uploads(name: RepositoryName) -> str:
    """The directory whose children are the repository's open uploads."""
    return f"{REPOSITORIES}/{name}/_uploads"


def upload(name: RepositoryName, upload_id: str) -> str:
    """The directory of one upload."""
    return f"{uploads(name)}/{upload_id}"


def upload_data(name: RepositoryName, upload_id: str) -> str:
    """The file with the received bytes."""
    return f"{upload(name, upload_id)}/data"


def upload_startedat(name: RepositoryName, upload_id: str) -> str:
    """The file with the upload's start time."""
    return f"{upload(name, upload_id)}/startedat"


def upload_hashstates(name: RepositoryName, upload_id: str, algorithm: str) -> str:
    """The directory whose children are named for the offsets of saved hash states."""
    return f"{upload(name, upload_id)}/hashstates/{algorithm}"


def upload_hashstate(name: RepositoryName, upload_id: str, algorithm: str, offset: int) -> str:
    """The file with the digester's state after *offset* bytes."""
    return f"{upload_hashstates(name, upload_id, algorithm)}/{offset}"


def upload_record(name: RepositoryName, upload_id: str) -> str:
    """The file with blobfs's own record of the upload; a registry removes it with the rest."""
    return f"{upload(name, upload_id)}/blobfs.json"


def trash(name: RepositoryName) -> str:
    """The directory of the repository's removed tags."""
    return f"{REPOSITORIES}/{name}/{TRASH}"


class Kind(Enum):
    """The kind of a file of the layout."""

    BLOB_DATA = "blob data"
    LAYER_LINK = "layer link"
    REVISION_LINK = "revision link"
    TAG_CURRENT_LINK = "tag's current link"
    TAG_INDEX_LINK = "tag's index link"
    UPLOAD_DATA = "upload data"
    UPLOAD_STARTEDAT = "upload start"
    UPLOAD_HASHSTATE = "upload hash state"
    UPLOAD_RECORD = "upload record"


@dataclass(frozen=True, slots=True)
class Place:
    """The parts of a path in the layout. Parts that its *kind* does not have are None."""

    kind: Kind
    repository: RepositoryName | None = None
    digest: Digest | None = None
    tag: Tag | None = None
    upload_id: str | None = None
    algorithm: str | None = None
    offset: int | None = None


_DIGEST: Final = r"(?P<algorithm>[a-z0-9]+)/(?P<hex>[0-9a-f]+)"
_UPLOAD: Final = r"_uploads/(?P<upload>(?!\.{1,2}/)[A-Za-z0-9._-]+)"
_OFFSET: Final = r"0|[1-9][0-9]{0,18}"  # Go's int64, in its only decimal form
_IN_REPOSITORY: Final = {
    Kind.LAYER_LINK: rf"_layers/{_DIGEST}/link",
    Kind.REVISION_LINK: rf"_manifests/revisions/{_DIGEST}/link",
    Kind.TAG_CURRENT_LINK: r"_manifests/tags/(?P<tag>[^/]+)/current/link",
    Kind.TAG_INDEX_LINK: rf"_manifests/tags/(?P<tag>[^/]+)/index/{_DIGEST}/link",
    Kind.UPLOAD_DATA: rf"{_UPLOAD}/data",
    Kind.UPLOAD_STARTEDAT: rf"{_UPLOAD}/startedat",
    Kind.UPLOAD_RECORD: rf"{_UPLOAD}/blobfs\.json",
    Kind.UPLOAD_HASHSTATE: rf"{_UPLOAD}/hashstates/(?P<algorithm>[a-z0-9]+)/(?P<offset>{_OFFSET})",
}
_PATTERNS: Final = {
    Kind.BLOB_DATA: re.compile(
        rf"{BLOBS}/(?P<algorithm>[a-z0-9]+)/(?P<shard>[0-9a-f]{{2}})/(?P<hex>(?P=shard)[0-9a-f]+)/data"
    ),
    **{
        kind: re.compile(rf"{REPOSITORIES}/(?P<repository>[^_/][^/]*(?:/[^_/][^/]*)*)/{pattern}")
        for kind, pattern in _IN_REPOSITORY.items()
    },
}


def parse(path: str) -> Place:
    """Parse the path of a file, the inverse of the functions above; raises PathInvalid."""
    for kind, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(path):
            try:
                return _place(kind, match.groupdict())
            except (DigestInvalid, NameInvalid) as exc:
                raise PathInvalid(f"{path}: {exc}") from None
    raise PathInvalid(f"not a file of the registry's layout: {path}")


def digest_of_blob(path: str) -> Digest | None:
    """Return the digest of the blob whose data file has *path*; None for another path."""
    match = _PATTERNS[Kind.BLOB_DATA].fullmatch(path)
    try:
        return None if match is None else Digest(match["algorithm"], match["hex"])
    except DigestInvalid:
        return None


def _place(kind: Kind, part: dict[str, str]) -> Place:
    algorithm = part.get("algorithm")
    return Place(
        kind,
        repository=RepositoryName(part["repository"]) if "repository" in part else None,
        digest=Digest(part["algorithm"], part["hex"]) if "hex" in part else None,
        tag=Tag(part["tag"]) if "tag" in part else None,
        upload_id=part.get("upload"),
        algorithm=algorithm if "hex" not in part else None,
        offset=int(part["offset"]) if "offset" in part else None,
    )
