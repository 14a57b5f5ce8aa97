"""A daemon that fails after it was ready."""

import subprocess
import sys
import time
from pathlib import Path

_FAILING = """
import sys, time
from pathlib import Path
from blobfs.errors import MountRefused
from blobfs.host.daemon import daemonize

def work(ready):
    ready()
    files = [open(sys.argv[1] + str(number), "wb", buffering=0) for number in range(5)]
    Path(sys.argv[1] + "opened").touch()
    raise MountRefused("this is for nobody's file")

daemonize(work)
"""


def test_error_of_a_ready_daemon_is_written_into_no_file(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _FAILING, f"{tmp_path}/"], check=True, timeout=30)
    deadline = time.monotonic() + 10
    while not (tmp_path / "opened").exists():
        assert time.monotonic() < deadline
    files = [tmp_path / str(number) for number in range(5)]
    for _ in range(50):
        assert [file.read_bytes() for file in files] == [b""] * 5
        time.sleep(0.01)
