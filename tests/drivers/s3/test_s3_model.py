"""Any sequence of calls leaves S3 with the files that a plain dict has."""

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import with_base
from blobfs.drivers.resumable import uploads_of
from tests.support.driver_model import DriverModel, Errors, contents, paths
from tests.support.s3_prefixes import S3Place

pytestmark = pytest.mark.s3


class S3Model(DriverModel):
    """A directory is gone with its last file; none is made below a file, or in its place."""

    def __init__(self, place: S3Place) -> None:
        self.place = place
        self.options = place.options()
        super().__init__()

    def new_drivers(self) -> list[StorageDriver]:
        return [with_base(self.place.driver(self.options))]

    def teardown(self) -> None:
        self.place.take_down(self.drivers[0], self.options)

    def refusals(self, path: str) -> Errors:
        assume(not self.below(path))
        assume(not any(path.startswith(f"{file}/") for file in self.files))
        return set()

    def drop(self, path: str) -> None:
        del self.files[path]

    @rule(path=paths, content=contents, flushes=st.booleans())
    def write_and_cancel(self, path: str, content: bytes, flushes: bool) -> None:
        def write(driver: StorageDriver) -> None:
            with driver.create(path) as writer:
                writer.write(content)
                if flushes:
                    writer.flush()
                writer.cancel()

        self.all_do(write, self.refusals(path))

    @rule(path=paths, parts=st.lists(contents, min_size=1, max_size=3))
    def write_and_flush_and_commit(self, path: str, parts: list[bytes]) -> None:
        def write(driver: StorageDriver) -> None:
            with driver.create(path) as writer:
                for part in parts:
                    writer.write(part)
                    writer.flush()
                assert uploads_of(driver).stat_unfinished(path, writer.token).size == writer.size
                writer.commit()

        if self.all_do(write, self.refusals(path)):
            self.hold(path, b"".join(parts))


@pytest.mark.parametrize(("place", "examples"), [("moto", 4), ("ceph", 8)], indirect=["place"])
def test_s3_has_the_files_that_a_dict_has(place: S3Place, examples: int) -> None:
    class Model(S3Model):
        def __init__(self) -> None:
            super().__init__(place)

    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
