"""Events as a storage tells them, for tests of what becomes of them."""

from blobfs.digest import Descriptor, Digest
from blobfs.reference import RepositoryName
from blobfs.storage.events import Action, Event

APP = RepositoryName("team/app")


def push(name: str, repository: RepositoryName = APP) -> Event:
    """A blob with *name* as its content was pushed."""
    content = name.encode()
    return Event(Action.PUSH, repository, Descriptor(Digest.of(content), len(content)))


def digest(name: str) -> str:
    """The digest of that blob."""
    return str(Digest.of(name.encode()))
