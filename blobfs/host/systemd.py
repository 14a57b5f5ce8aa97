"""What systemd is told of a mount: that it answers, that it is alive, that it ends.

The protocol, sd_notify(3), is a datagram. Of the libraries for it one is to be compiled against
systemd's own, and those without it are no longer looked after.
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
    """Who started us and wants to hear of us; without an *address*, nobody does.

    *watchdog_s* is how long we may be silent before we are taken for hung, and restarted.
    """

    address: str | None = None
    watchdog_s: float | None = None

    @classmethod
    def from_environment(cls) -> Self:
        """To be called before a fork: the variables are for one process, and go with this."""
        address = os.environ.pop("NOTIFY_SOCKET", None)
        timeout_us = os.environ.pop("WATCHDOG_USEC", "")
        of_us = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = of_us and timeout_us.isdecimal() and int(timeout_us) > 0
        return cls(address, int(timeout_us) / 10**6 if watched else None)

    def ready(self, status: str) -> None:
        """Tell that the mount answers, and which process it is now."""
        self._tell(READY=1, MAINPID=os.getpid(), STATUS=status)

    async def attend(self) -> None:
        """Tell that the event loop goes on, if anybody watches, until cancelled; then the end.

        A loop that hangs tells nothing, which is what makes systemd restart it.
        """
        try:
            while self.watchdog_s is not None:
                self._tell(WATCHDOG=1)
                await trio.sleep(self.watchdog_s / _PINGS_PER_TIMEOUT)
            await trio.sleep_forever()
        finally:
            self._tell(STOPPING=1)

    def _tell(self, **variables: object) -> None:
        """Send ``NAME=value`` lines. What cannot be sent is lost, as with sd_notify(3)."""
        if self.address is None:
            return
        lines = (f"{name}={value}".replace("\n", " ") for name, value in variables.items())
        place = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, place)
        except OSError as exc:
            log.debug("%s hears nothing: %s", self.address, exc)
