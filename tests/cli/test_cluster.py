"""Commands that read with the workers of a Dask cluster."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blobfs import paths
from blobfs.cli import main
from blobfs.digest import Digest
from blobfs.drivers.factory import driver_for
from blobfs.drivers.location import Location
from blobfs.errors import MountRefused
from blobfs.host.preflight import create_storage
from blobfs.inventory.cluster import cluster_workers
from blobfs.inventory.scanning import close_all
from blobfs.reference import RepositoryName, Tag
from tests.support.dask_cluster import two_workers
from tests.support.layout import Layout, image
from tests.support.s3_prefixes import keys_of
from tests.support.s3_servers import S3Server

COMMANDS = [
    ("du", "--json"),
    ("verify", "--content", "--json"),
    ("gc", "--json", "--layers", "--untagged", "--age", "0s", "--grace", "0s"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster whose workers have keys that moto takes, as it takes any."""
    with two_workers(AWS_ACCESS_KEY_ID="of-a-worker", AWS_SECRET_ACCESS_KEY="secret") as address:
        yield address


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "storage"
    root.mkdir()
    return root


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("faulty")
    lay_out_images_with_faults(str(root), 20)
    return str(root)


def lay_out_images_with_faults(storage: str, repositories: int) -> None:
    with closing(driver_for(storage)) as driver:
        layout = Layout(driver)
        for number in range(repositories):
            name = RepositoryName(f"team{number % 3}/app-{number}")
            parts = [layout.layer(b"%d %d" % (number % 5, part), name) for part in range(4)]
            layout.tag(layout.revision(image(*parts), name), Tag("v1"), name)
        layout.blob(b"of nobody")
        layout.put(paths.blob_data(Digest.of(b"damaged")), b"other bytes")
        layout.link(paths.layers(RepositoryName("broken")), Digest.of(b"gone"))


def run(command: tuple[str, ...], storage: str, state: Path, *options: str) -> Result:
    name, *flags = command
    try:
        result = CliRunner().invoke(main, [name, storage, *flags, "--state", str(state), *options])
    finally:
        close_all()
    assert result.stdout, result.stderr
    return result


@pytest.mark.cluster
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_output_is_that_of_threads(
    faulty: str, tmp_path: Path, cluster: str, command: tuple[str, ...]
) -> None:
    """[S19.50] The output is that of threads."""
    alone = run(command, faulty, tmp_path / "alone")
    shared = run(command, faulty, tmp_path / "shared", "--cluster", cluster)
    assert (shared.stdout, shared.exit_code) == (alone.stdout, alone.exit_code)


@pytest.mark.cluster
@pytest.mark.s3
def test_workers_use_their_own_keys(tmp_path: Path, cluster: str, moto: S3Server) -> None:
    """[S19.50] Each worker uses the credentials of its own environment."""
    with keys_of(moto), moto.bucket() as bucket:
        storage = moto.storage_url(bucket, "")
        lay_out_images_with_faults(storage, 5)
        alone = run(COMMANDS[0], storage, tmp_path / "alone")
        shared = run(COMMANDS[0], storage, tmp_path / "shared", "--cluster", cluster)
    assert shared.stdout == alone.stdout


@pytest.mark.cluster
def test_worker_that_sees_another_directory_is_refused(
    root: Path, tmp_path: Path, cluster: str
) -> None:
    """[S19.51] A worker that sees another directory or another server is an error."""
    with cluster_workers(cluster, Location.of(str(root))) as workers:
        root.rename(tmp_path / "moved")
        root.mkdir()
        with pytest.raises(MountRefused, match="give all workers the same storage"):
            workers.executor.submit(int).result()


@pytest.mark.cluster
@pytest.mark.parametrize("address", ["localhost:8786", "tcp://127.0.0.1", "tcp://127.0.0.1:1"])
def test_address_without_a_scheduler_is_an_error(root: Path, address: str) -> None:
    create_storage(root)
    result = CliRunner().invoke(main, ["du", str(root), "--cluster", address])
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"--cluster {address}" in result.stderr.replace("'", "")


@pytest.mark.cluster
def test_storage_in_memory_is_refused() -> None:
    with pytest.raises(MountRefused, match="memory"), cluster_workers("", Location.of("memory:")):
        pass
