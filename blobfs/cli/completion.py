"""Completion of arguments in a shell, and the scripts for bash and zsh.

Repositories and tags are completed for a local storage that answers within a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from blobfs.concurrency import ThreadCall
from blobfs.drivers.location import Location, local_root
from blobfs.errors import BlobfsError
from blobfs.reference import RepositoryName
from blobfs.storage.registry import Registry, open_registry

_LIMIT_S: Final = 1.0
_MOST: Final = 200
"""The largest number of repositories that are offered."""

_Complete = Callable[[Registry, str], Iterator[str]]


def complete_storage(
    _: click.Context, __: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the path of a directory or a file."""
    return [CompletionItem(incomplete, type="file")]


def complete_place(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the path of a place; after ``!/`` the repositories and tags of a storage."""
    storage, bang, name = incomplete.partition("!/")
    if not bang:
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(f"{storage}!/{text}") for text in _found(storage, name, names)]


def repositories(registry: Registry, incomplete: str) -> Iterator[str]:
    """Yield the repositories whose names begin with *incomplete*, in order."""
    if incomplete and registry.is_repository(RepositoryName(incomplete.rstrip("/"))):
        yield from () if incomplete.endswith("/") else (incomplete,)
    found = registry.enumerate(incomplete)
    yield from islice(takewhile(lambda name: name.startswith(incomplete), found), _MOST)


def references(registry: Registry, incomplete: str) -> Iterator[str]:
    """Yield repositories, or the tags of the only one that *incomplete* can become."""
    name, colon, start = incomplete.partition(":")
    if not colon:
        names = list(repositories(registry, name))
        if len(names) != 1:
            yield from names
            return
        [name] = names
    for tag in sorted(registry.repository(name).tags.enumerate()):
        if tag.startswith(start):
            yield f"{name}:{tag}"


def names(registry: Registry, incomplete: str) -> Iterator[str]:
    """Yield repositories; after a colon the tags of one."""
    return (references if ":" in incomplete else repositories)(registry, incomplete)


def complete(ctx: click.Context, incomplete: str, offered: _Complete) -> list[CompletionItem]:
    """Return what is *offered* of the STORAGE in *ctx*; nothing if that is not a local registry."""
    storage = str(ctx.params.get("storage") or "")
    return [CompletionItem(text) for text in _found(storage, incomplete, offered)]


def _found(storage: str, incomplete: str, offered: _Complete) -> list[str]:
    try:
        root = local_root(storage)
        return ThreadCall("completion", lambda: _offered(root, incomplete, offered)).result(
            _LIMIT_S
        )
    except BlobfsError:
        return []


def _offered(root: Path | None, incomplete: str, offered: _Complete) -> list[str]:
    if root is None or not root.is_dir():
        return []
    with open_registry(Location(root=root)) as registry:
        return list(offered(registry, incomplete))


class _Bash(BashComplete):
    """Completion in bash of words with colons, which bash splits into several.

    The script passes the line up to the cursor. readline replaces the part of the word after the
    last colon, so the part before it is removed from what is offered.
    """

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} completion word replaced value
    word=${line##*[[:space:]]}
    if [[ $COMP_WORDBREAKS == *:* && $word == *:* ]]; then
        replaced=${word%%"${word##*:}"}
    fi
    COMPREPLY=()
    for completion in $(env COMP_WORDS="$line" %(complete_var)s=bash_complete "$1"); do
        value=${completion#*,}
        case ${completion%%%%,*} in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$replaced"}") ;;
        esac
    done
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the complete words after the command, and the one before the cursor."""
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        if not words or line[-1:].isspace():
            return words, ""
        return words[:-1], words[-1]


class _Zsh(ZshComplete):
    """Completion in zsh by an autoloaded file, whose text is the body of its function.

    click's script completes nothing at the second call of that function.
    """

    source_template = ZshComplete.source_template.replace(
        "$zsh_eval_context[-1] == loadautofunc", "$funcstack[1] == _%(prog_name)s"
    )


add_completion_class(_Bash)
add_completion_class(_Zsh)
