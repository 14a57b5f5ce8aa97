"""Real programs that fail are quoted."""

import os
from pathlib import Path

import pytest

from tests.support.services import DockerRegistry, ServiceFailed, run

pytestmark = pytest.mark.registry


def test_registry_that_can_not_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "docker-registry"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with (
        pytest.raises(ServiceFailed, match=r"ended with 3; its log:\nout of order"),
        DockerRegistry.serving(tmp_path / "storage"),
    ):
        pytest.fail("it started")


def test_program_that_fails_is_quoted() -> None:
    with pytest.raises(ServiceFailed, match=r"(?s)skopeo .*ended with 1:.*no such file"):
        run("skopeo", "inspect", "oci:/nonesuch")
    with pytest.raises(ServiceFailed, match="nonesuch is not installed"):
        run("nonesuch")
