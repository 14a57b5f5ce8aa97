"""What a storage URL may say of a bucket, and what is refused."""

import pickle
from dataclasses import replace
from hashlib import sha256
from typing import NoReturn

import pytest
from botocore.awsrequest import AWSPreparedRequest

from blobfs.drivers.location import Location
from blobfs.drivers.s3.client import client_for, session_for
from blobfs.drivers.s3.options import MIN_PART, Credentials, S3Options
from blobfs.errors import MountRefused

MIB = 2**20


def test_pickled_options_have_no_credentials() -> None:
    keys = Credentials("the-access-key", "the-secret-key", "the-token")
    given = {"region": "eu", "regionendpoint": "http://host", "encrypt": "true", "streams": "4"}
    options = S3Options.of("bucket", "prefix", given, keys)
    pickled = pickle.dumps(Location(bucket=options))
    assert b"the-" not in pickled
    assert pickle.loads(pickled) == Location(bucket=replace(options, credentials=None))


def _parsed(query: str) -> S3Options:
    return S3Options.parse(f"s3://bucket/prefix?{query}")


@pytest.mark.parametrize(
    ("storage", "bucket", "root"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://my.bucket-1/prefix", "my.bucket-1", "prefix"),
        ("s3://bucket/some/where/", "bucket", "some/where"),
        ("s3://bucket/a%20b", "bucket", "a b"),
    ],
)
def test_bucket_and_prefix_are_read(storage: str, bucket: str, root: str) -> None:
    options = S3Options.parse(storage)
    assert (options.bucket, options.root) == (bucket, root)


@pytest.mark.parametrize(
    ("root", "path", "key", "prefix"),
    [
        ("", "/", "", ""),
        ("", "/a/b", "a/b", "a/b/"),
        ("x/y", "/", "x/y/", "x/y/"),
        ("x/y", "/a/b", "x/y/a/b", "x/y/a/b/"),
    ],
)
def test_path_is_stored_below_the_prefix(root: str, path: str, key: str, prefix: str) -> None:
    options = S3Options("bucket", root)
    assert (options.key(path), options.prefix(path)) == (key, prefix)
    assert options.path(key) == path


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("region=eu-west-1", "region", "eu-west-1"),
        ("regionendpoint=http://s3.test:9000", "endpoint", "http://s3.test:9000"),
        ("regionendpoint=https%3A%2F%2Fs3.test", "endpoint", "https://s3.test"),
        ("regionendpoint=s3.test:9000", "endpoint", "https://s3.test:9000"),
        ("regionendpoint=s3.test&secure=false", "endpoint", "http://s3.test"),
        ("regionendpoint=s3.test&secure=true", "endpoint", "https://s3.test"),
        ("forcepathstyle=true", "addressing_style", "path"),
        ("forcepathstyle=false", "addressing_style", "virtual"),
        ("profile=backup", "profile", "backup"),
        ("cabundle=/etc/ca.pem", "ca_bundle", "/etc/ca.pem"),
        ("skipverify=true", "verify_tls", False),
        ("skipverify=0", "verify_tls", True),
        ("secure=false", "use_tls", False),
        ("usefipsendpoint=true", "fips", True),
        ("useragent=a/1", "user_agent", "a/1"),
        ("chunksize=5242880", "chunk_size", MIN_PART),
        ("chunksize=5368709120", "chunk_size", 5 * 2**30),
        ("multipartcopychunksize=33554432", "copy_chunk_size", 32 * MIB),
        ("multipartcopymaxconcurrency=100", "copy_streams", 100),
        ("multipartcopythresholdsize=0", "copy_threshold", 0),
        ("streams=8", "streams", 8),
        ("accelerate=true", "accelerate", True),
        ("usedualstack=1", "dual_stack", True),
        ("requestpayer=true", "for_reads", {"RequestPayer": "requester"}),
        ("requestpayer=false", "for_reads", {}),
        ("encrypt=true", "for_writes", {"ServerSideEncryption": "AES256"}),
        (
            "encrypt=true&keyid=arn:aws:kms:1",
            "for_writes",
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "arn:aws:kms:1"},
        ),
        ("encrypt=false", "for_writes", {}),
        ("storageclass=standard_ia", "for_writes", {"StorageClass": "STANDARD_IA"}),
        ("storageclass=STANDARD", "for_writes", {}),
        ("storageclass=NONE", "for_writes", {}),
        ("objectacl=bucket-owner-full-control", "for_writes", {"ACL": "bucket-owner-full-control"}),
        ("RegionEndpoint=http://s3.test", "endpoint", "http://s3.test"),
    ],
)
def test_option_is_read(query: str, name: str, value: object) -> None:
    assert getattr(_parsed(query), name) == value


def test_without_options_all_is_left_to_boto3() -> None:
    options = S3Options.parse("s3://bucket")
    assert (options.region, options.endpoint, options.profile, options.ca_bundle) == (None,) * 4
    assert (options.addressing_style, options.verify_tls) == ("auto", True)
    assert (options.chunk_size, options.streams) == (8 * MIB, 32)
    assert (dict(options.for_reads), dict(options.for_writes)) == ({}, {})


