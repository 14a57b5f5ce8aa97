"""A mount whose S3 fails, stumbles, lies and comes back."""

import errno
import os
import random
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName
from tests.fuse.s3.conftest import QUICK
from tests.support.buckets import CHUNK, Bucket
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted
from tests.support.repositories import layer, layers, put_layer, shell, upload
from tests.support.s3_faults import (
    EXPIRED_TOKEN,
    SLOW_DOWN,
    Damage,
    Delay,
    Fault,
    Kind,
    Lose,
    Request,
    always,
    at_random,
    no_faults,
    nth,
)
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server
from tests.support.writers import state

pytestmark = [pytest.mark.fuse, pytest.mark.s3]

SHORT_SIGHTED = ("--read-memory", "8", "--read-part", "1", "--readahead-kb", "512")
SIZE = CHUNK + 3000


@pytest.fixture(scope="module")
def running(ceph: S3Server) -> Iterator[S3Proxy]:
    with S3Proxy.before(ceph.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(running: S3Proxy, bucket: Bucket) -> Iterator[S3Proxy]:
    """What ``shared`` reaches the bucket through; it makes no faults after the test."""
    yield running
    running.faults = no_faults
    bucket.empty()
    bucket.abort_multipart_uploads()


@pytest.fixture(scope="module")
def shared(
    bucket: Bucket, running: S3Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MountedRegistry]:
    place = tmp_path_factory.mktemp("shared")
    options = (*QUICK, *SHORT_SIGHTED, "--entry-timeout", "0", "--attr-timeout", "0")
    with mounted(bucket.url_at(running.url), place, *options) as mount:
        yield mount


def _stored(bucket: Bucket, repository: Path, content: bytes) -> Path:
    """A layer that the mount has not seen yet."""
    digest = Digest.of(content)
    bucket.put(paths.blob_data(digest), content)
    link = paths.link(paths.layers(RepositoryName(repository.name)), digest)
    bucket.put(link, str(digest).encode())
    eventually(layer(repository, digest).exists)
    return layer(repository, digest)


def _bytes(seed: object, size: int = SIZE) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def _read(file: Path) -> bytes | None:
    """All that a program reads, if it comes to the end without an error."""
    done = subprocess.run(["cat", file], capture_output=True, check=False, timeout=100)
    return done.stdout if done.returncode == 0 else None


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(SLOW_DOWN, id="503"),
        pytest.param(Damage.CUT_ANSWER, id="cut answer"),
        # The driver's tests make these short.
        pytest.param(Lose(), id="lost", marks=pytest.mark.long),
        pytest.param(Damage.CUT_REQUEST, id="cut request", marks=pytest.mark.long),
    ],
)
def test_what_stumbles_is_asked_again(
    bucket: Bucket, proxy: S3Proxy, repository: Path, tmp_path: Path, fault: Fault
) -> None:
    """[S13.11] A request that fails for a moment, or whose answer breaks off, is made again, up to
    five times. One request in ten.
    """
    contents = [_bytes(f"{fault} {number}") for number in range(6)]
    files = [_stored(bucket, repository, content) for content in contents[:3]]
    proxy.faults = at_random(fault, rate=0.1, seed=4)

    def put(number: int, content: bytes) -> subprocess.CompletedProcess[str]:
        source = tmp_path / f"{number}"
        source.write_bytes(content)
        digest = Digest.of(content)
        return shell("cp", source, upload(repository, digest if number % 2 else f"{number}.tar"))

    with ThreadPoolExecutor() as pool:
        written = list(pool.map(put, range(3), contents[3:]))
        assert [_read(file) for file in files] == contents[:3]
    assert [(done.returncode, done.stderr) for done in written] == [(0, "")] * 3
    proxy.faults = no_faults
    assert layers(repository) == {Digest.of(content).encoded: content for content in contents}
    # An upload whose beginning was not heard of was begun once more.
    assert set(bucket.leftovers()) <= set(bucket.multipart_uploads())


