"""A Redis that speaks TLS, with a certificate that nobody but its maker trusts."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blobfs.cache.redis.cache import RedisCache
from blobfs.cache.redis.options import RedisOptions
from blobfs.errors import StorageUnavailable
from tests.support.cache_samples import PATIENT_S, described
from tests.support.redis_server import RedisServer
from tests.support.services import free_port, run

pytestmark = pytest.mark.redis

BLOB = described(b"a layer")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its key lies beside it, as ``key``."""
    directory = tmp_path_factory.mktemp("certificate")
    key, certificate = directory / "key", directory / "certificate"
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=redis"),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
    )
    return certificate


@pytest.fixture(scope="module")
def address(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = str(free_port())
    options = ("--tls-port", port, "--tls-cert-file", str(certificate), "--tls-auth-clients", "no")
    key = ("--tls-key-file", str(certificate.with_name("key")))
    with RedisServer.serving(tmp_path_factory.mktemp("redis"), *options, *key):
        yield f"127.0.0.1:{port}"


def _cache(url: str) -> RedisCache:
    return RedisCache(RedisOptions.parse(url), PATIENT_S)


@pytest.mark.parametrize(
    "options",
    [
        "ssl_ca_certs={certificate}",
        "ssl_ca_certs=/etc/ssl/certs/ca-certificates.crt&ssl_ca_certs={certificate}",
        "ssl_cert_reqs=none",
    ],
)
def test_server_is_spoken_to(address: str, certificate: Path, options: str) -> None:
    url = f"rediss://{address}?{options.format(certificate=certificate)}"
    with closing(_cache(url)) as cache:
        cache.set(BLOB.digest, BLOB)
        assert cache.stat(BLOB.digest) == BLOB


@pytest.mark.parametrize(
    ("host", "options", "said"),
    [
        ("127.0.0.1", "", "self-signed certificate"),
        ("localhost", "?ssl_ca_certs={certificate}", "Hostname mismatch"),
        ("127.0.0.1", "?ssl_ca_certs=/nowhere", "No such file"),
        ("127.0.0.1", "?ssl_ca_certs={certificate}&ssl_ca_certs=/nowhere", "No such file"),
        ("127.0.0.1", "?ssl_ca_certs={certificate}&ssl_ca_certs=/dev/null", "has no certificate"),
    ],
    ids=["unknown", "of another host", "no file", "one file missing", "no certificate"],
)
def test_server_that_is_not_trusted_is_told_nothing(
    address: str, certificate: Path, host: str, options: str, said: str
) -> None:
    place = address.replace("127.0.0.1", host)
    url = f"rediss://{place}{options.format(certificate=certificate)}"
    with closing(_cache(url)) as cache, pytest.raises(StorageUnavailable, match=said):
        cache.stat(BLOB.digest)
