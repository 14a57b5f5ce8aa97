"""What programs get: the table in SEMANTICS.md is read, and each of its rows is run."""

import errno
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

import blobfs
from blobfs.digest import Digest
from tests.support import programs
from tests.support.mounts import eventually
from tests.support.repositories import layers
from tests.support.services import DockerRegistry, cannot, inspect

pytestmark = pytest.mark.fuse

SEMANTICS = Path(blobfs.__file__).parent / "docs" / "SEMANTICS.md"

SIZES = {"small": 50, "large": 40_000}  # lines of 64 bytes: in memory until the commit, or not


PROGRAMS = {"curl", "rsync", "vim", "wget"}  # that a machine may do without


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table."""

    title: str
    command: str
    exit: str
    outcome: str


def _rows() -> list[Row]:
    table = SEMANTICS.read_text().partition("| what a program does |")[2].partition("\n\n")[0]
    cells = [
        [cell.strip().strip("`").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in table.splitlines()[2:]
    ]
    return [Row(*row) for row in cells]


class Case:
    """One run of a row: its sources, and the repository that it uploads to."""

    def __init__(self, repository: Path, scratch: Path, content: bytes) -> None:
        self.repository = repository
        self.uploads = repository / "_uploads"
        self.scratch = scratch
        half = len(content) // 2
        self.parts = {
            "F": content,
            "A": content[:half],
            "B": content[half:],
            "Z": bytes(len(content)),
            "nothing": b"",
        }
        for name, part in self.parts.items():
            (scratch / name).write_bytes(part)
        self._write_with_a_hole(scratch / "H")
        self.names = {
            "N": "some.tar.gz",
            "D": str(Digest.of(content)),
            "X": str(Digest.of(b"another")),
            "E": str(Digest.of(b"")),
        }

    def _write_with_a_hole(self, path: Path) -> None:
        with path.open("wb") as file:
            file.write(self.parts["A"])
            file.seek(len(self.parts["Z"]), os.SEEK_CUR)
            file.write(self.parts["B"])

    def run(self, command: str, url: str) -> subprocess.CompletedProcess[str]:
        words = {name: shlex.quote(str(self.scratch / name)) for name in "FABZHT"}
        words |= {name: shlex.quote(text) for name, text in self.names.items()}
        words |= {"U": shlex.quote(str(self.uploads)), "URL": shlex.quote(url)}
        words["python"] = shlex.join([sys.executable, programs.__file__])
        command = re.sub(r"(?<![\w$-])(URL|python|[A-Z])\b", lambda m: words[m[1]], command)
        environment = os.environ | {"LC_ALL": "C", "TMPDIR": str(self.scratch)}
        return subprocess.run(
            ["bash", "-c", command],
            capture_output=True, text=True, check=False, timeout=60, env=environment,
        )  # fmt: skip

    def content(self, text: str) -> bytes:
        """The bytes that ``A+Z+B`` and the like stand for; ``T`` is what the row made."""
        made = self.scratch / "T"
        parts = self.parts | ({"T": made.read_bytes()} if made.exists() else {})
        return b"".join(parts[name] for name in text.split("+"))

    def target(self, command: str) -> Path:
        """The upload that the command is about: the last that it names."""
        return self.uploads / self.names[re.findall(r"U/([NDXE])\b", command)[-1]]


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Where a real registry serves a layer."""
    registry: DockerRegistry = request.getfixturevalue("registry")
    layer = inspect(registry.address, "library/small", "v1").blobs[-1]
    return f"{registry.url}/v2/library/small/blobs/{layer}"


@cache
def _sorted_lines(count: int) -> bytes:
    lines = random.Random(count)
    return b"".join(sorted(b"%063x\n" % lines.getrandbits(248) for _ in range(count)))


def _text_of(row: str, count: int) -> bytes:
    """Text that is sorted already; its first and its last line are those of *row* alone."""
    number = zlib.crc32(row.encode())
    return b"%063x\n" % number + _sorted_lines(count) + b"%063x\n" % (2**252 - 1 - number)


def _state(file: Path) -> str:
    try:
        return os.getxattr(file, "user.blobfs.state").decode().partition(":")[0]
    except FileNotFoundError:
        return "gone"


def _cases() -> list[ParameterSet]:
    found = []
    for row in _rows():
        fetched = "URL" in row.command
        marks = [pytest.mark.registry] if fetched else []
        found += [
            pytest.param(row, size, marks=marks, id=f"{row.command}, {size}")
            for size in (["fetched"] if fetched else SIZES)
        ]
    return found


@pytest.mark.parametrize(("row", "size"), _cases())
def test_program_gets_what_the_table_says(
    row: Row, size: str, repository: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """[S7.1] A close that returns 0 to whoever has the last descriptor means: verified, durable,
    linked.
    [S7.2] Bytes that hash to it are committed at the close, or the fsync, after which they do.
    [S7.3] An empty file is never committed that way.
    [S7.5] An open upload is gone on with by `>>`, `dd oflag=append conv=notrunc`, `rsync --append`
    and the like.
    [S7.6] Writes may leave gaps, which are zeros, and go over what was written; then all of it is
    read again at the commit.
    """
    for program in PROGRAMS & set(row.command.split()):
        if shutil.which(program) is None:
            cannot(f"{program} is not installed")
    url = ""
    if "URL" in row.command:
        url = request.getfixturevalue("url")
        content = subprocess.run(["curl", "-sSf", url], check=True, capture_output=True).stdout
    else:
        content = _text_of(row.command, SIZES[size])
    case = Case(repository, tmp_path, content)

    done = case.run(row.command, url)

    if row.exit == "0":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0
    if row.exit in errno.errorcode.values():
        assert os.strerror(getattr(errno, row.exit)) in done.stderr
    ending, _, beside = row.outcome.partition(" beside ")
    state, _, text = ending.partition(" ")
    file = case.target(row.command)
    # What a process closes by ending, the kernel passes on only after its parent knows.
    eventually(lambda: _state(file) == state, within_s=5)
    blobs = [case.content(beside)] if beside else []
    if state != "gone":
        assert file.read_bytes() == case.content(text)
        assert file.stat().st_size == len(case.content(text))
    if state == "committed":
        blobs.append(case.content(text))
    assert layers(repository) == {Digest.of(blob).encoded: blob for blob in blobs}