def test_flipped_bits_never_end_a_read_cleanly(
    bucket: Bucket, proxy: S3Proxy, repository: Path
) -> None:
    """[S2.5] With `--verify first` the last read of a blob that is read from its start to its end
    is EIO if the bytes do not hash to its name.
    [S13.11] A request that fails for a moment, or whose answer breaks off, is made again.
    """
    contents = [_bytes(f"flipped {number}") for number in range(12)]
    files = [_stored(bucket, repository, content) for content in contents]
    proxy.faults = at_random(Damage.FLIP_BIT, rate=0.08, seed=2, only={Kind.GET})
    found = [_read(file) for file in files]
    # Of a good one the kernel may have dropped pages, which are not verified when they come anew.
    bad = [number for number, got in enumerate(found) if got is None]
    again = [_read(files[number]) for number in bad]
    proxy.faults = no_faults
    assert None in found
    assert found.count(None) < len(found)
    assert all(got in (None, content) for got, content in zip(found, contents, strict=True))
    assert all(got in (None, contents[number]) for got, number in zip(again, bad, strict=True))


def test_server_that_stops_for_a_while(
    bucket: Bucket, proxy: S3Proxy, repository: Path, tmp_path: Path
) -> None:
    """[S13.11] The mount goes on, and works again when the bucket does. Reads and uploads that were
    under way end well, or can be gone on with.
    """
    content, other = _bytes("before", 3 * CHUNK), _bytes("after", 3 * CHUNK)
    file, written = _stored(bucket, repository, content), upload(repository, Digest.of(other))
    (tmp_path / "other").write_bytes(other)
    with file.open("rb", buffering=0) as opened, ThreadPoolExecutor() as pool:
        assert opened.read(2**20) == content[: 2**20]
        with proxy.down():
            copied = pool.submit(shell, "cp", tmp_path / "other", written)
            read = pool.submit(_read, file)
            time.sleep(1)
        assert read.result() in (None, content)
        if copied.result().returncode != 0:
            assert shell("cp", tmp_path / "other", written).returncode == 0
        opened.seek(0)
        assert opened.read() == content
    assert state(written) == "committed"
    assert bucket.get(paths.blob_data(Digest.of(other))) == other
    assert bucket.leftovers() == []


def test_refused_credentials_are_an_error_until_they_are_good(
    bucket: Bucket, proxy: S3Proxy, repository: Path
) -> None:
    """[S13.11] Then it is EIO, or EACCES where the keys are refused, for who needed it."""
    content, other = _bytes("refused", 4 * CHUNK), _bytes("refused too")
    file = _stored(bucket, repository, content)
    with file.open("rb", buffering=0) as opened:
        got = opened.read(2**20)
        proxy.faults = always(EXPIRED_TOKEN)
        with failing_with(errno.EACCES):
            while chunk := opened.read(2**17):
                got += chunk
        assert content.startswith(got)
        with failing_with(errno.EACCES):
            upload(repository, Digest.of(other)).write_bytes(other)
        proxy.faults = no_faults
        opened.seek(len(got))
        assert got + opened.read() == content
    assert file.read_bytes() == content
    upload(repository, Digest.of(other)).write_bytes(other)
    assert bucket.get(paths.blob_data(Digest.of(other))) == other
    assert bucket.leftovers() == []


CLEANING = {Kind.DELETE_MANY, Kind.LIST_UPLOADS}
WRITING = [
    Kind.CREATE_UPLOAD,
    Kind.PUT_PART,
    Kind.COMPLETE_UPLOAD,
    Kind.COPY,
    Kind.PUT,
    Kind.GET,
    Kind.HEAD,
    Kind.LIST,
    Kind.LIST_PARTS,
    Kind.DELETE,
    *sorted(CLEANING),
]


@pytest.mark.parametrize("kind", WRITING)
def test_close_that_returned_0_has_committed_and_another_is_done_again(
    bucket: Bucket, proxy: S3Proxy, repository: Path, tmp_path: Path, kind: Kind
) -> None:
    """[S7.1] A close that returns 0 to whoever has the last descriptor means: verified, durable,
    linked.
    [S13.11] What had no answer may have been done. Whatever kind of request fails.
    """
    contents = [_bytes((kind, number)) for number in range(2)]
    digests = [Digest.of(content) for content in contents]
    everything = {d.encoded: content for d, content in zip(digests, contents, strict=True)}
    for digest, content, name in zip(digests, contents, (str(digests[0]), "tar"), strict=True):
        (tmp_path / "source").write_bytes(content)
        proxy.faults = always(EXPIRED_TOKEN, only={kind})
        done = shell("cp", tmp_path / "source", upload(repository, name))
        proxy.faults = no_faults
        assert bucket.blobs().items() <= everything.items()
        link = paths.link(paths.layers(RepositoryName(repository.name)), digest)
        assert bool(bucket.keys(link)) == (done.returncode == 0)
        done = shell("cp", tmp_path / "source", upload(repository, name))
        assert (done.returncode, done.stderr) == (0, "")
    assert layers(repository) == everything
    assert bucket.leftovers() == [] or kind in CLEANING


