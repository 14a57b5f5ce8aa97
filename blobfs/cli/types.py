"""Types of options and arguments, with their error messages, and options of several commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from blobfs.cli.completion import complete, complete_storage, names, references, repositories
from blobfs.errors import BlobfsError, MountRefused
from blobfs.reference import Reference, RepositoryName
from blobfs.storage.registry import Registry
from blobfs.timestamps import parse_duration

if TYPE_CHECKING:
    from click.types import OptionHelpExtra

T = TypeVar("T", bound=Callable[..., Any])

_NOBODY: Final = 2**32 - 1
"""The id that means "no change" to chown(2)."""


class Option(click.Option):
    """An option whose help shows no range, and a default in words as it is."""

    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)  # an error names the range
        if "default" in extra:
            extra["default"] = extra["default"].strip("()")  # click adds them to a text
        return extra


class Octal(click.ParamType[int]):
    """A umask."""

    name = "octal"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        try:
            number = value if isinstance(value, int) else int(str(value), 8)
        except ValueError:
            self.fail(f"{value!r} is not an octal number such as 022", param, ctx)
        if not 0 <= number <= 0o777:
            self.fail("a umask is between 000 and 777", param, ctx)
        return number


class Account(click.ParamType[int]):
    """A user or group by name or number; *number_of* raises KeyError for an unknown name."""

    def __init__(self, name: str, number_of: Callable[[str], int]) -> None:
        self.name = name
        self._number_of = number_of

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        text = str(value)
        if text.isascii() and text.isdecimal():
            number = int(text)
        else:
            try:
                number = self._number_of(text)
            except (KeyError, ValueError):
                self.fail(f"there is no {self.name} {text!r} on this machine", param, ctx)
        if number >= _NOBODY:
            self.fail(f"{number} is too large for a {self.name}", param, ctx)
        return number


class Parsed(click.ParamType[Any]):
    """An argument that *parse* converts; a BlobfsError becomes a usage error.

    A shell completes it to what is *offered*.
    """

    def __init__(
        self,
        name: str,
        parse: Callable[[str], object],
        offered: Callable[[Registry, str], Iterator[str]] | None = None,
    ) -> None:
        self.name = name
        self._parse = parse
        self._offered = offered

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the words that a shell offers."""
        if self._offered is None:
            return super().shell_complete(ctx, param, incomplete)
        return complete(ctx, incomplete, self._offered)

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        try:
            return self._parse(value) if isinstance(value, str) else value
        except BlobfsError as exc:
            self.fail(str(exc), param, ctx)


class Duration(click.ParamType[float]):
    """A number with a unit, converted to seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds = parse_duration(str(value), "smhd")
        if seconds is None:
            self.fail(
                f"{value!r} is not a duration such as 90s, 30m, 12h or 7d, of 100 years at most",
                param,
                ctx,
            )
        return seconds


class Size(click.ParamType[int]):
    """A number with a power of 1,024, converted to bytes."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        match = re.fullmatch(r"(\d{1,12})([KMGT]?)", str(value))
        if match is None:
            self.fail(f"{value!r} is not a size such as 500M or 10G", param, ctx)
        return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


def without_password(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse a password on the command line; the callback of the option ``--cache``."""
    typed = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    if value is not None and typed and ("@" in value or "password=" in value):
        raise MountRefused(
            "a password on the command line can be seen by every user of the machine;"
            f" give the URL as {ctx.auto_envvar_prefix}_CACHE, or in the registry's file"
        )
    return value


def redis_option(text: str, *variables: str) -> Callable[[T], T]:
    """Return the option ``--cache`` for a Redis; *variables* can give it instead."""
    return click.option(
        "--cache", metavar="URL", envvar=variables or None, callback=without_password, help=text
    )


def _repository_or_reference(text: str) -> RepositoryName | Reference:
    is_reference = ":" in text or "@" in text
    return Reference.parse(text) if is_reference else RepositoryName(text)


STORAGE: Final = click.argument("storage", shell_complete=complete_storage)
REPOSITORY: Final = Parsed("repository", RepositoryName, repositories)
REFERENCE: Final = Parsed("repository:tag|repository@digest", Reference.parse, references)
NAME: Final = Parsed("repository or reference", _repository_or_reference, names)
TAGGED: Final = Parsed("repository:tag", Reference.parse, references)

PATH: Final = click.Path(path_type=Path)
FILE: Final = click.Path(path_type=Path, dir_okay=False, resolve_path=True)
DIRECTORY: Final = click.Path(path_type=Path, file_okay=False, resolve_path=True)
SECONDS: Final = click.FloatRange(min=0, max=10**9)

HUMAN: Final = click.option(
    "-h", "--human-readable", "human", is_flag=True, help="Print sizes such as 1.5G."
)
JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
STATE: Final = click.option(
    "--state",
    type=FILE,
    help="Keep the state in this file: a run that was stopped goes on, a later one is faster.",
)
LONG_HELP: Final = {"help_option_names": ["--help"]}  # -h is as in ls(1)
