"""The command line: reads options, builds the objects, calls them, prints."""

from blobfs.cli.commands import main

__all__ = ["main"]
