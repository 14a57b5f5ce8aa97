"""The commands of ``blobfs``."""

from __future__ import annotations

import errno
import os
from importlib import import_module
from typing import Final

import click

from blobfs.cli.output import sentence
from blobfs.errors import BlobfsError
from blobfs.logs import printable

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
    "config": "config_command",
    "cp": "copy_command",
    "diff": "diff_command",
    "doctor": "doctor_command",
    "du": "du_command",
    "gc": "gc_command",
    "index": "index_command",
    "ls": "ls_command",
    "mount": "mounting",
    "prune": "prune_command",
    "restore": "copy_command",
    "rm": "tag_command",
    "show": "show_command",
    "stat": "stat_command",
    "sync": "copy_command",
    "tag": "tag_command",
    "trash": "prune_command",
    "umount": "umount_command",
    "undelete": "prune_command",
    "untag": "tag_command",
    "uploads": "uploads_command",
    "verify": "verify_command",
}
"""The modules of the commands. Each is imported on use, as some take longer than the command."""

_ALIASES: Final = {"unmount": "umount", "tags": "ls"}


class _Group(click.Group):
    """Command group that prints a BlobfsError in one line, and resolves aliases of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULES)

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
        # Both are slow to import.
        from importlib.metadata import version  # noqa: PLC0415

        from blobfs.fuse.versions import versions  # noqa: PLC0415

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


if "_BLOBFS_COMPLETE" in os.environ:  # a shell asks, in the form of our own scripts
    import_module("blobfs.cli.completion")
