"""``mount.blobfs``, which mount(8) runs for the type blobfs, also for lines of fstab(5).

Format: mount(8), "External helpers": ``mount.TYPE SPEC DIRECTORY [-sfnv] [-N NAMESPACE]
[-o OPTIONS] [-t TYPE.SUBTYPE]``, and the exit codes 1 for a wrong use, 32 for a mount that fails.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import click

from blobfs.cli.mounting import mount, start
from blobfs.cli.output import echo
from blobfs.errors import BlobfsError

_WRONG_USE: Final = 1
_FAILED: Final = 32

_OF_MOUNT: Final = frozenset({
    "_netdev", "async", "atime", "auto", "comment", "default_permissions", "defaults", "dev",
    "diratime", "exec", "group", "lazytime", "noatime", "noauto", "nodev", "nodiratime", "noexec",
    "nofail", "nolazytime", "norelatime", "nostrictatime", "nosuid", "nouser", "nousers", "owner",
    "relatime", "rw", "silent", "strictatime", "suid", "user", "users",
})  # fmt: skip
"""Options for mount(8) and systemd, and those that hold for every mount of blobfs.

A file in a mount cannot be executed, is no device, and has no time of access.
"""

_OF_OTHERS: Final = ("x-", "X-")
"""The beginnings of options of other programs, such as x-systemd.automount."""

_NOT_HERE: Final = frozenset({"foreground"})  # mount(8) would wait for the end of the mount

_ALIASES: Final = {"ro": "read-only"}

_OPTION: Final = re.compile(r'(?:"[^"]*"|[^,"])+')
_SECRET: Final = re.compile("SECRET|TOKEN|PASSWORD|ACCESS_?KEY|BLOBFS_", re.IGNORECASE)


@click.command("mount.blobfs", context_settings={"max_content_width": 100})
@click.argument("storage")
@click.argument("mountpoint")
@click.option("-o", "options", multiple=True, help="Options, separated by commas.")
@click.option("-s", "sloppy", is_flag=True, help="Ignore unknown options.")
@click.option("-f", "fake", is_flag=True, help="Check the options, and do not mount.")
@click.option("-v", "verbose", is_flag=True, help="Print a line when the mount is ready.")
@click.option("-n", "_mtab", is_flag=True, help="No effect.")
@click.option("-N", "_namespace", metavar="NAMESPACE", help="No effect.")
@click.option("-t", "_type", metavar="TYPE", help="No effect.")
def helper(
    storage: str,
    mountpoint: str,
    *,
    options: tuple[str, ...],
    sloppy: bool,
    fake: bool,
    verbose: bool,
    **_: object,
) -> None:
    """Mount the registry in STORAGE at MOUNTPOINT for mount(8) and fstab(5).

    The options are those of blobfs mount without the dashes at the start, such as allow_other,
    uid=1000 or tag-timeout=5; _ and - are the same. ro is read-only. A value with a comma is put
    in double quotes. env.NAME=VALUE sets a variable of the environment. Options for mount(8) and
    systemd, such as _netdev, nofail, noauto, user and x-systemd.automount, are accepted.

    Every user can read the options, so passwords are refused in them. Keys of a bucket belong in
    ~/.aws/credentials, and the password of a Redis in the registry's file.

    Exits with 1 if an option is wrong, and with 32 if the mount fails.
    """
    arguments, environment = translate(options, sloppy=sloppy)
    os.environ.update(environment)
    arguments += ["--", storage, mountpoint]
    with mount.make_context("mount.blobfs", arguments, auto_envvar_prefix="BLOBFS_MOUNT") as ctx:
        if fake:
            return
        given = dict(ctx.params)
        settings = start(given.pop("storage"), Path(given.pop("mountpoint")), given)
        if verbose:
            click.echo(f"{settings.source} is mounted at {mountpoint}")


def main() -> None:
    """Run the helper with the exit codes that mount(8) expects."""
    try:
        sys.exit(helper(standalone_mode=False))
    except click.ClickException as exc:
        echo(f"mount.blobfs: {exc.format_message()}")
        sys.exit(_WRONG_USE)
    except BlobfsError as exc:
        echo(f"mount.blobfs: {exc}")
        sys.exit(_FAILED)
    except click.Abort:
        sys.exit(_FAILED)


def translate(options: Iterable[str], *, sloppy: bool = False) -> tuple[list[str], dict[str, str]]:
    """Return the arguments of ``blobfs mount``, and variables, for the options of mount(8).

    Raises click.UsageError for an unknown option, unless *sloppy*.
    """
    known = _options()
    arguments: list[str] = []
    environment: dict[str, str] = {}
    for option in _separated(options):
        name, has_value, value = option.partition("=")
        key = _canonical(name)
        if name in _OF_MOUNT or name.startswith(_OF_OTHERS):
            continue
        if name.startswith("env."):
            environment[_variable(name)] = value
        elif known.get(key) is bool(has_value):
            arguments.append(f"--{key}{has_value}{value}")
        elif not sloppy:
            raise click.UsageError(_refusal(name, known))
    return arguments, environment


def _separated(options: Iterable[str]) -> Iterator[str]:
    """Split at commas that are not in double quotes; the quotes go."""
    for text in options:
        yield from (found.replace('"', "") for found in _OPTION.findall(text))


def _canonical(name: str) -> str:
    """Return the name of an option of ``blobfs mount``, without the dashes at its start."""
    return _ALIASES.get(name, name.replace("_", "-"))


def _options() -> dict[str, bool]:
    """Return the names of the options of ``blobfs mount``; True for those that need a value."""
    return {
        name.removeprefix("--"): not option.is_flag
        for option in mount.params
        if isinstance(option, click.Option) and option.name not in _NOT_HERE
        for name in (*option.opts, *option.secondary_opts)
    }


def _variable(name: str) -> str:
    """Return the name of a variable; raises click.UsageError for a secret."""
    variable = name.removeprefix("env.")
    if not variable or _SECRET.search(variable):
        raise click.UsageError(
            f"{name} is refused: every user can read the options of a mount; give an option of"
            " blobfs mount by its name, the keys of a bucket in ~/.aws/credentials, and the"
            " password of a Redis in the registry's file"
        )
    return variable


def _refusal(name: str, known: dict[str, bool]) -> str:
    needs_value = known.get(_canonical(name))
    if needs_value is not None:
        return f"option {name} " + (f"needs a value: {name}=…" if needs_value else "takes no value")
    options = (f"{each}=…" if is_valued else each for each, is_valued in known.items())
    named = [*_ALIASES, *options, "env.NAME=…"]
    return f"unknown option {name!r}; known are {', '.join(sorted(named))}; and those of mount(8)"
