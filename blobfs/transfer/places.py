"""The places of a copy, as the command line names them, and how they are opened."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from blobfs.digest import Digest
from blobfs.drivers.location import Location, local_root
from blobfs.errors import MountRefused, NameInvalid
from blobfs.reference import Tag
from blobfs.transfer.base import Source, Target
from blobfs.transfer.blobfile import FileSource, FileTarget
from blobfs.transfer.layout import (
    ArchiveSource,
    ArchiveStreamTarget,
    ArchiveTarget,
    LayoutSource,
    LayoutTarget,
)
from blobfs.transfer.registry import RegistryOptions, RegistrySource, RegistryTarget
from blobfs.transfer.selection import EVERYTHING, Part
from blobfs.transfer.storage import StorageSource
from blobfs.transfer.storage_target import StorageTarget

_PART: Final = "!/"

_CONFIGS: Final = (".yml", ".yaml")

_NAMED: Final = 10
"""Images that an error names."""

_PAIRS: Final = (
    "blobfs cp copies between storages (a directory, s3://…, config.yml), oci:DIR,"
    " oci-archive:FILE and docker://HOST, in both directions; and one blob from STORAGE!/repository"
    "@digest into a file or -, or from a file or - into PLACE!/repository"
)


class Kind(Enum):
    """The kinds of places."""

    STORAGE = "storage"
    LAYOUT = "oci"
    ARCHIVE = "oci-archive"
    REGISTRY = "docker"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Place:
    """A place, and the *part* of it that is copied from or to.

    A storage has a *location*; a layout, an archive and a file have a *path*, which is None for the
    standard streams; a registry has a *host*. A pickled place has no credentials.
    """

    kind: Kind
    part: Part = EVERYTHING
    location: Location | None = None
    path: Path | None = None
    host: str = ""

    @classmethod
    def parse(cls, text: str, locate: Callable[[str], Location] = Location.of) -> Self:
        """Parse the argument of a command; *locate* returns the location of a storage.

        Raises MountRefused, NameInvalid.
        """
        scheme, colon, rest = text.partition(":")
        try:
            if colon and scheme == "docker":
                return cls._registry(rest)
            place, bang, named = text.partition(_PART)
            part = Part.parse(named)
            if colon and scheme in {Kind.LAYOUT.value, Kind.ARCHIVE.value}:
                return cls._layout(Kind(scheme), place, None if not bang else part)
        except NameInvalid as exc:
            raise NameInvalid(f"{text}: {exc}") from None
        root = None if place == "-" else _root(place)
        if place == "-" or (root is not None and not bang and _is_plain(root)):
            return cls(Kind.FILE, path=root)
        if root is not None and _mode(root / "oci-layout"):
            raise MountRefused(f"{root} is an OCI image layout; give oci:{root}")
        return cls(Kind.STORAGE, part, location=locate(place))

    @classmethod
    def _registry(cls, rest: str) -> Self:
        found = re.fullmatch(r"//([A-Za-z0-9.:\[\]-]+)(?:/(.*))?", rest)
        if found is None:
            raise MountRefused(  # it may have a password
                "a registry is given as docker://HOST[:PORT][/NAME[:TAG|@DIGEST]], and its login by"
                " skopeo login, or in BLOBFS_SRC_CREDS or BLOBFS_DEST_CREDS"
            )
        return cls(Kind.REGISTRY, Part.parse(found[2] or ""), host=found[1])

    @classmethod
    def _layout(cls, kind: Kind, place: str, part: Part | None) -> Self:
        """Parse ``oci:DIR[:name]``; a name without a colon is a tag of the repository ``""``."""
        directory, _, name = place.partition(":")[2].partition(":")
        if not directory or (name and part is not None):
            raise MountRefused(
                f"{place} is not {kind.value}:PATH[:NAME] or {kind.value}:PATH!/NAME"
            )
        if part is None:
            is_tag = bool(name) and not re.search("[:@/]", name)
            part = Part("", Tag(name)) if is_tag else Part.parse(name)
        is_stream = kind is Kind.ARCHIVE and directory == "-"
        return cls(kind, part, path=None if is_stream else Path(directory).absolute())

    def __str__(self) -> str:
        part = str(self.part)
        match self.kind:
            case Kind.REGISTRY:
                return f"docker://{self.host}" + (f"/{part}" if part else "")
            case Kind.FILE:
                return str(self.path or "-")
        start = str(self.location) if self.location else f"{self.kind.value}:{self.path or '-'}"
        return start + (f"{_PART}{part}" if part else "")

    @property
    def is_directory(self) -> bool:
        """True for a storage in a directory."""
        return self.location is not None and self.location.root is not None

    @property
    def is_stream(self) -> bool:
        """True for the standard input or output."""
        return self.is_archive_stream or (self.kind is Kind.FILE and self.path is None)

    @property
    def is_archive_stream(self) -> bool:
        """True for an archive in the standard input or output."""
        return self.kind is Kind.ARCHIVE and self.path is None

    @property
    def key(self) -> str:
        """16 digits that are the same for all names of the place, without its part."""
        if self.location is not None:
            return self.location.key
        name = f"{self.kind.value}:{self.host}:{self.path and self.path.resolve()}"
        return sha256(os.fsencode(name)).hexdigest()[:16]

    @property
    def root(self) -> Path | None:
        """The path of the place if it is on this machine."""
        return self.path or (self.location.root if self.location else None)


def _root(place: str) -> Path | None:
    """Return the directory or file that *place* names; raises MountRefused."""
    try:
        root = local_root(place)
    except MountRefused as exc:
        raise MountRefused(f"{exc}. {_PAIRS}") from None
    head, bang, part = place.partition("!")
    if bang and root is not None and _mode(root) is None:
        raise MountRefused(f"{root} does not exist; a part of {head} is {head}{_PART}{part}")
    return root


def _is_plain(path: Path) -> bool:
    """True if *path* is a file that is no configuration."""
    mode = _mode(path) or stat.S_IFDIR
    return not stat.S_ISDIR(mode) and path.suffix not in _CONFIGS


def _mode(path: Path) -> int | None:
    """Return the mode of *path*; None if it is missing, and 0 if that cannot be seen."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return 0


