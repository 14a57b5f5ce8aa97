"""A program that is killed publishes nothing, and what it wrote can be gone on with."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from tests.support.mounts import MountedRegistry, eventually, mounted, run
from tests.support.writers import (
    KILLED,
    blob_in,
    bytes_read_by,
    digest_of,
    fed,
    random_bytes,
    state,
)

pytestmark = pytest.mark.fuse

MIB = 2**20

Kill = tuple[str, signal.Signals]

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]

# Kept in memory until it is closed, and not.
SIZES = [random.Random(7).randrange(1, MIB), random.Random(8).randrange(MIB, 4 * MIB)]

Writing = Callable[[Path, Path], Sequence[str | Path]]

PROGRAMS: dict[str, Writing] = {
    "cp": lambda source, target: ("cp", source, target),
    "dd": lambda source, target: ("dd", f"if={source}", f"of={target}", "bs=64K", "status=none"),
    "cat": lambda source, target: ("sh", "-c", 'exec cat "$0" >"$1"', source, target),
    "two cats": lambda source, target: ("sh", "-c", '(cat "$0"; cat) >"$1"', source, target),
    "tee": lambda source, target: ("sh", "-c", 'tee "$1" <"$0" >/dev/null', source, target),
}

FINISHERS: dict[str, Writing] = {
    "dd": lambda source, target: (
        "dd", f"if={source}", f"of={target}", "oflag=append", "conv=notrunc", "bs=64K",
        "iflag=skip_bytes", f"skip={target.stat().st_size}", "status=none",
    ),
    "tail": lambda source, target: (
        "sh", "-c", 'tail -c +$((1 + $(stat -c %s "$1"))) "$0" >>"$1"', source, target,
    ),
    "rsync": lambda source, target: ("rsync", "--append", source, target),
}  # fmt: skip


# dd closes its output before it lets SIGINT end it.
KILLS: list[Kill] = [
    (program, number)
    for program in PROGRAMS
    for number in SIGNALS
    if (program, number) != ("dd", signal.SIGINT)
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    tmp_path = tmp_path_factory.mktemp("killed")
    with mounted(tmp_path / "storage", tmp_path, "--create") as mount:
        yield mount


numbers = count()


@pytest.fixture
def uploads(shared: MountedRegistry) -> Path:
    """The ``_uploads`` of a repository of the test's own."""
    repository = shared.path / f"team/app{next(numbers)}"
    repository.mkdir(parents=True)
    return repository / "_uploads"


def _layers(upload: Path) -> list[str]:
    return os.listdir(upload.parent.parent / "_layers/sha256")


def _interrupted(
    upload: Path,
    content: bytes,
    fifo: Path,
    program: str = "cp",
    number: signal.Signals = signal.SIGKILL,
) -> None:
    """Have *program* write *content* to *upload*, and killed while it waits for more."""
    with fed(lambda source: PROGRAMS[program](source, upload), upload, content, fifo) as process:
        os.killpg(process.pid, number)
        assert process.wait(10) != 0


def _finish(program: str, content: bytes, upload: Path, source: Path) -> None:
    source.write_bytes(content)
    subprocess.run(FINISHERS[program](source, upload), check=True, timeout=30)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: f"{kill[0]}-{kill[1].name}")
def test_killed_program_publishes_nothing(
    shared: MountedRegistry, uploads: Path, tmp_path: Path, kill: Kill, size: int
) -> None:
    """[S7.4] A program that is killed publishes nothing but what it had declared and completed: its
    upload stays, with state `failed: the program that wrote it was killed`.
    """
    content = random_bytes(size, seed=next(numbers))
    _interrupted(uploads / "x", content, tmp_path / "fifo", *kill)
    eventually(lambda: state(uploads / "x") == KILLED)
    assert _layers(uploads / "x") == []
    assert not blob_in(Path(shared.storage), digest_of(content)).exists()
    assert (uploads / "x").read_bytes() == content


def test_program_that_closes_before_it_is_killed_publishes_only_what_was_declared(
    uploads: Path, tmp_path: Path
) -> None:
    """[S7.4] A program that is killed publishes nothing but what it had declared and completed."""
    upload = uploads / digest_of(b"all of it")
    _interrupted(upload, b"all of", tmp_path / "fifo", "dd", signal.SIGINT)
    eventually(lambda: "hashes to" in state(upload))
    assert _layers(upload) == []
    _finish("dd", b"all of it", upload, tmp_path / "source")
    assert state(upload) == "committed"


