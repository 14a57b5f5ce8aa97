"""A process that is killed at one of its calls that change files."""

import os
from collections.abc import Callable
from typing import Any, Final

_CALLS: Final = (
    "copy_file_range", "fsync", "fdatasync", "ftruncate", "link", "mkdir", "open", "pwrite",
    "remove", "rename", "replace", "truncate", "unlink", "write",
)  # fmt: skip
_KILLED: Final = 9

MEMORY: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A directory that is synced at once, as tests that kill processes write much."""


def ends_before(number: int, work: Callable[[], object]) -> bool:
    """Run *work* in a process that is killed before its call of that number.

    True if it ended before, so that all calls were tried. *work* must not fail.
    """
    child = os.fork()
    if not child:
        code = 1
        try:
            _kill_at(number)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, _KILLED}
    return code == 0


def _kill_at(number: int) -> None:
    left = number

    def killing(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: object, **options: object) -> object:
            nonlocal left
            if not left:
                os._exit(_KILLED)
            left -= 1
            return call(*args, **options)

        return counted

    for name in _CALLS:
        setattr(os, name, killing(getattr(os, name)))