def test_slow_request_holds_up_nothing_else(
    bucket: Bucket, proxy: S3Proxy, repository: Path
) -> None:
    """[S4.3] One that does not answer holds up nothing that does not need it."""
    slow, quick = _bytes("slow"), _bytes("quick")
    file = _stored(bucket, repository, slow)
    key = paths.blob_data(Digest.of(slow))

    def delay_it(request: Request) -> Fault | None:
        return Delay(30) if request.path.endswith(key) and request.kind is Kind.GET else None

    proxy.faults = delay_it
    with subprocess.Popen(["cat", file], stdout=subprocess.PIPE) as waiting:
        eventually(lambda: any(request.fault for request in proxy.requests))
        began = time.monotonic()
        put_layer(repository, quick)
        assert len(layers_but(repository, file.name)) == 1
        assert os.listdir(repository / "_uploads") == []
        assert time.monotonic() < began + 5
        assert waiting.poll() is None
        proxy.faults = no_faults
        with proxy.down():
            pass
        assert waiting.communicate(timeout=30)[0] == slow


def test_commit_is_stopped_while_the_server_copies(
    bucket: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    """[S7.15] A commit that takes longer than `--upload-deadline` (5 min) answers EIO, and stops if
    it hashes or copies: nothing is published, the state tells the reason. `rm` of the upload and
    the end of the mount (SIGTERM, SIGINT) stop it likewise. Then it can be committed.
    """
    content = _bytes("copied")
    (tmp_path / "source").write_bytes(content)
    url = f"{bucket.url_at(proxy.url)}&multipartcopythresholdsize=0&multipartcopychunksize={CHUNK}"
    with mounted(url, tmp_path, *QUICK, "--upload-deadline", "2") as mount:
        repository = mount.path / "copied"
        repository.mkdir()
        file = upload(repository, "layer.tar")
        with _copying(proxy, tmp_path / "source", file) as program:
            began = time.monotonic()
            file.unlink()
            assert program.wait(10) != 0
            assert time.monotonic() - began < 1
        assert bucket.keys("/docker/registry/v2/repositories/copied") == []
        assert bucket.multipart_uploads() == []
        with _copying(proxy, tmp_path / "source", file) as program:
            assert program.wait(10) != 0
        assert "took longer" in state(file)
        assert bucket.multipart_uploads() == []
        file.rename(layer(repository, Digest.of(content)))
        assert layers(repository) == {Digest.of(content).encoded: content}
    assert bucket.multipart_uploads() == []


@contextmanager
def _copying(proxy: S3Proxy, source: Path, file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that waits for the server's copies of the parts of *file*."""
    proxy.forget()
    proxy.faults = always(Delay(60), only={Kind.COPY_PART})
    with subprocess.Popen(["cp", source, file], stderr=subprocess.DEVNULL) as program:
        eventually(lambda: any(request.fault for request in proxy.requests))
        yield program
    proxy.faults = no_faults
    with proxy.down():
        pass  # the copies end


def layers_but(repository: Path, name: str) -> list[bytes]:
    files = (repository / "_layers/sha256").iterdir()
    return [file.read_bytes() for file in files if file.name != name]


@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "undeclared"])
def test_completion_whose_answer_is_lost_is_a_completion(
    proxy: S3Proxy, bucket: Bucket, repository: Path, is_declared: bool
) -> None:
    """[S7.1] A close that returns 0 to whoever has the last descriptor means: verified, durable,
    linked.
    [S13.11] What had no answer may have been done.
    """
    content = _bytes(("lost", is_declared))
    proxy.faults = nth(1, Lose(), only={Kind.COMPLETE_UPLOAD})
    file = upload(repository, Digest.of(content) if is_declared else "layer.tar")
    file.write_bytes(content)
    assert layers(repository) == {Digest.of(content).encoded: content}
    assert bucket.leftovers() == []
