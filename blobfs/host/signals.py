"""What a signal tells a mount that goes on: SIGUSR1 to log more, SIGUSR2 to log less."""

from __future__ import annotations

import signal
from typing import Final

import trio

from blobfs import logs

_CHANGES: Final = {signal.SIGUSR1: logs.log_more, signal.SIGUSR2: logs.log_less}


def ignore_until_followed() -> None:
    """Let none of them end the program, as they would, before or after they are followed."""
    for number in _CHANGES:
        signal.signal(number, signal.SIG_IGN)


async def follow() -> None:
    """Do what the signals say, until cancelled."""
    with trio.open_signal_receiver(*_CHANGES) as numbers:
        async for number in numbers:
            _CHANGES[signal.Signals(number)]()
