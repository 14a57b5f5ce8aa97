"""Sentences that a mount prints when it begins."""

import logging
from pathlib import Path

import pytest

from blobfs.cli.notices import deletes_notice
from tests.support.mounts import mounted, run

FILE = Path("/etc/config.yml")
REDIS = "redis://:secret@localhost:6379/0"


def test_deletes_without_the_registry_s_file_have_a_note() -> None:
    """[S9.5] `blobfs mount --allow-delete` prints that condition, and logs it."""
    notice = deletes_notice(None, None, "memory")
    assert notice is not None
    assert notice.level == logging.INFO
    assert (
        "a registry with blobdescriptor: inmemory does not notice a rm in the mount" in notice.text
    )
    assert "restart it after each rm" in notice.text


def test_deletes_beside_a_cache_in_memory_are_warned_of() -> None:
    """[S9.5] With `--config` the file is checked: `inmemory`, or a Redis that is not the mount's
    `--cache`, is a warning.
    """
    notice = deletes_notice(FILE, "memory", "memory")
    assert notice is not None
    assert notice.level == logging.WARNING
    assert f"{FILE}: with storage.cache.blobdescriptor: inmemory" in notice.text
    assert "restart the registry after each rm" in notice.text


@pytest.mark.parametrize("cache", ["redis://elsewhere:6379/0", "redis://localhost/1", "none"])
def test_deletes_beside_another_redis_are_warned_of(cache: str) -> None:
    """[S9.5] A Redis that is not the mount's `--cache`, is a warning."""
    notice = deletes_notice(FILE, REDIS, cache)
    assert notice is not None
    assert notice.level == logging.WARNING
    assert (
        f"cache is redis://localhost:6379/0, and --cache is {cache.replace('t/', 't:6379/')}"
        in (notice.text)
    )
    assert "secret" not in notice.text


@pytest.mark.parametrize(
    ("registry", "cache"),
    [(None, "memory"), (REDIS, REDIS), (REDIS, "redis://user:other@localhost")],
    ids=["no blobdescriptor", "the same Redis", "the same Redis as another user"],
)
def test_deletes_that_are_safe_have_no_notice(registry: str | None, cache: str) -> None:
    """[S9.5] No `blobdescriptor`, or the same Redis, is silent."""
    assert deletes_notice(FILE, registry, cache) is None


@pytest.mark.fuse
def test_warning_of_deletes_is_on_the_terminal_and_in_the_log(tmp_path: Path) -> None:
    """[S9.5] `blobfs mount --allow-delete` prints that condition, and logs it."""
    config, place, log = tmp_path / "config.yml", tmp_path / "m", tmp_path / "log"
    config.write_text("storage: {cache: {blobdescriptor: inmemory}}")
    place.mkdir()
    options = ("--allow-delete", "--config", config, "--log-file", log)
    done = run("mount", "memory:", place, *options)
    assert run("umount", place).returncode == 0
    [said] = done.stderr.splitlines()
    assert said.startswith(f"{config}: with storage.cache.blobdescriptor: inmemory")
    assert f"WARNING blobfs.cli.notices: {said}" in log.read_text()


@pytest.mark.fuse
def test_note_of_deletes_is_no_warning(tmp_path: Path) -> None:
    """[S9.5] `blobfs mount --allow-delete` prints that condition, and logs it."""
    with mounted("memory:", tmp_path, "--allow-delete") as mount:
        assert not mount.warnings()
        assert "INFO blobfs.cli.notices: --allow-delete: a registry" in mount.log.read_text()
