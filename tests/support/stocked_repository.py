"""One of everything that a repository may have."""

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName
from tests.support.layout import APP, LATEST, Layout, image

LAYER = Digest.of(b"layer")
IMAGE = Digest.of(image(LAYER))


def stock(layout: Layout, repository: RepositoryName = APP) -> None:
    """One of everything that a repository may have."""
    layout.layer(b"layer", repository)
    alias = Digest.of(b"layer", "sha512")
    layout.link(paths.layers(repository), alias, str(LAYER).encode())
    layout.tag(layout.revision(image(LAYER), repository), LATEST, repository)
    layout.put(paths.upload_startedat(repository, "an-upload"), b"2024-02-29T12:00:00Z")
    layout.put(paths.upload_data(repository, "an-upload"), b"begun")
