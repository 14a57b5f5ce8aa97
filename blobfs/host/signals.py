"""Signals that change the log level of a mount: SIGUSR1 logs more, SIGUSR2 less."""

from __future__ import annotations

import signal
from typing import Final

import trio

from blobfs import logs

_CHANGES: Final = {signal.SIGUSR1: logs.log_more, signal.SIGUSR2: logs.log_less}


def ignore_until_followed() -> None:
    """Ignore the signals, whose default is to end the process, while ``follow`` does not run."""
    for number in _CHANGES:
        signal.signal(number, signal.SIG_IGN)


async def follow() -> None:
    """Change the log level at each signal, until cancelled."""
    with trio.open_signal_receiver(*_CHANGES) as numbers:
        async for number in numbers:
            _CHANGES[signal.Signals(number)]()
