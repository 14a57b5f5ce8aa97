"""The commands of ``config``."""

from __future__ import annotations

import sys

import click

from blobfs.cli import reports
from blobfs.cli.storage import Storage
from blobfs.cli.types import JSON, STORAGE
from blobfs.config.report import ConfigReport


@click.group("config")
def config() -> None:
    """Look at a registry's configuration file."""


@config.command("show", short_help="Print the keys in force, with their origins.")
@STORAGE
@JSON
def config_show(storage: str, *, as_json: bool) -> None:
    """Print the keys of the registry's configuration that are in force for STORAGE.

    Each has its origin: a line of the file, a variable, or the default. Secrets are masked.
    """
    found = ConfigReport.of(Storage.of_argument(storage).configuration())
    if as_json:
        click.echo(found.as_json())
    elif sys.stdout.isatty():
        click.echo(reports.Report(found.COLUMNS, found.rows).as_table())
    else:
        click.echo(found.as_yaml())
