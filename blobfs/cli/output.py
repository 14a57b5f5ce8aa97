"""The output of commands: tables, errors, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import click

from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    RepositoryUnknown,
    StorageReadOnly,
    TagUnknown,
    UploadUnknown,
)
from blobfs.logs import printable

if TYPE_CHECKING:
    from blobfs.cli.reports import Report

DAMAGED: Final = 1
"""The exit code if a report shows damage, or something that could not be done."""

_ADVICE: Final[dict[type[BlobfsError], str]] = {
    RepositoryUnknown: "blobfs ls STORAGE lists the repositories",
    TagUnknown: "blobfs ls STORAGE REPOSITORY lists the tags",
    UploadUnknown: "blobfs uploads STORAGE lists the uploads",
    StorageReadOnly: "mount that file system for writing",
    AccessDenied: "run as a user who may, or with credentials that may",
}
"""The next step after an error whose message has none."""


def echo(text: str) -> None:
    """Print *text* on stderr."""
    click.echo(printable(text), err=True)


def echo_if_terminal(text: str) -> None:
    """Print *text* on stderr if that is a terminal."""
    if sys.stderr.isatty():
        echo(text)


def sentence(exc: BlobfsError) -> str:
    """Return the message of an error for a person, with the next step."""
    advice = next((_ADVICE[kind] for kind in type(exc).__mro__ if kind in _ADVICE), None)
    text = str(exc)
    return text if advice is None or "; " in text else f"{text}; {advice}"


def print_report(
    report: Report,
    *,
    as_json: bool,
    human: bool = False,
    notes: Iterable[str] = (),
    to_stderr: bool = False,
) -> None:
    """Print *report*, and the *notes* on stderr; exits with 1 if the report counts damage."""
    text = report.as_json() if as_json else report.as_table(human=human)
    click.echo(text, err=to_stderr)
    for note in notes:
        echo(note)
    if report.damaged:
        sys.exit(DAMAGED)
