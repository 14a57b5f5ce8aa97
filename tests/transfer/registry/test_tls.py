"""TLS: the directories of certificates that docker and skopeo have, and plain HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.errors import MountRefused, RepositoryUnknown, StorageUnavailable
from blobfs.transfer.registry import RegistryOptions, RegistrySource, options
from tests.support.services import DockerRegistry, run

pytestmark = pytest.mark.registry

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def issue(directory: Path, name: str, *, suffix: str) -> None:
    """Make a key, and a certificate by the authority in *directory*."""
    request, key, certificate = (directory / f"{name}.{end}" for end in ("csr", "key", suffix))
    run("openssl", "req", *_EC, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
    names = directory / "names"
    names.write_text("subjectAltName=IP:127.0.0.1")
    run(
        *("openssl", "x509", "-req", "-in", request, "-out", certificate, "-days", "2"),
        *("-CA", directory / "ca.crt", "-CAkey", directory / "ca.secret", "-extfile", names),
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and the certificates of a server and a client."""
    directory = tmp_path_factory.mktemp("certificates")
    run(
        *("openssl", "req", "-x509", *_EC, "-days", "2", "-subj", "/CN=authority"),
        *("-keyout", directory / "ca.secret", "-out", directory / "ca.crt"),
    )
    issue(directory, "server", suffix="crt")
    issue(directory, "client", suffix="cert")
    return directory


@pytest.fixture(scope="module")
def address(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry behind TLS, which wants a client's certificate."""
    tls = {
        "certificate": str(certificates / "server.crt"),
        "key": str(certificates / "server.key"),
        "clientcas": [str(certificates / "ca.crt")],
    }
    root = tmp_path_factory.mktemp("tls") / "storage"
    with DockerRegistry.serving(root, http={"tls": tls}) as registry:
        yield registry.address


def look(address: str, **more: object) -> None:
    with RegistrySource(address, RegistryOptions(anonymous=True, **more)) as source:  # type: ignore[arg-type]
        list(source.tags("nobody"))


@pytest.fixture
def cert_dir(certificates: Path, tmp_path: Path) -> Path:
    """A directory with the certificates of the authority and the client, as docker has it."""
    directory = tmp_path / "certs"
    directory.mkdir()
    for name in ("ca.crt", "client.cert", "client.key"):
        (directory / name).write_bytes((certificates / name).read_bytes())
    return directory


def test_registry_with_certificates_of_a_directory_is_used(address: str, cert_dir: Path) -> None:
    with pytest.raises(RepositoryUnknown):
        look(address, cert_dir=cert_dir)


def test_directory_of_the_host_is_found(address: str, cert_dir: Path) -> None:
    """[S22.11] Certificates are found where skopeo and docker find them"""
    parent = Path.home() / ".config/containers/certs.d"
    parent.mkdir(parents=True)
    cert_dir.rename(parent / address)
    with pytest.raises(RepositoryUnknown):
        look(address)


def test_unknown_authority_is_refused_at_once_and_not_replaced_by_plain_http(address: str) -> None:
    """[S22.11] Its certificate is verified"""
    with pytest.raises(MountRefused, match="--src-cert-dir"):
        look(address)


def test_unknown_authority_is_accepted_without_verification(address: str, cert_dir: Path) -> None:
    (cert_dir / "ca.crt").unlink()
    with pytest.raises(RepositoryUnknown):
        look(address, cert_dir=cert_dir, tls_verify=False)


def test_certificate_of_the_client_is_needed(address: str, cert_dir: Path) -> None:
    (cert_dir / "client.cert").unlink()
    with pytest.raises(StorageUnavailable):
        look(address, cert_dir=cert_dir)


def test_unusable_file_is_named(cert_dir: Path) -> None:
    (cert_dir / "client.key").write_text("no key")
    with pytest.raises(MountRefused, match=r"client\.cert"):
        RegistrySource("localhost", RegistryOptions(cert_dir=cert_dir))
    (cert_dir / "client.key").unlink()
    run("openssl", "genrsa", "-aes128", "-passout", "pass:word", "-out", cert_dir / "client.key")
    with pytest.raises(MountRefused, match="password"):
        RegistrySource("localhost", RegistryOptions(cert_dir=cert_dir))


def test_plain_http_is_only_for_this_machine_or_without_verification() -> None:
    """[S22.11] Plain HTTP is tried only with a registry on this machine"""
    assert options.allowed_schemes("localhost:5000", RegistryOptions()) == ("https", "http")
    assert options.allowed_schemes("[::1]:5000", RegistryOptions()) == ("https", "http")
    assert options.allowed_schemes("example.com", RegistryOptions()) == ("https",)
    assert options.allowed_schemes("127.0.0.1.example.com", RegistryOptions()) == ("https",)
    unverified = RegistryOptions(tls_verify=False)
    assert options.allowed_schemes("example.com", unverified) == ("https", "http")
