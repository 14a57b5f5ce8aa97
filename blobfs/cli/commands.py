"""The commands of ``blobfs``."""

from __future__ import annotations

import errno
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from blobfs.cli import image_report, reports
from blobfs.cli.mounting import mount
from blobfs.cli.notices import echo
from blobfs.cli.opening import open_existing
from blobfs.cli.output import DAMAGED, sentence
from blobfs.cli.storage import Storage
from blobfs.cli.types import HUMAN, JSON, LONG_HELP, PATH, REFERENCE, STORAGE
from blobfs.errors import BlobfsError
from blobfs.fuse.versions import versions
from blobfs.host.unmount import unmount
from blobfs.logs import printable
from blobfs.reference import Reference

_CONTEXT: Final = {
    "auto_envvar_prefix": "BLOBFS",
    "max_content_width": 100,
    "help_option_names": ["-h", "--help"],
}
_SECTIONS: Final = {
    "Mounting": ("mount", "umount"),
    "Looking": ("ls", "show", "stat", "cat", "diff", "index", "config"),
    "Copying": ("cp", "sync", "backup", "restore"),
    "Changing": ("tag", "untag", "rm", "uploads"),
    "Maintenance": ("du", "verify", "gc", "prune", "trash", "undelete", "doctor"),
}
"""The commands in the help, by section."""

_MODULES: Final = {
    "backup": "copy_command",
    "cat": "cat_command",
    "cp": "copy_command",
    "diff": "diff_command",
    "doctor": "doctor_command",
    "du": "du_command",
    "gc": "gc_command",
    "index": "index_command",
    "ls": "ls_command",
    "prune": "prune_command",
    "restore": "copy_command",
    "rm": "tag_command",
    "stat": "stat_command",
    "sync": "copy_command",
    "tag": "tag_command",
    "trash": "prune_command",
    "undelete": "prune_command",
    "untag": "tag_command",
    "uploads": "uploads_command",
    "verify": "verify_command",
}
"""The modules of commands that are imported on use: a mount needs none of them."""

_ALIASES: Final = {"unmount": "umount", "tags": "ls"}


class _Group(click.Group):
    """Command group that prints a BlobfsError in one line, and resolves aliases of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_MODULES})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = _ALIASES.get(cmd_name, cmd_name)
        if name in _MODULES and name not in self.commands:
            module = import_module(f"blobfs.cli.{_MODULES[name]}")
            self.add_command(getattr(module, name))
        return super().get_command(ctx, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, names in _SECTIONS.items():
            found = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(name, command.get_short_help_str(60)) for name, command in found if command]
            with formatter.section(section):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BlobfsError as exc:
            raise click.ClickException(printable(sentence(exc))) from exc
        except OSError as exc:
            if exc.errno == errno.EPIPE:
                raise  # click exits without a message
            text = f"{exc.filename or 'output'}: {exc.strerror}"
            raise click.ClickException(printable(text)) from exc


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"blobfs {version('blobfs')}")
        click.echo(", ".join(f"{name} {of}" for name, of in versions().items()))
        ctx.exit()


@click.group(cls=_Group, context_settings=_CONTEXT)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the versions of blobfs and of what it runs on.",
)
def main() -> None:
    """Mount the storage of a Docker/OCI registry as a filesystem, or read it without a mount.

    STORAGE is the registry's root, which holds docker/registry/v2: a directory, as a path or
    as file:///path, or s3://bucket/prefix, with options such as ?regionendpoint=…&region=…. It
    can also be the registry's configuration file, such as /etc/docker/registry/config.yml.
    Every option can be given as BLOBFS_<COMMAND>_<OPTION>.
    """


main.add_command(mount)


@main.command(short_help="Unmount, and wait until the daemon has ended.")
@click.argument("mountpoint", type=PATH)
@click.option("--lazy", is_flag=True, help="Detach a mount that is in use; do not wait.")
def umount(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount MOUNTPOINT and wait until its daemon has ended; a dead mount is removed too.

    Also called blobfs unmount.
    """
    unmount(mountpoint, lazy=lazy, waiting=echo)


@main.command(context_settings=LONG_HELP, short_help="Show an image with its platforms and layers.")
@STORAGE
@click.argument("reference", type=REFERENCE)
@HUMAN
@JSON
def show(storage: str, reference: Reference, *, human: bool, as_json: bool) -> None:
    """Show an image in STORAGE: its platforms, config, and layers with their history.

    REFERENCE is REPOSITORY:TAG or REPOSITORY@DIGEST. Exits with 1 if a part of it is missing.
    """
    with open_existing(storage) as registry:
        report = image_report.show(registry, reference)
    click.echo(report.as_json() if as_json else report.as_text(human=human))
    if report.is_damaged:
        sys.exit(DAMAGED)


@main.group("config", short_help="Show a registry's configuration.")
def config_() -> None:
    """Look at a registry's configuration file."""


@config_.command("show", short_help="Print the keys in force, with their origins.")
@STORAGE
@JSON
def config_show(storage: str, *, as_json: bool) -> None:
    """Print the keys of the registry's configuration that are in force for STORAGE.

    Each has its origin: a line of the file, a variable, or the default. Secrets are masked.
    """
    from blobfs.config.report import ConfigReport  # noqa: PLC0415  (PyYAML is slow to import)

    found = ConfigReport.of(Storage.of_argument(storage).configuration())
    if as_json:
        click.echo(found.as_json())
    elif sys.stdout.isatty():
        click.echo(reports.Report(found.COLUMNS, found.rows).as_table())
    else:
        click.echo(found.as_yaml())