@pytest.mark.parametrize("ended", [False, True])
def test_program_of_many_threads_is_killed_as_a_whole(uploads: Path, ended: bool) -> None:
    """[S7.4] A program that is killed publishes nothing but what it had declared and completed.
    Whichever thread opened the file, and whether it goes on.
    """
    program = """if True:
        import sys, threading, time
        def write():
            global file
            file = open(sys.argv[1], "wb", buffering=0)
            file.write(b"the beginning")
            if len(sys.argv) == 2:
                time.sleep(60)
        threading.Thread(target=write).start()
        time.sleep(60)"""
    upload = uploads / "x"
    with subprocess.Popen([sys.executable, "-c", program, upload, *["end"] * ended]) as process:
        eventually(lambda: upload.exists() and upload.stat().st_size > 0)
        if ended:
            eventually(lambda: len(os.listdir(f"/proc/{process.pid}/task")) == 1)
        process.kill()
    eventually(lambda: state(upload) == KILLED)
    assert _layers(upload) == []


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("program", FINISHERS)
def test_interrupted_upload_is_gone_on_with(
    uploads: Path, tmp_path: Path, program: str, size: int, declared: bool
) -> None:
    """[S7.5] An open upload is gone on with by `>>`, `dd oflag=append conv=notrunc`, `rsync
    --append` and the like.
    """
    content = random_bytes(4 * MIB, seed=next(numbers))
    digest = digest_of(content)
    upload = uploads / (digest if declared else "x")
    _interrupted(upload, content[:size], tmp_path / "fifo")
    _finish(program, content, upload, tmp_path / "source")
    assert state(upload) == "committed"
    assert (uploads.parent / "_layers/sha256" / digest[7:]).read_bytes() == content


def test_interrupted_upload_is_gone_on_with_although_it_is_killed_again(
    uploads: Path, tmp_path: Path
) -> None:
    """[S7.5] An open upload is gone on with by `>>`, `dd oflag=append conv=notrunc`, `rsync
    --append` and the like.
    """
    content = random_bytes(4 * MIB, seed=next(numbers))
    upload = uploads / digest_of(content)
    _interrupted(upload, content[:MIB], tmp_path / "fifo")

    for end in (2 * MIB, 3 * MIB):
        with fed(
            lambda source: ("sh", "-c", 'exec cat "$0" >>"$1"', source, upload),
            upload,
            content[end - MIB : end],
            tmp_path / f"fifo{end}",
            size=end,
        ) as process:
            process.kill()
        eventually(lambda: state(upload) == KILLED)
    _finish("dd", content, upload, tmp_path / "source")
    assert state(upload) == "committed"


def test_bytes_that_were_there_are_not_read_again(
    shared: MountedRegistry, uploads: Path, tmp_path: Path
) -> None:
    """[S7.5] What was closed or synced is not read again."""
    content = random_bytes(17 * MIB, seed=next(numbers))
    upload = uploads / digest_of(content)
    _interrupted(upload, content[: 16 * MIB], tmp_path / "fifo")
    before = bytes_read_by(shared.pid)
    _finish("dd", content, upload, tmp_path / "source")
    assert state(upload) == "committed"
    assert bytes_read_by(shared.pid) - before < 4 * MIB  # the new one, through /dev/fuse


def test_interrupted_upload_outlives_a_killed_daemon(storage: Path, tmp_path: Path) -> None:
    """[S7.5] In this mount or after a crash or a remount."""
    content = random_bytes(17 * MIB, seed=next(numbers))
    name = digest_of(content)
    place = tmp_path / "killed"
    place.mkdir()
    assert run("mount", storage, place).returncode == 0
    try:
        (place / "team").mkdir()
        upload = place / "team/_uploads" / name
        _interrupted(upload, content[: 16 * MIB], tmp_path / "fifo")
        eventually(lambda: state(upload) == KILLED)
        os.kill(MountedRegistry(storage, place, tmp_path / "log").pid, signal.SIGKILL)
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    with mounted(storage, tmp_path) as mount:
        upload = mount.path / "team/_uploads" / name
        assert upload.read_bytes() == content[: 16 * MIB]
        before = bytes_read_by(mount.pid)
        _finish("dd", content, upload, tmp_path / "source")
        assert state(upload) == "committed"
        assert bytes_read_by(mount.pid) - before < 4 * MIB


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("number", SIGNALS)
def test_what_was_declared_and_complete_is_published(
    uploads: Path, tmp_path: Path, number: signal.Signals, size: int
) -> None:
    """[S7.4] A program that is killed publishes nothing but what it had declared and completed."""
    content = random_bytes(size, seed=next(numbers))
    upload = uploads / digest_of(content)
    _interrupted(upload, content, tmp_path / "fifo", "cp", number)
    eventually(lambda: state(upload) == "committed")
    assert _layers(upload) == [digest_of(content)[7:]]


def test_interrupted_upload_is_begun_again_by_the_same_command(
    uploads: Path, tmp_path: Path
) -> None:
    """[S7.5] `>` and `O_TRUNC` start it again."""
    content = random_bytes(2 * MIB, seed=next(numbers))
    _interrupted(uploads / "x", content[:MIB], tmp_path / "fifo")
    (tmp_path / "source").write_bytes(content)
    subprocess.run(["cp", tmp_path / "source", uploads / "x"], check=True)
    assert _layers(uploads / "x") == [digest_of(content)[7:]]


def test_interrupted_upload_is_removed_with_all_it_had(
    shared: MountedRegistry, uploads: Path, tmp_path: Path
) -> None:
    """[S7.10] `rm` of an open upload removes all of it from the storage, also while it is
    written.
    """
    _interrupted(uploads / "x", random_bytes(2 * MIB, seed=next(numbers)), tmp_path / "fifo")
    (uploads / "x").unlink()
    repository = Path(shared.storage) / "docker/registry/v2/repositories/team" / uploads.parent.name
    assert list(repository.glob("_uploads/*")) == []
