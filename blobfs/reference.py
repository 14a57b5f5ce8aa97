"""Names of repositories and tags, and references that join them.

Names are strings that are valid by construction. Source of truth: distribution/reference,
``regexp.go`` and ``reference.go``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from blobfs.digest import Digest
from blobfs.errors import DigestInvalid, NameInvalid

_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MAX_NAME: Final = 255  # bytes of a whole repository name


def is_component(text: str) -> bool:
    """True if *text* is a valid component of a repository name, between slashes."""
    return len(text) <= _MAX_NAME and _COMPONENT.fullmatch(text) is not None


def is_repository_name(text: str) -> bool:
    """True if *text* is a valid name of a repository."""
    return len(text) <= _MAX_NAME and all(map(is_component, text.split("/")))


class RepositoryName(str):
    """A repository's name: components joined by slashes, at most 255 bytes."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check *text*; raises NameInvalid."""
        if not is_repository_name(text):
            raise NameInvalid(f"not a repository name: {text[:_MAX_NAME]!r}")
        return super().__new__(cls, text)


class Tag(str):
    """A tag's name."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check *text*; raises NameInvalid."""
        if _TAG.fullmatch(text) is None:
            raise NameInvalid(f"not a tag: {text[:_MAX_NAME]!r}")
        return super().__new__(cls, text)


@dataclass(frozen=True, slots=True)
class Reference:
    """A tag or digest in a repository: ``repository:tag`` or ``repository@digest``."""

    repository: RepositoryName
    target: Tag | Digest

    def __str__(self) -> str:
        separator = "@" if isinstance(self.target, Digest) else ":"
        return f"{self.repository}{separator}{self.target}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse either form; raises NameInvalid."""
        name, at, digest = text.partition("@")
        if at:
            try:
                return cls(RepositoryName(name), Digest.parse(digest))
            except DigestInvalid as exc:
                raise NameInvalid(str(exc)) from None
        name, colon, tag = text.rpartition(":")
        if not colon:
            raise NameInvalid(f"{text[:_MAX_NAME]!r} has neither a :tag nor a @digest")
        return cls(RepositoryName(name), Tag(tag))
