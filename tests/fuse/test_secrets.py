"""A password of the cache: nobody but the daemon sees it."""

from pathlib import Path

import pytest

from tests.support.layout import APP, Layout
from tests.support.mounts import mounted, run_anew
from tests.support.services import free_port

pytestmark = pytest.mark.fuse

CONTROL = ("config.json", "stats.json", "health.json", "requests.json", "errors", "metrics")


def _by_configuration(url: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    config = place / "config.yml"
    address = url.rpartition("@")[2]
    config.write_text(
        f"redis: {{addr: '{address}', password: sesame}}\n"
        "storage: {cache: {blobdescriptor: redis}}\n"
    )
    return ("--config", str(config))


def _by_environment(url: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("BLOBFS_MOUNT_CACHE", url)
    return ()


@pytest.mark.parametrize("given", [_by_configuration, _by_environment])
def test_password_of_the_cache_is_shown_nowhere(
    storage: Path, layout: Layout, tmp_path: Path, given: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S15.8] What may be secret, which is any URL, header or password, is in no log, no error and
    no file of `.blobfs`.
    """
    assert callable(given)
    layers = [layout.layer(bytes([number])) for number in range(5)]
    address = f"127.0.0.1:{free_port()}"  # where nobody listens
    options = given(f"redis://:sesame@{address}", tmp_path, monkeypatch)
    with mounted(storage, tmp_path, *options, "--log-level", "debug", start=run_anew) as mount:
        for digest in layers:
            (mount.path / APP / "_layers/sha256" / digest.encoded).stat()
        shown = {name: (mount.path / ".blobfs" / name).read_text() for name in CONTROL}
        shown["command line"] = Path(f"/proc/{mount.pid}/cmdline").read_text()
    shown["log"] = mount.log.read_text()
    assert address in shown["config.json"]
    assert address in shown["log"], "that it cannot be reached is told"
    assert not [name for name, text in shown.items() if "sesame" in text]