def paired(source: Place, target: Place) -> tuple[Place, Place]:
    """Return both places; one that is a file has the digest that the other one names.

    If *source* names a digest, a *target* that does not exist is a file. If only *target* names an
    image, a layout must have one image. Raises MountRefused, and what ``open_source`` raises.
    """
    root = target.location.root if target.location else target.path
    is_new = root is not None and not root.exists() and target.part == EVERYTHING
    if is_new and target.kind is Kind.STORAGE and root is not None and root.suffix == ".tar":
        raise MountRefused(f"{root} would be a directory; give oci-archive:{root}, or another name")
    wanted, named = source.part.target, target.part.target
    if isinstance(wanted, Digest) and (
        target.kind is Kind.FILE or (target.kind is Kind.STORAGE and is_new)
    ):
        target = Place(Kind.FILE, Part("", wanted), path=root)
    elif source.kind is Kind.FILE and isinstance(named, Digest):
        source = replace(source, part=Part("", named))
    elif (
        isinstance(named, Tag)
        and source.part == EVERYTHING
        and source.kind in {Kind.LAYOUT, Kind.ARCHIVE}
    ):
        source = replace(source, part=_only_image(source))
    return source, target


def _only_image(place: Place) -> Part:
    """Return the only image of a layout."""
    with open_source(place) as layout:
        names = list(layout.repositories())
        images = [Part(name, tag) for name in names for tag in layout.tags(name)]
        for name in () if images else names:
            outlines = [layout.outline(name, digest) for digest in layout.revisions(name)]
            parts = {child for outline in outlines for child in outline.children}
            images += [
                Part(name, outline.manifest.digest)
                for outline in outlines
                if outline.manifest.digest not in parts and outline.subject is None
            ]
    if len(images) != 1:
        listed = ", ".join(map(str, images[:_NAMED])) or "none"
        raise MountRefused(f"{place} has not one image, but {listed}; name one, as {place}:NAME")
    return images[0]


