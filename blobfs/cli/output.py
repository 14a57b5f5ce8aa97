"""The output of commands that print a table, and their exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final

import click

from blobfs.cli.notices import echo
from blobfs.cli.reports import Report

DAMAGED: Final = 1
"""The exit code if a report shows damage, or something that could not be done."""


def print_report(
    report: Report, *, as_json: bool, human: bool = False, notes: Iterable[str] = ()
) -> None:
    """Print *report*, and the *notes* on stderr; exits with 1 if the report counts damage."""
    click.echo(report.as_json() if as_json else report.as_table(human=human))
    for note in notes:
        echo(note)
    if report.damaged:
        sys.exit(DAMAGED)