@pytest.mark.parametrize(
    "storage",
    [
        "s3://",
        "s3:///prefix",
        "s3:bucket",
        "s3://bucket:9000/prefix",
        "s3://bucket#x",
        "s3://no bucket",
        "s3://bücket",
        "s3://[::1",
    ],
)
def test_what_is_no_bucket_is_refused(storage: str) -> None:
    with pytest.raises(MountRefused, match=r"is not s3://bucket/prefix"):
        S3Options.parse(storage)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("chunksize=5242879", "chunksize must be between 5242880 and 5368709120, not '5242879'"),
        ("chunksize=5368709121", "chunksize must be between"),
        ("chunksize=8MB", "chunksize must be between .* not '8MB'"),
        ("chunksize=", "chunksize must be between"),
        ("chunksize=-1", "chunksize must be between"),
        ("multipartcopychunksize=1", "multipartcopychunksize must be between"),
        ("multipartcopymaxconcurrency=0", "multipartcopymaxconcurrency must be between 1 and 256"),
        ("multipartcopythresholdsize=5368709121", "multipartcopythresholdsize must be between 0"),
        ("streams=0", "streams must be between 1 and 256"),
        ("secure=maybe", "secure must be true or false, not 'maybe'"),
        ("skipverify=", "skipverify must be true or false"),
        ("forcepathstyle=yes", "forcepathstyle must be true or false"),
        ("encrypt=2", "encrypt must be true or false"),
        ("accelerate=on", "accelerate must be true or false"),
        ("usedualstack=x", "usedualstack must be true or false"),
        ("requestpayer=x", "requestpayer must be true or false"),
        ("keyid=arn", "keyid requires encrypt=true"),
        ("colour=blue", "unknown S3 option 'colour'; known are region"),
    ],
)
def test_option_that_cannot_be_is_refused(query: str, says: str) -> None:
    with pytest.raises(MountRefused, match=says):
        _parsed(query)


@pytest.mark.parametrize(
    "storage",
    [
        "s3://bucket?accesskey=HUSHHUSH",
        "s3://bucket?secretkey=HUSHHUSH",
        "s3://bucket?SessionToken=HUSHHUSH",
        "s3://HUSHHUSH:HUSHHUSH@bucket/prefix",
        "s3://HUSHHUSH@bucket",
        "s3://bucket?regionendpoint=http://HUSHHUSH:HUSHHUSH@s3.test",
        "s3://bucket?regionendpoint=HUSHHUSH@s3.test",
    ],
)
def test_secret_is_refused_and_not_repeated(storage: str) -> None:
    with pytest.raises(MountRefused) as caught:
        S3Options.parse(storage)
    assert "HUSH" not in str(caught.value)


@pytest.mark.parametrize(
    "query", ["profile=nobody-has-this", "regionendpoint=http://", "regionendpoint=://"]
)
def test_option_that_boto3_cannot_use_is_refused(
    monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(MountRefused, match=r"^s3://bucket: "):
        client_for(_parsed(query), session_for(_parsed(query)))


def test_credentials_are_those_of_the_requests_and_in_no_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    options = S3Options.of("b", "", {"useragent": "a/1"}, Credentials("AKHUSH", "SKHUSH", "T"))
    client = client_for(options, session_for(options))
    sent: list[AWSPreparedRequest] = []

    def stop(request: AWSPreparedRequest, **_: object) -> NoReturn:
        sent.append(request)
        raise _SentError(request)

    client.meta.events.register("before-send.s3.HeadBucket", stop)
    with pytest.raises(_SentError):
        client.head_bucket(Bucket="b")
    headers = {name: str(value) for name, value in sent[0].headers.items()}
    assert "AKHUSH" in headers["Authorization"]
    assert "a/1" in headers["User-Agent"]
    assert "HUSH" not in f"{options!r} {options} {options.url} {options.credentials!r}"


@pytest.mark.parametrize(
    "storage",
    [
        "s3://bucket",
        "s3://bucket/some/where",
        "s3://bucket?regionendpoint=http://s3.test:9000&region=r&forcepathstyle=true",
    ],
)
def test_url_has_the_options_again(storage: str) -> None:
    assert S3Options.parse(storage).url == storage


class _SentError(Exception):
    """Stops a request that is about to be sent, and holds it."""


@pytest.mark.parametrize(
    ("query", "is_hashed"),
    [
        ("regionendpoint=https://s3.test", False),
        ("regionendpoint=https://s3.test&skipverify=true", True),
        ("regionendpoint=http://s3.test", True),
        ("region=eu-west-1", False),
    ],
)
def test_what_is_sent_is_hashed_where_no_tls_holds_it_together(
    query: str, is_hashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)

    def stop(request: AWSPreparedRequest, **_: object) -> NoReturn:
        raise _SentError(request)

    options = _parsed(query)
    client = client_for(options, session_for(options))
    client.meta.events.register("before-send.s3.UploadPart", stop)
    with pytest.raises(_SentError) as sent:
        client.upload_part(Bucket="bucket", Key="a", UploadId="1", PartNumber=1, Body=b"content")
    expected = sha256(b"content").hexdigest() if is_hashed else "UNSIGNED-PAYLOAD"
    assert sent.value.args[0].headers["X-Amz-Content-SHA256"] == expected.encode()