def check_pair(source: Place, target: Place) -> None:
    """Raise MountRefused if nothing can be copied from *source* to *target*."""
    if source.kind is Kind.FILE is target.kind:
        raise MountRefused(f"{source} and {target} are files; use cp. {_PAIRS}")
    if target.kind is Kind.FILE and not isinstance(source.part.target, Digest):
        raise MountRefused(
            f"{target} is no directory, and a file gets one blob: give"
            f" {Kind.ARCHIVE.value}:{target}, create a directory, or name one blob of the source."
            f" {_PAIRS}"
        )
    if source.kind is Kind.FILE and not target.part.repository:
        raise MountRefused(
            f"{source} is a file, which is one blob: give {Kind.ARCHIVE.value}:{source} for an"
            f" archive, or name the repository that gets the blob: {target}{_PART}repository."
            f" {_PAIRS}"
        )
    _check_nesting(source, target)


def _check_nesting(source: Place, target: Place) -> None:
    """Raise MountRefused if one of the places is in the other, or a part would replace itself."""
    if source.key == target.key:
        ours, theirs = source.part, target.part
        is_moved = theirs != EVERYTHING and replace(ours, target=None) != replace(
            theirs, target=None
        )
        is_retagged = isinstance(theirs.target, Tag) and theirs.target != ours.target
        if not (is_moved or is_retagged):
            raise MountRefused(f"{target} is the source; give another place, or another name in it")
        return
    if source.root is None or target.root is None:
        return
    inside, outside = target.root.resolve(), source.root.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise MountRefused(f"one of {source} and {target} is in the other; give a place outside")


@dataclass(frozen=True, slots=True)
class PlaceOptions:
    """The options of one place.

    With *link_files* a storage gets hard links or reflinks. Surveys are kept in *state_dir*. With
    *replaces* an archive that exists gets more images, by a new one in its place.
    """

    link_files: bool = False
    state_dir: Path | None = None
    replaces: bool = False
    registry: RegistryOptions = field(default_factory=RegistryOptions)


DEFAULTS: Final = PlaceOptions()


def open_source(place: Place, options: PlaceOptions = DEFAULTS) -> Source:
    """Open a place to copy from it.

    Raises MountRefused, PathNotFound, AccessDenied, StorageUnavailable.
    """
    if place.path is not None and _mode(place.path) is None:
        raise MountRefused(f"{place} does not exist; check the path")
    match place:
        case Place(kind=Kind.STORAGE, location=Location() as location):
            return StorageSource(location, state_dir=options.state_dir)
        case Place(kind=Kind.LAYOUT, path=Path() as path):
            return LayoutSource(path)
        case Place(kind=Kind.ARCHIVE):
            return ArchiveSource(place.path)
        case Place(kind=Kind.REGISTRY):
            return RegistrySource(place.host, options.registry, place.part.repository)
        case Place(kind=Kind.FILE):
            return FileSource(place.path)
    raise MountRefused(f"cannot copy from {place}. {_PAIRS}")


def open_target(place: Place, options: PlaceOptions = DEFAULTS) -> Target:
    """Open a place to copy to it.

    Raises MountRefused, PathNotFound, AccessDenied, StorageUnavailable.
    """
    match place:
        case Place(kind=Kind.STORAGE, location=Location() as location):
            return StorageTarget(location, link_files=options.link_files)
        case Place(kind=Kind.LAYOUT, path=Path() as path):
            return LayoutTarget(path)
        case Place(kind=Kind.ARCHIVE, path=Path() as path):
            return ArchiveTarget(path, replace=options.replaces)
        case Place(kind=Kind.ARCHIVE):
            return ArchiveStreamTarget(sys.stdout.buffer)
        case Place(kind=Kind.REGISTRY):
            return RegistryTarget(place.host, options.registry, place.part.repository)
        case Place(kind=Kind.FILE, part=Part(target=Digest() as digest)):
            return FileTarget(place.path, digest)
    raise MountRefused(f"cannot copy to {place}. {_PAIRS}")
