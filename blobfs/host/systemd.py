"""Notifications to systemd: the mount is ready, is alive, is stopping.

The protocol, sd_notify(3), is one datagram. Of the libraries for it one needs a compiler and
systemd's headers, and the others are unmaintained.
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from typing import Final, Self

import trio

log = logging.getLogger(__name__)

_PINGS_PER_TIMEOUT: Final = 2  # as sd_watchdog_enabled(3) recommends


@dataclass(frozen=True, slots=True)
class Supervisor:
    """The service manager that started the process; *address* is None if there is none.

    It restarts the process after *watchdog_s* seconds without a ping.
    """

    address: str | None = None
    watchdog_s: float | None = None

    @classmethod
    def from_environment(cls) -> Self:
        """Read and remove the variables, which are for one process; call it before a fork."""
        address = os.environ.pop("NOTIFY_SOCKET", None)
        timeout_us = os.environ.pop("WATCHDOG_USEC", "")
        is_for_us = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = is_for_us and timeout_us.isdecimal() and int(timeout_us) > 0
        return cls(address, int(timeout_us) / 10**6 if watched else None)

    def ready(self, status: str) -> None:
        """Report that the mount answers, and its pid."""
        self._notify(READY=1, MAINPID=os.getpid(), STATUS=status)

    async def attend(self) -> None:
        """Send watchdog pings until cancelled, then report the stop.

        A hung event loop sends none, and systemd restarts the process.
        """
        try:
            while self.watchdog_s is not None:
                self._notify(WATCHDOG=1)
                await trio.sleep(self.watchdog_s / _PINGS_PER_TIMEOUT)
            await trio.sleep_forever()
        finally:
            self._notify(STOPPING=1)

    def _notify(self, **variables: object) -> None:
        """Send ``NAME=value`` lines. A failure only loses them, as with sd_notify(3)."""
        if self.address is None:
            return
        lines = (f"{name}={value}".replace("\n", " ") for name, value in variables.items())
        destination = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, destination)
        except OSError as exc:
            log.debug("cannot notify %s: %s", self.address, exc)
