"""The manual pages and the completions of shells, as the wheel installs them."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.reference import RepositoryName, Tag
from tests.support.layout import APP, Layout, image

PROJECT = Path(__file__).parents[1]
SHARE = PROJECT / "scripts/share"
SCRIPT = "scripts/make_share.py"
BIN = Path(sys.executable).parent


def _run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=PROJECT,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment},
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return done.stdout


def _files(directory: Path) -> dict[str, str]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in found}


def test_pages_and_completions_are_those_of_the_commands(tmp_path: Path) -> None:
    """[S19.68] Each command has a manual page."""
    _run(sys.executable, SCRIPT, tmp_path / "share")
    assert _files(SHARE) == _files(tmp_path / "share"), f"run {SCRIPT}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix of a new environment that has the wheel, without what it depends on."""
    place = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "-q")
    build = ("--no-deps", "--no-index", "--no-build-isolation")
    _run(*pip, "wheel", *build, "-w", place, PROJECT)
    _run(sys.executable, "-m", "venv", "--without-pip", place / "venv")
    [wheel] = place.glob("*.whl")
    _run(*pip, "--python", place / "venv", "install", "--no-deps", "--no-index", wheel)
    return place / "venv"


@pytest.mark.shells
def test_wheel_installs_programs_pages_and_completions(installed: Path) -> None:
    """[S19.67] The wheel installs `mount.blobfs`, manual pages, and completion for shells."""
    assert _files(installed / "share") == _files(SHARE)
    for program in ("blobfs", "mount.blobfs"):
        assert os.access(installed / "bin" / program, os.X_OK)


@pytest.mark.shells
def test_pages_render_without_a_warning(installed: Path) -> None:
    """[S19.68] Each command has a manual page."""
    pages = sorted((installed / "share/man").rglob("*.[18]"))
    assert {"blobfs.1", "blobfs-mount.8", "mount.blobfs.8"} <= {page.name for page in pages}
    for page in pages:
        shown = _run("man", "--warnings=w", "-l", page, LC_ALL="C.UTF-8", MANWIDTH="80")
        assert "NAME" in shown
        assert page.stem.upper() in shown
    shown = _run("man", "-M", installed / "share/man", "blobfs", "mount", LC_ALL="C.UTF-8")
    assert "--allow-other" in shown


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("storage")
    layout = Layout(BaseDriver(FilesystemDriver.below(root)))
    revision = layout.revision(image(layout.layer(b"layer")))
    layout.tag(revision, Tag("stable"))
    layout.tag(revision, Tag("staging"))
    layout.layer(b"layer", RepositoryName("library/other"))
    return root


class Shell:
    """An interactive shell in a terminal."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._shown = ""

    def type(self, text: str) -> None:
        self._shown = ""
        os.write(self._terminal, text.encode())

    def shows(self, expected: str, within_s: float = 30.0) -> None:
        """Read until *expected* appears; fails after *within_s*."""
        deadline = time.monotonic() + within_s
        while expected not in self._shown:
            assert time.monotonic() < deadline, self._shown
            if select.select([self._terminal], [], [], 0.1)[0]:
                self._shown += os.read(self._terminal, 4096).decode(errors="replace")


@contextmanager
def _started(*command: str) -> Iterator[Shell]:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(PATH=f"{BIN}:{os.environ['PATH']}", TERM="dumb", PS1="$ ")
        os.execvp(command[0], command)
    try:
        yield Shell(terminal)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


SHELLS = {
    "bash": (
        ("bash", "--norc", "--noprofile", "-i"),
        ". {share}/bash-completion/completions/blobfs",
    ),
    "zsh": (
        ("zsh", "-f", "-i"),
        "fpath+=({share}/zsh/site-functions); autoload -U compinit; compinit -u -D",
    ),
}


@pytest.mark.shells
@pytest.mark.parametrize("name", SHELLS)
def test_interactive_shell_completes(name: str, installed: Path, storage: Path) -> None:
    """[S19.69] Commands, options, and repositories and tags of a local STORAGE are completed."""
    command, setup = SHELLS[name]
    with _started(*command) as shell:
        shell.type(f"{setup.format(share=installed / 'share')}; echo re''ady\r")
        shell.shows("ready")
        for typed, completed in [
            ("blobfs doc", "blobfs doctor"),
            ("blobfs mount --allow-o", "--allow-other"),
            ("blobfs mount --verify al", "always"),
            (f"blobfs ls {storage} lib", "library/other"),
            (f"blobfs show {storage} {APP}:stab", f"{APP}:stable"),
        ]:
            shell.type(f"\x15{typed}\t")
            shell.shows(completed)


@pytest.mark.shells
def test_fish_completes(installed: Path, storage: Path) -> None:
    """[S19.69] Commands, options, and repositories and tags of a local STORAGE are completed."""
    script = installed / "share/fish/vendor_completions.d/blobfs.fish"
    for typed, completed in [
        ("blobfs doc", ["doctor"]),
        (f"blobfs ls {storage} lib", ["library/other"]),
        (f"blobfs show {storage} {APP}", [f"{APP}:stable", f"{APP}:staging"]),
    ]:
        shown = _run("fish", "-N", "-c", f"source {script}; complete -C '{typed}'")
        assert [line.split("\t")[0] for line in shown.splitlines()] == completed
