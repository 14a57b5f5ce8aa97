"""``blobfs uploads``: what has not ended, and what is left of lost uploads, listed and removed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName
from blobfs.storage.registry import open_registry
from tests.support.command import invoke
from tests.support.s3_servers import S3Server

APP = RepositoryName("team/app")
PART = bytes(5 * 2**20)


def uploads(storage: str, *options: str) -> Result:
    return invoke("uploads", storage, *options)


def listed(storage: str, *options: str) -> list[dict[str, object]]:
    result = uploads(storage, "--json", *options)
    assert result.exit_code == 0, result.output
    found: list[dict[str, object]] = json.loads(result.stdout)
    return found


def begin(storage: str, name: str, content: bytes, digest: Digest | None = None) -> None:
    with (
        open_registry(storage) as registry,
        registry.repository(APP).uploads.create(name=name, digest=digest) as writer,
    ):
        writer.write(content)


@pytest.fixture
def local(tmp_path: Path) -> str:
    begin(str(tmp_path), "layer.tar", b"half")
    return str(tmp_path)


@pytest.fixture
def bucket(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    with ceph.bucket() as name:
        yield name


def test_upload_is_listed_with_its_size(local: str) -> None:
    [found] = listed(local)
    assert (found["repository"], found["name"], found["bytes"]) == (APP, "layer.tar", 4)


def test_young_upload_is_not_removed_by_default(local: str) -> None:
    assert listed(local, "--abort") == []
    assert len(listed(local)) == 1


def test_removal_says_what_was_removed(local: str) -> None:
    young = uploads(local, "--abort")
    assert "nothing was removed, as no upload is that old; --older-than" in young.stderr
    assert uploads(local, "--abort", "--older-than", "0s").stderr == "1 removed\n"


def test_upload_is_removed_when_asked_for(local: str) -> None:
    assert len(listed(local, "--abort", "--older-than", "0s")) == 1
    assert listed(local) == []
    assert not list(Path(local).glob(f"{paths.uploads(APP)[1:]}/*"))


STARTS = {
    "old": "2001-02-03T04:05:06Z",
    "soon": "2199-01-01T00:00:00Z",
    "never": "9999-12-31T23:59:59Z",
    "year-10000": "9999-12-31T23:59:59-01:00",
    "leap": "2016-12-31T23:59:60Z",
    "none": "",
}


def test_upload_is_listed_whenever_it_began(tmp_path: Path) -> None:
    """[S7.19] An upload is listed, also by `blobfs uploads`, whenever its `startedat` says that it
    began. The oldest first.
    """
    for name, start in STARTS.items():
        upload = Path(f"{tmp_path}{paths.upload(APP, name)}")
        upload.mkdir(parents=True)
        if start:
            (upload / "startedat").write_text(start)
        else:
            (upload / "startedat").mkdir()
    names = [found["name"] for found in listed(str(tmp_path))]
    assert names[:2] == ["none", "old"]
    assert names[-2:] == ["soon", "never"]
    assert set(names) == set(STARTS)
    assert [found["began"] for found in listed(str(tmp_path))][-1] == STARTS["never"]
    removed = [found["name"] for found in listed(str(tmp_path), "--abort")]
    assert removed == ["old"]


@pytest.mark.parametrize("text", ["7", "d", "-1d", "7w", ""])
def test_duration_that_is_none_is_refused(local: str, text: str) -> None:
    result = uploads(local, "--older-than", text)
    assert result.exit_code == 2
    assert "such as 90s" in result.output


@pytest.mark.s3
@pytest.mark.parametrize("digest", [None, Digest.of(b"other")], ids=["undeclared", "declared"])
def test_upload_in_s3_is_listed_once_and_removed_wholly(
    ceph: S3Server, bucket: str, digest: Digest | None
) -> None:
    storage = ceph.storage_url(bucket)
    begin(f"{storage}&chunksize={len(PART)}", "big", PART + b"tail", digest)
    [found] = listed(storage)
    assert (found["repository"], found["bytes"]) == (APP, len(PART) + 4)
    assert len(listed(storage, "--abort", "--older-than", "0s")) == 1
    client = ceph.client()
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


@pytest.mark.s3
def test_parts_that_nothing_tells_of_are_listed_and_removed(ceph: S3Server, bucket: str) -> None:
    client, storage = ceph.client(), ceph.storage_url(bucket)
    key = paths.blob_data(Digest.of(b"lost"))[1:]
    client.put_object(Bucket=bucket, Key=f"{paths.uploads(APP)[1:]}/x/startedat", Body=b"")
    client.create_multipart_upload(Bucket=bucket, Key=key)
    assert [found["name"] for found in listed(storage) if not found["repository"]] == [f"/{key}"]
    listed(storage, "--abort", "--older-than", "0s")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_temporary_file_of_a_crash_is_listed_and_removed(local: str) -> None:
    """[S10.2] `blobfs uploads` lists them, without a repository, and `--abort` removes them."""
    directory = Path(local, f"docker/registry/v2/blobs/sha256/00/{'0' * 64}")
    directory.mkdir(parents=True)
    left = directory / "data.01234567-89ab-cdef-0123-456789abcdef.tmp"
    left.write_bytes(b"half")
    [found] = [row for row in listed(local) if row["repository"] == ""]
    assert str(found["name"]).endswith(left.name)
    assert listed(local, "--abort") == []
    assert left.exists()
    assert found in listed(local, "--abort", "--older-than", "0s")
    assert not left.exists()


def run(*arguments: object) -> Result:
    return invoke("uploads", *arguments)


def test_list_is_the_default_command(local: str) -> None:
    assert run("list", local).stdout == run(local).stdout


def test_upload_is_shown_by_its_name_and_by_its_id(local: str) -> None:
    found = json.loads(run("show", local, APP, "layer.tar", "--json").stdout)
    assert (found["name"], found["bytes"]) == ("layer.tar", 4)
    assert json.loads(run("show", local, APP, found["id"], "--json").stdout) == found


def test_upload_is_committed_with_its_digest_only(local: str) -> None:
    """[S19.46] `uploads commit` needs a digest."""
    refused = run("commit", local, APP, "layer.tar")
    assert (refused.exit_code, "give --digest" in refused.stderr) == (1, True)
    wrong = run("commit", local, APP, "layer.tar", "--digest", Digest.of(b"other"))
    assert wrong.exit_code == 1
    done = run("commit", local, APP, "layer.tar", "--digest", Digest.of(b"half"))
    assert done.exit_code == 0, done.output
    assert listed(local) == []
    with open_registry(local) as registry:
        assert registry.repository(APP).layers.get(Digest.of(b"half")) == b"half"


def test_declared_upload_is_committed(tmp_path: Path) -> None:
    begin(str(tmp_path), "x", b"whole", Digest.of(b"whole"))
    assert run("commit", tmp_path, APP, "x").exit_code == 0


def test_cancelled_upload_is_gone(local: str) -> None:
    assert run("cancel", local, APP, "layer.tar").exit_code == 0
    assert listed(local) == []


def test_name_of_two_uploads_is_refused(local: str) -> None:
    begin(local, "layer.tar", b"again")
    result = run("cancel", local, APP, "layer.tar")
    assert (result.exit_code, "give one of" in result.stderr) == (1, True)
    assert len(listed(local)) == 2


@pytest.mark.parametrize("command", ["show", "commit", "cancel"])
def test_mistyped_command_is_no_storage(local: str, command: str) -> None:
    result = run(command[1:], local, APP, "layer.tar")
    assert result.exit_code == 2
    assert f"Did you mean '{command}'?" in result.stderr


@pytest.mark.parametrize("command", ["show", "commit", "cancel"])
def test_unknown_upload_is_refused(local: str, command: str) -> None:
    assert "unknown upload" in run(command, local, APP, "none").stderr


def test_old_uploads_are_purged_and_young_ones_stay(local: str) -> None:
    assert json.loads(run("purge", local, "--json").stdout) == []
    assert len(json.loads(run("purge", local, "--json", "--older-than", "0s").stdout)) == 1
    assert listed(local) == []
