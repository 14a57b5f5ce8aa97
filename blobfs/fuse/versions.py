"""The versions of the parts of the machine that a mount runs on."""

from __future__ import annotations

import ctypes
import os
import platform

import pyfuse3


def versions() -> dict[str, str]:
    """Return the versions of Python, pyfuse3, libfuse and the kernel, by their names."""
    kernel = os.uname()
    return {
        "Python": platform.python_version(),
        "pyfuse3": str(pyfuse3.__version__),
        "libfuse": _libfuse(),
        kernel.sysname: kernel.release,
    }


def _libfuse() -> str:
    """Return the version of the library that pyfuse3 has loaded."""
    # A symbol is looked up in the libraries that a module is linked with, too.
    try:
        version = ctypes.CDLL(pyfuse3.__file__).fuse_pkgversion
    except AttributeError:
        return "unknown"
    version.restype = ctypes.c_char_p
    found = version()
    return found.decode("ascii", "replace") if isinstance(found, bytes) else "unknown"
