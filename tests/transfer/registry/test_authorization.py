"""Registries that want a login: by htpasswd, and with the tokens of a token service."""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.errors import AccessDenied, Unsupported
from blobfs.reference import Tag
from blobfs.transfer.registry import RegistryOptions, RegistrySource, RegistryTarget
from tests.support.places import described
from tests.support.services import DockerRegistry, run
from tests.support.token_service import TokenService

pytestmark = pytest.mark.registry

USER, PASSWORD = "me", "p:w"
HTPASSWD = "me:$2b$04$abcdefghijklmnopqrstuuMjP8rcRP9jDBaf.MqHtqTjAN61Q1x0.\n"
LOGIN = RegistryOptions(credentials=(USER, PASSWORD))
BLOB = described(b"some bytes")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A registry with a file of users."""
    directory = tmp_path_factory.mktemp("guarded")
    users = directory / "users"
    users.write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "tests", "path": str(users)}}
    with DockerRegistry.serving(directory / "storage", auth=auth) as registry:
        yield registry


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenService]:
    with TokenService.serving(tmp_path_factory.mktemp("tokens"), USER, PASSWORD) as service:
        yield service


@pytest.fixture(scope="module")
def tokened(
    service: TokenService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerRegistry]:
    """A registry that wants tokens of ``service``."""
    root = tmp_path_factory.mktemp("tokened") / "storage"
    with DockerRegistry.serving(root, auth=service.settings) as registry:
        yield registry


@pytest.fixture(autouse=True)
def _no_requests(service: TokenService) -> None:
    service.server.requests.clear()


def store(registry: DockerRegistry, repository: str, options: RegistryOptions = LOGIN) -> None:
    with RegistryTarget(registry.address, options) as target:
        target.put_blob(repository, BLOB, [b"some bytes"])


def test_user_of_a_file_may_write_and_read(guarded: DockerRegistry) -> None:
    store(guarded, "by/password")
    with RegistrySource(guarded.address, LOGIN) as source:
        assert "by/password" in list(source.repositories())
        with source.open("by/password", BLOB) as reader:
            assert b"".join(reader.chunks()) == b"some bytes"


def test_login_of_skopeo_is_found(
    guarded: DockerRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S22.12] Logins are those of skopeo, podman and docker"""
    authfile = tmp_path / "auth.json"
    run(
        *("skopeo", "login", "--tls-verify=false", "--authfile", authfile),
        *("--username", USER, "--password", PASSWORD, guarded.address),
    )
    store(guarded, "by/skopeo", RegistryOptions(authfile=authfile))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(authfile))
    store(guarded, "by/variable", RegistryOptions())


def test_error_without_a_login_says_how_to_make_one(guarded: DockerRegistry) -> None:
    with pytest.raises(AccessDenied, match=f"skopeo login {guarded.address}"):
        store(guarded, "by/nobody", RegistryOptions())


def test_error_of_a_wrong_login_names_its_file_and_no_secret(
    guarded: DockerRegistry, tmp_path: Path
) -> None:
    wrong = b64encode(b"me:wrong-secret").decode()
    authfile = tmp_path / "wrong.json"
    authfile.write_text(json.dumps({"auths": {guarded.address: {"auth": wrong}}}))
    with pytest.raises(AccessDenied, match=r"wrong\.json") as caught:
        store(guarded, "by/wrong", RegistryOptions(authfile=authfile))
    assert "wrong-secret" not in str(caught.value)
    assert wrong not in str(caught.value)


def test_tokens_are_asked_for_once_for_each_repository(
    tokened: DockerRegistry, service: TokenService
) -> None:
    with RegistryTarget(tokened.address, LOGIN) as target:
        for repository in ("tokens/a", "tokens/b"):
            target.put_blob(repository, BLOB, [b"some bytes"])
            assert target.missing(repository, [BLOB]) == []
    scopes = [value for request in service.server.requests for _, value in request.query[2:]]
    assert scopes == ["repository:tokens/a:pull,push", "repository:tokens/b:pull,push"]


