"""The files and helpers in which skopeo, podman and docker keep logins."""

import json
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

import pytest

from blobfs.errors import AccessDenied, MountRefused
from blobfs.transfer.registry import RegistryOptions
from blobfs.transfer.registry.logins import Logins

HOST = "example.com:5000"


def auth(user: str) -> dict[str, str]:
    return {"auth": b64encode(f"{user}:pass:word".encode()).decode()}


def write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def user_of(repository: str = "", host: str = HOST, **options: object) -> str | None:
    login = Logins(host, RegistryOptions(**options)).find(repository)  # type: ignore[arg-type]
    return None if login is None else login.user


DOCKER = Path(".docker/config.json")
PLACES = ["run/containers/auth.json", ".config/containers/auth.json", str(DOCKER)]


def test_file_of_containers_is_looked_at_before_that_of_docker(tmp_path: Path) -> None:
    assert user_of() is None
    for name in reversed(PLACES):
        write(tmp_path / name, {"auths": {HOST: auth(name)}})
        assert user_of() == name


def test_explicit_file_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / DOCKER, {"auths": {HOST: auth("docker")}})
    write(tmp_path / "variable", {"auths": {HOST: auth("variable")}})
    write(tmp_path / "option", {})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "variable"))
    assert user_of() == "variable"
    assert user_of(authfile=tmp_path / "option") is None
    with pytest.raises(MountRefused, match="skopeo login"):
        user_of(authfile=tmp_path / "missing")


def test_given_login_and_anonymous_access_ignore_files(tmp_path: Path) -> None:
    write(tmp_path / DOCKER, {"auths": {HOST: auth("docker")}})
    assert user_of(credentials=("given", "x")) == "given"
    assert user_of(anonymous=True) is None


def test_most_specific_name_wins(tmp_path: Path) -> None:
    """[S22.12] The one with the most specific name is used"""
    names = {HOST: "all", f"{HOST}/team": "team", f"{HOST}/team/app": "app", "example.com": "other"}
    write(tmp_path / DOCKER, {"auths": {name: auth(user) for name, user in names.items()}})
    found = [user_of(name) for name in ("team/app", "team/app2", "team/x/y", "teams", "")]
    assert found == ["app", "team", "team", "all", "all"]


@pytest.mark.parametrize("key", [f"https://{HOST}/v1/", f"http://{HOST}", f"{HOST}/"])
def test_names_of_docker_may_be_urls(tmp_path: Path, key: str) -> None:
    write(tmp_path / DOCKER, {"auths": {key: auth("docker")}})
    assert user_of("team/app") == "docker"


@pytest.mark.parametrize("key", ["docker.io", "https://index.docker.io/v1/"])
def test_docker_hub_has_several_names(tmp_path: Path, key: str) -> None:
    write(tmp_path / DOCKER, {"auths": {key: auth("hub")}})
    assert user_of(host="docker.io") == user_of(host="registry-1.docker.io") == "hub"


@pytest.mark.parametrize(
    "document",
    [[], {}, {"auths": []}, {"auths": {HOST: {}}}, {"auths": {HOST: []}, "credHelpers": 7}],
)
def test_file_without_a_login_has_none(tmp_path: Path, document: object) -> None:
    write(tmp_path / DOCKER, document)
    assert user_of() is None


@pytest.mark.parametrize("text", ["{", "\udcff", f'{{"auths": {{"{HOST}": {{"auth": "!"}}}}}}'])
def test_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / DOCKER).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(MountRefused, match=r"config\.json"):
        user_of()


HELPER = """#!/bin/sh
read -r server
echo "$0 $1 $server" >> {calls}
case $server in
  example.com:5000) echo '{{"ServerURL":"x","Username":"helped","Secret":"secret"}}' ;;
  token.example.com) echo '{{"Username":"<token>","Secret":"identity"}}' ;;
  broken.example.com) echo nonsense ;;
  *) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of the calls of the helper ``docker-credential-test``."""
    program = tmp_path / "bin/docker-credential-test"
    program.parent.mkdir()
    program.write_text(HELPER.format(calls=tmp_path / "calls"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return tmp_path / "calls"


@pytest.mark.parametrize("document", [{"credsStore": "test"}, {"credHelpers": {HOST: "test"}}])
def test_helper_has_the_login(tmp_path: Path, calls: Path, document: Mapping[str, object]) -> None:
    write(tmp_path / DOCKER, {"auths": {HOST: {}}, **document})
    logins = Logins(HOST, RegistryOptions())
    for repository in ("team/app", "other"):
        login = logins.find(repository)
        assert login is not None
        assert (login.user, login.password) == ("helped", "secret")
        assert "secret" not in repr(login)
    [line] = calls.read_text().splitlines()
    assert line.endswith("docker-credential-test get example.com:5000")


def test_helper_may_have_an_identity_token(tmp_path: Path, calls: Path) -> None:
    write(tmp_path / DOCKER, {"credsStore": "test"})
    login = Logins("token.example.com", RegistryOptions()).find("")
    assert login is not None
    assert (login.user, login.identity_token) == ("", "identity")


def test_helper_without_a_login_is_no_error(tmp_path: Path, calls: Path) -> None:
    write(tmp_path / DOCKER, {"credsStore": "test"})
    assert user_of(host="unknown.example.com") is None


def test_helper_that_fails_is_named(tmp_path: Path, calls: Path) -> None:
    write(tmp_path / DOCKER, {"credsStore": "test"})
    with pytest.raises(AccessDenied, match="docker-credential-test"):
        user_of(host="broken.example.com")


@pytest.mark.parametrize("helper", ["missing", "../../bin/sh", "", 7])
def test_helper_that_is_none_is_refused(tmp_path: Path, helper: object) -> None:
    write(tmp_path / DOCKER, {"credHelpers": {HOST: helper}})
    with pytest.raises(MountRefused, match=r"config\.json"):
        user_of()
