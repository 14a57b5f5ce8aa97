"""A small registry with one of everything that can be copied, and the programs that copy it."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Final

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.reference import RepositoryName, Tag
from tests.support.layout import Layout, image, index
from tests.support.repositories import shell

PROGRAMS: Final = {
    "cp -a": "cp -a {source}/. {target}/",
    "rsync": "rsync -aH {source}/ {target}/",
    "rsync, with extended attributes": "rsync -aHAX {source}/ {target}/",
    "rsync in place": "rsync -aH --inplace {source}/ {target}/",
    "rsync --partial": "rsync -aH --partial {source}/ {target}/",
    "rsync, largest first": "rsync -rl --max-size=100 {source}/ {target}/"
    " && rsync -aH {source}/ {target}/",
    "tar": "tar -C {source} -c . | tar -C {target} -x",
    "tar, with extended attributes": "tar -C {source} --xattrs -c ."
    " | tar -C {target} --xattrs --xattrs-include='*' -x",
    "tar, last first": "cd {source} && find . -depth | tac | sort -r"
    " | tar -c --no-recursion -T - | tar -C {target} -x",
    "restic": "export RESTIC_PASSWORD=x RESTIC_REPOSITORY={scratch}/restic; cd {source}"
    " && restic init -q && restic backup -q . && restic restore -q latest --target {target}",
}
"""A shell's command for each; *scratch* is an empty directory outside the mounts."""


def make_registry(root: Path) -> None:
    """Lay out two repositories, one below the other, which share blobs, manifests and tags."""
    (root / "docker/registry/v2").mkdir(parents=True)
    driver = BaseDriver(FilesystemDriver.below(root))
    layout = Layout(driver)
    for name in ("team", "team/app"):
        _add_repository(layout, RepositoryName(name))
    driver.close()


def _add_repository(layout: Layout, name: RepositoryName) -> None:
    shared = layout.layer(b"shared" * 50_000, name)
    layout.link(paths.layers(name), Digest.of(b"shared" * 50_000, "sha512"), str(shared).encode())
    images = []
    for number in range(4):
        config = layout.layer(json.dumps({"os": "linux", "author": f"{number}"}).encode(), name)
        own = layout.layer(f"{number} of {name}".encode() * 1000, name)
        images.append(layout.revision(image(config, shared, own), name))
    inner = [layout.revision(index(*images[at : at + 2]), name) for at in (0, 2)]
    outer = layout.revision(index(*inner), name)
    for tag, digest in (("latest", images[0]), ("latest", images[1]), ("all", outer)):
        layout.tag(digest, Tag(tag), name)


def copy(program: str, source: Path, target: Path, scratch: Path) -> None:
    """Run a program of ``PROGRAMS``, which has to succeed and to report no error."""
    command = PROGRAMS[program].format(source=source, target=target, scratch=scratch)
    done = shell("bash", "-o", "pipefail", "-c", command)
    assert (done.returncode, done.stderr) == (0, "")


def differences(source: Path, target: Path) -> str:
    """The differences of two trees: of names, kinds, bytes and the targets of symlinks."""
    done = shell("diff", "-rq", "--no-dereference", source, target)
    return done.stdout + done.stderr


def sent_files(*command: str | Path) -> int:
    """The number of files that rsync(1) sends."""
    done = shell("rsync", "--stats", *command)
    assert (done.returncode, done.stderr) == (0, "")
    [line] = [line for line in done.stdout.splitlines() if "regular files transferred" in line]
    return int(line.rpartition(" ")[2].replace(",", ""))


def start(*command: str | Path) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own."""
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole group of a program, and wait for it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
