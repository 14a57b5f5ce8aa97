"""Parts of places, the images that a copy selects, and their names in the target."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Self

from blobfs.digest import Digest
from blobfs.errors import MountRefused
from blobfs.images.platforms import Platform
from blobfs.reference import Reference, RepositoryName, Tag


@dataclass(frozen=True, slots=True)
class Part:
    """All repositories of a place, those below *prefix*, or one of them, or one image or blob.

    *prefix* is empty or ends with a slash. *repository* is ``""`` for a name without one.
    """

    repository: str | None = None
    target: Tag | Digest | None = None
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``""``, ``prefix/``, ``repository``, ``repository:tag`` or ``repository@digest``.

        Raises NameInvalid.
        """
        if not text:
            return cls()
        if text.endswith("/"):
            return cls(prefix=f"{RepositoryName(text[:-1])}/")
        if ":" in text or "@" in text:
            reference = Reference.parse(text)
            return cls(reference.repository, reference.target)
        return cls(RepositoryName(text))

    def __str__(self) -> str:
        if self.target is None:
            return self.repository or self.prefix
        separator = "@" if isinstance(self.target, Digest) else ":"
        return f"{self.repository or ''}{separator}{self.target}"

    @property
    def is_everything(self) -> bool:
        """True for all repositories of the place."""
        return self == EVERYTHING

    def includes(self, repository: str) -> bool:
        """True if the repository belongs to the part."""
        return self.repository in {None, repository} and repository.startswith(self.prefix)


EVERYTHING: Final = Part()


@dataclass(frozen=True, slots=True)
class Selection:
    """The images of a source that are copied.

    *include* and *exclude* are patterns of the shell for ``repository:tag``, or for the repository
    if they have no colon. With *everything* also manifests without a tag and single blobs are
    copied. *newer_than_s* is the age of a tag's last change at the most.
    """

    part: Part = EVERYTHING
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    platform: Platform | None = None
    newer_than_s: float | None = None
    history: bool = False
    everything: bool = False

    def __post_init__(self) -> None:
        """Raise MountRefused if *everything* is selected, and less than that."""
        of_tags = any(":" in pattern for pattern in (*self.include, *self.exclude))
        others = (self.part.target, self.platform, self.newer_than_s)
        if self.everything and (of_tags or any(each is not None for each in others)):
            raise MountRefused(
                "everything of a repository is copied, so a tag, --platform, --newer-than and"
                " patterns with a colon cannot select a part of it; omit one of both"
            )

    def wants_repository(self, repository: str) -> bool:
        """True if a tag of the repository may be selected."""
        included = [each for each in self.include if ":" in each or _matches(each, repository, "")]
        excluded = [each for each in self.exclude if ":" not in each]
        return (
            self.part.includes(repository)
            and bool(included or not self.include)
            and not any(_matches(each, repository, "") for each in excluded)
        )

    def wants(self, repository: str, tag: str) -> bool:
        """True if the patterns and the part select a tag."""
        if not self.part.includes(repository) or self.part.target not in {None, tag}:
            return False
        if self.include and not any(_matches(each, repository, tag) for each in self.include):
            return False
        return not any(_matches(each, repository, tag) for each in self.exclude)


def _matches(pattern: str, repository: str, tag: str) -> bool:
    if ":" not in pattern:
        return fnmatchcase(repository, pattern)
    return fnmatchcase(f"{repository}:{tag}", pattern)


@dataclass(frozen=True, slots=True)
class Naming:
    """The names that the repositories and tags of the part *source* have in the part *target*.

    A place that *may_be_nameless* has images without the name of a repository.
    """

    source: Part
    target: Part
    may_be_nameless: bool = False

    def __post_init__(self) -> None:
        """Raise MountRefused if *target* cannot name what *source* does."""
        named = self.target.target
        if named is not None and self.source.target is None:
            raise MountRefused(
                f"{self.target} names one image; name one of the source too, as !/repository:tag"
            )
        if isinstance(named, Digest) and named != self.source.target:
            raise MountRefused(f"{self.target}: a copy has the digest of its source; give a tag")

    def repository(self, name: str) -> str:
        """Return the name in the target; raises MountRefused, NameInvalid."""
        if self.target.repository is not None:
            return self.target.repository
        if not name and not self.may_be_nameless:
            raise MountRefused(
                "the source has images without the name of a repository; name one in the target, as"
                " !/repository, or leave them out with --include '?*'"
            )
        if not self.target.prefix:
            return name
        return RepositoryName(self.target.prefix + name.removeprefix(self.source.prefix))

    def tag(self, tag: Tag) -> Tag:
        """Return the tag in the target of an image with *tag*."""
        is_named = tag == self.source.target and isinstance(self.target.target, Tag)
        return Tag(str(self.target.target)) if is_named else tag

    def source_of(self, name: str) -> str | None:
        """Return the repository in the source whose copy is *name*; None if it is no copy."""
        if self.target.repository is not None:
            return self.source.repository if name == self.target.repository else None
        if not name.startswith(self.target.prefix):
            return None
        if self.target.prefix:
            name = self.source.prefix + name.removeprefix(self.target.prefix)
        return name if self.source.includes(name) else None
