"""The command line: parses options, builds objects, calls them, prints the result.

``commands`` has the commands; the largest of them, ``mount``, is in ``mounting``, and its options
are in ``mount_options``. ``services`` prepares everything of a mount beside its storage: the
registry's configuration, systemd, the HTTP socket. ``notices`` has the warnings at the start of
a mount. ``reports`` and ``image_report`` collect what ``ls``, ``show`` and ``uploads`` print,
``types`` has the types of options.

* A command contains no logic that the library could have, and prints nothing that a report could.
* An error that a user can cause is a BlobfsError. The command group prints it in one line.
* All checks and all binding of sockets come before the fork of ``mount``, so that a mistake is
  an error on the terminal and never a daemon that dies.
"""

from blobfs.cli.commands import main

__all__ = ["main"]
