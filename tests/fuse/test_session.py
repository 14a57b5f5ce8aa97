"""The kernel may withdraw a request that it has announced: then the next one is waited for."""

import errno
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blobfs.fuse.session import BURST, RequestWaiter, serve_again
from tests.support.mounts import mounted
from tests.support.services import free_port

_KILLING = """
import os, random, signal, sys, time, urllib.request
mount, page, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])

parent = os.getpid()

def look_without_end():
    while os.getppid() == parent:
        try:
            os.stat(mount + "/missing")
        except OSError:
            pass

for _ in range(rounds):
    readers = []
    for _ in range(4):
        readers.append(os.fork())  # a child must not fork again
        if readers[-1] == 0:
            look_without_end()
            os._exit(0)
    time.sleep(random.uniform(0.005, 0.015))
    for reader in readers:
        os.kill(reader, signal.SIGKILL)
    for reader in readers:
        os.waitpid(reader, 0)
    urllib.request.urlopen(page, timeout=10).read()
"""


@contextmanager
def _device() -> Iterator[tuple[int, int, select.poll]]:
    """A pipe in place of the kernel: what is read, what is written, and a poll of the first."""
    reading, writing = os.pipe()
    device = select.poll()
    device.register(reading, select.POLLIN)
    try:
        yield reading, writing, device
    finally:
        os.close(reading)
        os.close(writing)


async def test_withdrawn_request_is_not_read() -> None:
    requests = 0
    with _device() as (reading, writing, device):

        async def wait() -> bool:
            nonlocal requests
            requests += 1
            os.write(writing, b"x")
            if requests == 1:
                os.read(reading, 1)
            return True

        assert await RequestWaiter(wait, device)()
    assert requests == 2


async def test_requests_that_are_there_are_read_at_once_but_for_each_eighth() -> None:
    waits = 0
    with _device() as (_, writing, device):
        os.write(writing, b"x")

        async def wait() -> bool:
            nonlocal waits
            waits += 1
            return True

        waiter = RequestWaiter(wait, device)
        for _ in range(3 * BURST):
            assert await waiter()
    assert waits == 3


async def test_end_of_the_session_is_passed_on() -> None:
    with _device() as (_, _, device):

        async def wait() -> bool:
            return False

        assert not await RequestWaiter(wait, device)()


async def test_read_that_finds_no_request_is_repeated() -> None:
    found = [BlockingIOError(errno.EAGAIN, "nothing to read"), None]

    async def serve(*arguments: object) -> None:
        assert arguments == (1, 2)
        if (failure := found.pop(0)) is not None:
            raise failure

    await serve_again(serve, 1, 2)
    assert not found


async def test_other_failure_of_a_read_ends_the_session() -> None:
    async def serve() -> None:
        raise OSError(errno.EIO, "the device fails")

    with pytest.raises(OSError, match="the device fails"):
        await serve_again(serve)


@pytest.mark.fuse
def test_killed_readers_stop_nothing(storage: Path, tmp_path: Path) -> None:
    """[S4.11] A program that is killed while it waits for the mount delays nothing else: neither
    other programs, nor pages over HTTP. A page over HTTP is asked for, as it makes no request of
    the kernel.
    """
    port = free_port()
    no_caches = ("--entry-timeout", "0", "--negative-timeout", "0", "--tag-timeout", "0")
    with mounted(storage, tmp_path, "--http", str(port), *no_caches) as mount:
        page = f"http://127.0.0.1:{port}/healthz"
        subprocess.run([sys.executable, "-c", _KILLING, mount.path, page, "100"], check=True)
