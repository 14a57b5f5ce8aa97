"""The command line in the test's own process: a command takes a third of a second to start."""

from click.testing import CliRunner, Result

from blobfs.cli import main


def invoke(*arguments: object) -> Result:
    """Run ``blobfs`` with *arguments*; an exception that it does not handle is the test's."""
    return CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)
