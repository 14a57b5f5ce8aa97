"""Programs that write uploads, stopped where a test says, and what becomes of what they wrote."""

import hashlib
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.mounts import eventually

STATE: Final = "user.blobfs.state"
KILLED: Final = "failed: the program that wrote it was killed"

_BLOBS: Final = "docker/registry/v2/blobs/sha256"


def digest_of(content: bytes) -> str:
    """``sha256:<hex>``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def random_bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def state(upload: Path) -> str:
    """What became of an upload, as the mount says."""
    return os.getxattr(upload, STATE).decode()


def blob_in(storage: Path, digest: str) -> Path:
    """Where the storage has a blob."""
    encoded = digest.removeprefix("sha256:")
    return storage / _BLOBS / encoded[:2] / encoded / "data"


def blobs_in(storage: Path) -> dict[str, Path]:
    """Every blob of the storage, by the digest that it should have."""
    return {f"sha256:{data.parent.name}": data for data in storage.glob(f"{_BLOBS}/??/*/data")}


def digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


@contextmanager
def fed(
    command: Callable[[Path], Sequence[str | Path]],
    upload: Path,
    content: bytes,
    fifo: Path,
    *,
    size: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that reads *fifo*, has written *content* to *upload*, and waits for more.

    The upload has *size* bytes then, which are those of *content* if it was begun with them.
    """
    whole = len(content) if size is None else size
    os.mkfifo(fifo)
    # Some runners start us with SIGINT ignored, which a program would inherit.
    words = ["env", "--default-signal=INT", *command(fifo)]
    with subprocess.Popen(words, process_group=0) as process:
        try:
            with fifo.open("wb", buffering=0) as feed:
                feed.write(content)
                eventually(lambda: upload.exists() and upload.stat().st_size == whole)
                yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def bytes_read_by(pid: int) -> int:
    """What a process has read so far, from files and from pipes and devices."""
    fields = Path(f"/proc/{pid}/io").read_text().split()
    return int(fields[fields.index("rchar:") + 1])
