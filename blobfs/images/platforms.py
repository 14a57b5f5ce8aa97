"""Platforms of images: operating system, architecture and variant, with Go's names.

Source: the OCI image specification, image-index.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from blobfs.errors import NameInvalid

_ARCHITECTURES: Final = {
    "x86_64": "amd64", "i386": "386", "i586": "386", "i686": "386", "aarch64": "arm64",
    "armv6l": "arm", "armv7l": "arm", "armv8l": "arm", "ppc64le": "ppc64le", "s390x": "s390x",
    "riscv64": "riscv64", "loongarch64": "loong64", "mips64": "mips64le",
}  # fmt: skip

_VARIANTS: Final = {"armv6l": "v6", "armv7l": "v7", "armv8l": "v7"}

_IMPLIED_VARIANTS: Final = {"arm64": "v8", "arm": "v7"}
"""Variants that an image without one has."""


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform; *variant* may be empty."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.os, self.architecture, self.variant)))

    @property
    def specifier(self) -> str:
        """The platform as the option ``--platform`` of tools takes it, such as linux/arm64/v8."""
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    @classmethod
    def here(cls) -> Self:
        """Return the platform of this machine."""
        machine = os.uname().machine
        architecture = _ARCHITECTURES.get(machine, machine)
        return cls("linux", architecture, _VARIANTS.get(machine, ""))

    @classmethod
    def read(cls, value: object) -> Self | None:
        """Return the platform of a JSON object; None if it has none that can be a file's name.

        An attestation has the platform ``unknown/unknown``.
        """
        match value:
            case {"os": str(name), "architecture": str(architecture), **others}:
                variant = others.get("variant") or ""
                found = cls(name, architecture, variant if isinstance(variant, str) else "")
                return found if found.is_name and name != "unknown" else None
        return None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``os/architecture[/variant]``; raises NameInvalid."""
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or not cls(*parts).is_name:
            raise NameInvalid(f"not a platform such as linux/arm64 or linux/arm/v7: {text[:99]!r}")
        return cls(*parts)

    def includes(self, other: Platform) -> bool:
        """True if *other* is this platform; any variant is if this one has none."""
        is_same = (self.os, self.architecture) == (other.os, other.architecture)
        return is_same and self.variant in ("", other.full_variant)

    @property
    def is_name(self) -> bool:
        """True if it can be the name of a file."""
        text = str(self)
        fits = 0 < len(text) < 100 and text.isascii() and text.isprintable()
        return fits and bool(self.os and self.architecture) and not {"/", " "} & set(text)

    def best_of(self, found: Iterable[Platform]) -> Platform | None:
        """Return the first of *found* whose images run here, one of the same variant if there is.

        Without such a one it is the first of the same architecture; None if there is none.
        """
        fitting = [
            each for each in found if (each.os, each.architecture) == (self.os, self.architecture)
        ]
        for each in fitting:
            if each.full_variant == self.full_variant:
                return each
        return fitting[0] if fitting else None

    @property
    def full_variant(self) -> str:
        """The variant, also if it is implied."""
        return self.variant or _IMPLIED_VARIANTS.get(self.architecture, "")