def test_mount_asks_for_the_origin_too(tokened: DockerRegistry, service: TokenService) -> None:
    store(tokened, "tokens/origin")
    with RegistryTarget(tokened.address, LOGIN) as target:
        assert target.link("tokens/mounted", BLOB, "tokens/origin")
    scopes = [value for name, value in service.server.requests[-1].query if name == "scope"]
    assert scopes == ["repository:tokens/mounted:pull,push", "repository:tokens/origin:pull"]


def test_blob_of_a_repository_that_must_not_be_read_is_not_mounted(
    tokened: DockerRegistry, service: TokenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tokened, "tokens/hidden")
    monkeypatch.setattr(service, "hidden", {"tokens/hidden"})
    with RegistryTarget(tokened.address, LOGIN) as target:
        assert not target.link("tokens/visible", BLOB, "tokens/hidden")
        target.put_blob("tokens/visible", BLOB, [b"some bytes"])
        assert target.missing("tokens/visible", [BLOB]) == []
        with pytest.raises(AccessDenied):
            target.missing("tokens/hidden", [BLOB])


def test_removal_of_a_tag_asks_for_that(tokened: DockerRegistry, service: TokenService) -> None:
    with RegistryTarget(tokened.address, LOGIN) as target, pytest.raises(Unsupported):
        target.untag("tokens/a", Tag("v1"))
    scopes = [value for name, value in service.server.requests[-1].query if name == "scope"]
    assert scopes == ["repository:tokens/a:pull,push", "repository:tokens/a:delete"]


def test_repositories_are_listed_with_a_token_for_that(tokened: DockerRegistry) -> None:
    store(tokened, "tokens/listed")
    with RegistrySource(tokened.address, LOGIN) as source:
        assert "tokens/listed" in list(source.repositories())


def test_anonymous_token_is_enough_to_read(tokened: DockerRegistry) -> None:
    store(tokened, "tokens/public")
    options = RegistryOptions(anonymous=True)
    with RegistrySource(tokened.address, options) as source:
        assert source.size("tokens/public", BLOB.digest) == BLOB.size
    with pytest.raises(AccessDenied, match="no login was found"):
        store(tokened, "tokens/public2", options)


def test_wrong_password_gets_no_token(tokened: DockerRegistry) -> None:
    with pytest.raises(AccessDenied, match="gives no token") as caught:
        store(tokened, "tokens/wrong", RegistryOptions(credentials=(USER, "wrong-secret")))
    assert "wrong-secret" not in str(caught.value)


def test_identity_token_is_exchanged(
    tokened: DockerRegistry, service: TokenService, tmp_path: Path
) -> None:
    authfile = tmp_path / "auth.json"
    entry = {"auth": b64encode(b"00000:").decode(), "identitytoken": service.refresh_token}
    authfile.write_text(json.dumps({"auths": {tokened.address: entry}}))
    store(tokened, "tokens/identity", RegistryOptions(authfile=authfile))
    assert service.server.requests[0].method == "POST"
    assert service.refresh_token not in service.server.requests[0].target


def test_expired_token_is_replaced(
    tokened: DockerRegistry, service: TokenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "life_s", -3600)
    with RegistryTarget(tokened.address, LOGIN) as target:
        with pytest.raises(AccessDenied):
            target.put_blob("tokens/expired", BLOB, [b"some bytes"])
        monkeypatch.setattr(service, "life_s", 300)
        target.put_blob("tokens/expired", BLOB, [b"some bytes"])


def test_threads_share_a_token(tokened: DockerRegistry, service: TokenService) -> None:
    with RegistrySource(tokened.address, LOGIN) as source:
        store(tokened, "tokens/shared")
        service.server.requests.clear()
        threads = [
            threading.Thread(target=source.size, args=("tokens/shared", BLOB.digest))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(service.server.requests) == 1
