"""The turns of the workers' tests: one that is alone, or several side by side."""

import fcntl
from pathlib import Path


class Turns:
    """The turns of one worker; the workers of a run share *directory*.

    Tests in a row that are alone keep their turn: each new one waits for the other workers' tests.
    """

    def __init__(self, directory: Path) -> None:
        self._gate = (directory / "gate").open("wb")
        self._turn = (directory / "turn").open("wb")
        self._is_alone = False

    def take(self, *, alone: bool) -> None:
        """Wait until no other worker's test is alone, and none runs beside one that is *alone*."""
        if self._is_alone:  # the test before was
            if alone:
                return
            self.leave(next_is_alone=False)
        # Who waits for the turn holds the gate, so the others cannot take turns without end.
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        fcntl.flock(self._turn, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._is_alone = alone

    def leave(self, *, next_is_alone: bool) -> None:
        """End the turn; one that is alone goes on if the next test is alone too."""
        if self._is_alone and next_is_alone:
            return
        self._is_alone = False
        fcntl.flock(self._turn, fcntl.LOCK_UN)  # a process that was forked may have it open

    def close(self) -> None:
        self._gate.close()
        self._turn.close()
