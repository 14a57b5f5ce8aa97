"""The documents agree with the code, and their links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import blobfs
from blobfs.cli.mounting import mount
from blobfs.config.key_table import ignored_keys, taken_keys

PACKAGE = Path(blobfs.__file__).parent
DOCUMENTS = [PACKAGE.parent / "README.md", *PACKAGE.rglob("*.md")]
OPTIONS = PACKAGE / "docs" / "OPTIONS.md"
CONFIG = PACKAGE / "docs" / "CONFIG.md"
ARCHITECTURE = PACKAGE / "docs" / "ARCHITECTURE.md"


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _prose(document: Path) -> str:
    """The text of a document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)


def _anchors(document: Path) -> set[str]:
    return {_slug(heading) for heading in re.findall(r"^#+ (.*)$", _prose(document), re.MULTILINE)}


def _broken_links(document: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(document)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            yield link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_of_a_document_resolve(document: Path) -> None:
    assert list(_broken_links(document)) == []


def test_table_of_options_has_every_option_of_mount_and_no_other() -> None:
    options = {
        name
        for parameter in mount.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts + parameter.secondary_opts
    }
    _, table, _ = re.split("<!-- /?options -->", OPTIONS.read_text())
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"--[\w-]+", row)}
    assert documented == {name for name in options if name.startswith("--")} - {"--help"}


def _section(heading: str) -> str:
    text = ARCHITECTURE.read_text().split(f"\n{heading}\n", 1)[1]
    return re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0]


def _modules_with(pattern: str) -> set[str]:
    return {
        str(module.relative_to(PACKAGE))
        for module in PACKAGE.rglob("*.py")
        if re.search(pattern, module.read_text())
    }


def test_architecture_names_only_modules_that_exist() -> None:
    modules = re.findall(r"`(\w+/[\w/]+\.py)`", ARCHITECTURE.read_text())
    assert modules
    assert [m for m in modules if not (PACKAGE / m).exists()] == []


@pytest.mark.parametrize(
    ("heading", "pattern"),
    [
        (
            "### Locks",
            r"\b((reentrant_)?guard|CallLock|Condition|Semaphore|BoundedSemaphore|CapacityLimiter)\(|fcntl\.(flock|fcntl)\(",
        ),
        ("### Threads", r"\b(Thread|start_thread|ThreadCall|ThreadPool)\(|to_thread\.run_sync\("),
    ],
)
def test_architecture_has_every_module_with(heading: str, pattern: str) -> None:
    section = _section(heading)
    assert {m for m in _modules_with(pattern) if f"`{m}`" not in section} == set()


def test_architecture_names_only_locks_that_exist() -> None:
    row = re.compile(r"^\| (?:`([\w/]+\.py)` )?\| (.*?) \|", re.MULTILINE)
    rows = row.findall(_section("### Locks"))
    assert rows
    module = ""
    for path, locks in rows:
        module = path or module
        for owner, lock in re.findall(r"`(_?[A-Z]\w+)\.(\w+)`", locks):
            code = (PACKAGE / module).read_text()
            assert f"class {owner}" in code, module
            assert f"self.{lock} = " in code, module


@pytest.mark.parametrize(("name", "table"), [("taken", taken_keys()), ("ignored", ignored_keys())])
def test_table_of_configuration_keys_is_that_of_the_code(name: str, table: str) -> None:
    _, documented, _ = re.split(f"<!-- /?{name} -->\n", CONFIG.read_text())
    assert documented == f"{table}\n", "run scripts/config_tables.py"
