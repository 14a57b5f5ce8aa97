"""Writes the manual pages and the completions of shells, which the wheel installs.

They are made from the help of the commands. Run it after a change of an option:

    .venv/bin/python scripts/make_share.py [DIRECTORY]
"""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from blobfs.cli import main as blobfs
from blobfs.cli.mount_helper_command import helper
from blobfs.cli.mount_options import SECTIONS, MountCommand

_SHARE: Final = Path(__file__).resolve().parent / "share"

_COMPLETIONS: Final = {
    "bash": "bash-completion/completions/blobfs",
    "zsh": "zsh/site-functions/_blobfs",
    "fish": "fish/vendor_completions.d/blobfs.fish",
}

_OF_ADMINISTRATORS: Final = ("blobfs-mount", "blobfs-umount", "mount.blobfs")
"""Pages of section 8; the others are of section 1."""

_ESCAPES: Final = str.maketrans(
    {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
)


def completions() -> Iterator[tuple[str, str]]:
    """Yield the path below ``scripts/share`` and the text of each shell's script."""
    for shell, path in _COMPLETIONS.items():
        kind = get_completion_class(shell)
        assert kind is not None
        yield path, kind(blobfs, {}, "blobfs", "_BLOBFS_COMPLETE").source().lstrip("\n")


def pages() -> Iterator[tuple[str, str]]:
    """Yield the path below ``scripts/share`` and the text of each manual page."""
    with click.Context(blobfs, info_name="blobfs", max_content_width=100) as ctx:
        commands = list(_commands(ctx))
        names = [_name(each) for each in commands]
        for each in commands:
            yield _path(_name(each)), "\n".join(_page(each, names)) + "\n"


def _commands(ctx: click.Context) -> Iterator[click.Context]:
    """Yield a context for each command, and for the helper of mount(8)."""
    yield ctx
    if isinstance(ctx.command, click.Group):
        for name, command in _subcommands(ctx):
            yield from _commands(click.Context(command, parent=ctx, info_name=name))
    if ctx.parent is None:
        yield click.Context(helper, info_name="mount.blobfs")


def _subcommands(ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            if (command := ctx.command.get_command(ctx, name)) is not None:
                yield name, command


def _name(ctx: click.Context) -> str:
    return ctx.command_path.replace(" ", "-")


def _section(name: str) -> int:
    return 8 if name in _OF_ADMINISTRATORS else 1


def _path(name: str) -> str:
    return f"man/man{_section(name)}/{name}.{_section(name)}"


def _page(ctx: click.Context, names: list[str]) -> Iterator[str]:
    command, name = ctx.command, _name(ctx)
    yield '.\\" Made by scripts/make_share.py from the help of the command.'
    yield f'.TH "{_text(name.upper())}" "{_section(name)}" "" "blobfs {version("blobfs")}" "blobfs"'
    yield ".SH NAME"
    yield f"{_text(name)} \\- {_text(command.get_short_help_str(limit=1000).rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {_text(ctx.command_path)}"
    yield _text(" ".join(command.collect_usage_pieces(ctx)))
    yield ".SH DESCRIPTION"
    yield from _paragraphs(inspect.cleandoc(command.help or ""))
    if isinstance(command, click.Group):
        yield ".SH COMMANDS"
        for each, sub in _subcommands(ctx):
            yield from _entry(each, sub.get_short_help_str(limit=1000))
    yield ".SH OPTIONS"
    yield from _options(ctx)
    yield ".SH SEE ALSO"
    others = [other for other in names if other != name and _is_near(other, name)]
    yield " ,\n".join(f".BR {_text(other)} ({_section(other)})" for other in others)


def _is_near(other: str, name: str) -> bool:
    """True for the command above, the commands below, and those of section 8 for each other."""
    if other == (name.rpartition("-")[0] or "blobfs") or other.rpartition("-")[0] == name:
        return True
    return _section(other) == _section(name) == 8


def _options(ctx: click.Context) -> Iterator[str]:
    shown = [param for param in ctx.command.get_params(ctx) if isinstance(param, click.Option)]
    if isinstance(ctx.command, MountCommand):
        grouped = [option for options in SECTIONS.values() for option in options]
        for title, options in SECTIONS.items():
            yield f".SS {_text(title)}"
            yield from _entries(ctx, options)
        yield ".SS Help"
        shown = [option for option in shown if option not in grouped]
    yield from _entries(ctx, shown)


def _entries(ctx: click.Context, options: list[click.Option]) -> Iterator[str]:
    for option in options:
        record = option.get_help_record(ctx)
        if record is not None:
            yield from _entry(*record)


def _entry(term: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield f"\\fB{_text(term)}\\fR"
    yield _text(text)


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _text(text: str) -> str:
    """Escape *text*, so that troff prints it as it is."""
    escaped = text.translate(_ESCAPES)
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def main() -> None:
    share = Path(sys.argv[1]) if len(sys.argv) > 1 else _SHARE
    shutil.rmtree(share, ignore_errors=True)
    for path, text in [*completions(), *pages()]:
        file = share / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
