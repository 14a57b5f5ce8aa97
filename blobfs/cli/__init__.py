"""The command line: parses options, builds objects, calls them, prints the result.

``commands`` names the modules of the commands, such as ``ls_command``. The largest, ``mount``, is
in ``mounting``, and its options are in ``mount_options``. ``storage`` resolves STORAGE, which may
be a registry's configuration file, and ``mount_defaults`` takes defaults of options from that file.
``mount_helper_command`` is the program that mount(8) runs. ``services`` prepares everything of a
mount beside its storage: notifications, systemd, the HTTP socket. ``notices`` has the warnings at
the start of a mount. ``reports`` and ``image_report`` collect what ``ls``, ``show`` and ``uploads``
print, and ``checkup`` has the checks of ``doctor``. ``image_options`` has the options of commands
that look into images, ``image_files`` what they print, and ``reading`` the options of commands that
read a whole storage. ``output`` prints tables and ends commands. ``types`` has the types of options
and arguments, and ``completion`` what a shell offers for them.

* A command contains no logic that the library could have, and prints nothing that a report could.
* An error that a user can cause is a BlobfsError. The command group prints it in one line.
* ``mount`` checks its options and binds its sockets before it forks. The child reports later
  errors to its parent, so that each appears on the terminal.
"""

from blobfs.cli.commands import main

__all__ = ["main"]
