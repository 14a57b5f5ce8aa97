"""The commands of ``blobfs``."""

from __future__ import annotations

import errno
import os
from importlib import import_module
from typing import Final

import click
from click.shell_completion import CompletionItem

from blobfs.cli.output import sentence
from blobfs.errors import AccessDenied, BlobfsError
from blobfs.logs import printable

_CONTEXT: Final = {
    "auto_envvar_prefix": "BLOBFS",
    "max_content_width": 100,
    "help_option_names": ["-h", "--help"],
}
_SECTIONS: Final = {
    "Mounting": {
        "mount": ("mounting", "Mount a registry as a filesystem."),
        "umount": ("umount_command", "Unmount, and wait until the daemon has ended."),
    },
    "Looking": {
        "ls": ("ls_command", "List repositories, tags, or files."),
        "show": ("show_command", "Show an image with its platforms and layers."),
        "stat": ("stat_command", "Show a line for each platform of an image."),
        "cat": ("cat_command", "Print a blob, a manifest, or a file of an image."),
        "diff": ("diff_command", "Compare the files of two images."),
        "index": ("index_command", "Make the indexes of images ahead."),
        "config": ("config_command", "Show a registry's configuration."),
    },
    "Copying": {
        "cp": ("copy_command", "Copy images, blobs, or a whole registry."),
        "sync": ("copy_command", "Copy, and with --delete remove what the source lost."),
        "backup": ("copy_command", "Copy all of a registry to a backup."),
        "restore": ("copy_command", "Copy a backup to a registry."),
    },
    "Changing": {
        "tag": ("tag_command", "Set a tag."),
        "untag": ("tag_command", "Remove a tag; undelete brings it back."),
        "rm": ("tag_command", "Remove a tag, a manifest, or a repository."),
        "uploads": ("uploads_command", "List and end unfinished uploads."),
    },
    "Maintenance": {
        "du": ("du_command", "Show disk usage, each blob once."),
        "verify": ("verify_command", "Find and repair faults, and the images they hurt."),
        "gc": ("gc_command", "Delete what nothing refers to, beside registries."),
        "prune": ("prune_command", "Remove old tags by rules."),
        "trash": ("prune_command", "List removed tags."),
        "undelete": ("prune_command", "Bring back a removed tag."),
        "doctor": ("doctor_command", "Check this machine, and a storage."),
    },
}
"""The sections of the help: the module of each command, and its line.

A module is imported on use, as some take longer than the command.
"""

_COMMANDS: Final = {
    name: command for commands in _SECTIONS.values() for name, command in commands.items()
}

_ALIASES: Final = {"unmount": "umount", "tags": "ls"}


class _Group(click.Group):
    """Command group that prints a BlobfsError in one line, and resolves aliases of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = _ALIASES.get(cmd_name, cmd_name)
        if name in _COMMANDS and name not in self.commands:
            module, line = _COMMANDS[name]
            command = getattr(import_module(f"blobfs.cli.{module}"), name)
            command.short_help = line
            self.add_command(command)
        return super().get_command(ctx, name)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the words that a shell offers, without an import of the commands."""
        items = [
            CompletionItem(name, help=line)
            for name, (_, line) in sorted(_COMMANDS.items())
            if name.startswith(incomplete)
        ]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in _SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, line) for name, (_, line) in commands.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BlobfsError as exc:
            raise click.ClickException(printable(sentence(exc))) from exc
        except OSError as exc:
            if exc.errno == errno.EPIPE:
                raise  # click exits without a message
            text = f"{exc.filename or 'output'}: {exc.strerror}"
            if exc.errno == errno.EACCES:
                text = sentence(AccessDenied(text))
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
