"""Uploads to a bucket: what programs get, what is in the bucket meanwhile, and what is left."""

import errno
import os
import random
import subprocess
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from tests.fuse.mounts import MountedRegistry, failing_with
from tests.fuse.repositories import layer, layers, shell, upload
from tests.fuse.s3.buckets import CHUNK, Bucket
from tests.fuse.writers import state

pytestmark = [pytest.mark.fuse, pytest.mark.s3]

SIZES = [0, 3000, 2_500_000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK]
LARGE = random.Random(1).randbytes(2 * CHUNK + 17)
OTHER = Digest.of(b"something else")


def _source(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "source"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("size", SIZES)
def test_cp_of_declared_content(repository: Path, bucket: Bucket, tmp_path: Path, size: int) -> None:
    """[S7.1] [S7.2]"""
    content = random.Random(size).randbytes(size)
    digest = Digest.of(content)
    assert shell("cp", _source(tmp_path, content), upload(repository, digest)).returncode == 0
    assert bucket.get(paths.blob_data(digest)) == content
    assert layers(repository) == {digest.encoded: content}
    assert bucket.leftovers() == []


@pytest.mark.parametrize("size", SIZES[1:])
def test_cp_of_undeclared_content(repository: Path, bucket: Bucket, tmp_path: Path, size: int) -> None:
    """[S7.3]"""
    content = random.Random(-size).randbytes(size)
    digest = Digest.of(content)
    assert shell("cp", _source(tmp_path, content), upload(repository, "layer.tar")).returncode == 0
    assert bucket.get(paths.blob_data(digest)) == content
    assert layers(repository) == {digest.encoded: content}
    assert bucket.leftovers() == []


@pytest.mark.parametrize("size", [3000, 2_500_000, CHUNK, 2 * CHUNK + 1])
def test_wrong_content(repository: Path, bucket: Bucket, tmp_path: Path, size: int) -> None:
    """[S7.2]"""
    content = random.Random(size + 7).randbytes(size)
    digest = Digest.of(content)
    wrong = content[:-1] + bytes([content[-1] ^ 1])
    file = upload(repository, digest)
    done = shell("cp", _source(tmp_path, wrong), file)
    assert (done.returncode, done.stderr) == (1, f"cp: failed to close '{file}': Bad message\n")
    assert state(file).startswith("failed: ")
    assert not bucket.has_blob(digest)
    assert layers(repository) == {}
    done = shell("cp", _source(tmp_path, content), file)
    assert done.returncode == 0, done.stderr
    assert layers(repository) == {digest.encoded: content}
    assert bucket.leftovers() == []


@pytest.mark.parametrize("command", ["cat {0} > {1}", "dd if={0} of={1} bs=100K status=none", "rsync -a {0} {1}", "rsync --inplace {0} {1}",
     "(head -c 6000000 {0}; tail -c +6000001 {0}) > {1}", "tee {1} < {0} > /dev/null", "cp -p {0} {1}", "install -m 644 {0} {1}", "cp --sparse=always {0} {1}",
     "dd if={0} of={1} bs=1M conv=fsync status=none", "head -c 6000000 {0} > {1}; tail -c +6000001 {0} >> {1}",
     "head -c 6000000 {0} > {1}; rsync --append {0} {1}", 
     "head -c 5242880 {0} > {1}; rsync --append {0} {1}", 
     "head -c 600000 {0} > {1}; rsync --append {0} {1}", 
     "head -c 1200000 {0} > {1}; rsync --append {0} {1}"])
@pytest.mark.parametrize("is_declared", [True, False])
def test_programs(repository: Path, bucket: Bucket, tmp_path: Path, command: str, is_declared: bool) -> None:
    """[S7.1] [S7.3] [S7.5]"""
    content = random.Random(command).randbytes(2 * CHUNK + 17)
    digest = Digest.of(content)
    if not is_declared and (">>" in command or "--append" in command):
        pytest.skip()
    file = upload(repository, digest if is_declared else "layer.tar")
    done = shell("bash", "-c", command.format(_source(tmp_path, content), file))
    assert done.returncode == 0, done.stderr
    assert state(file) == "committed"
    assert layers(repository) == {digest.encoded: content}
    assert bucket.leftovers() == []


def test_declared_blob_is_not_there_before_it_is_right(repository: Path, bucket: Bucket) -> None:
    """[S7.2]"""
    content = random.Random(70).randbytes(2 * CHUNK + 17)
    digest = Digest.of(content)
    file = upload(repository, digest)
    with file.open("wb", buffering=0) as opened:
        for start in range(0, len(content), 2**20):
            assert not bucket.has_blob(digest)
            opened.write(content[start : start + 2**20])
            if start % (3 * 2**20) == 0:
                os.fsync(opened.fileno())
        os.fsync(opened.fileno())
        assert bucket.has_blob(digest)


@pytest.mark.parametrize("size", [3000, 2_500_000, CHUNK, 2 * CHUNK + 1])
@pytest.mark.parametrize("is_written", [False, True], ids=["closed", "while it is written"])
@pytest.mark.parametrize("is_declared", [True, False])
def test_rm_leaves_nothing(repository: Path, bucket: Bucket, size: int, is_written: bool, is_declared: bool) -> None:
    """[S7.10]"""
    content = random.Random(size + 8).randbytes(size)
    file = upload(repository, Digest.of(b"another") if is_declared else "layer.tar")
    file.touch()
    if not is_declared:
        os.setxattr(file, "user.blobfs.size", str(size + 1).encode())
    if is_written:
        with file.open("wb", buffering=0) as opened:
            opened.write(content)
            os.fsync(opened.fileno())
            assert bucket.leftovers()
            file.unlink()
            assert bucket.leftovers() == []
    else:
        with failing_with(errno.EBADMSG):
            file.write_bytes(content)
        assert bucket.leftovers()
        file.unlink()
    assert bucket.leftovers() == []
    assert os.listdir(repository / "_uploads") == []
    assert layers(repository) == {}


def test_rewriting(repository: Path, bucket: Bucket) -> None:
    file = upload(repository, "layer.tar")
    content = random.Random(71).randbytes(2 * CHUNK + 17)
    with failing_with(errno.EINVAL), file.open("wb", buffering=0) as opened:
        opened.write(content)
        with failing_with(errno.EINVAL):
            os.pwrite(opened.fileno(), b"x", 5)
    assert layers(repository) == {}
    file.write_bytes(content)
    assert layers(repository) == {Digest.of(content).encoded: content}
    assert bucket.leftovers() == []


def test_reading_unfinished(repository: Path, bucket: Bucket) -> None:
    file = upload(repository, OTHER)
    with failing_with(errno.EBADMSG):
        file.write_bytes(LARGE)
    assert file.stat().st_size == len(LARGE)
    with failing_with(errno.EOPNOTSUPP):
        file.read_bytes()
    file.unlink()
    assert bucket.leftovers() == []
