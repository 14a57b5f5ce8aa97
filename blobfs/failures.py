"""What went wrong lately, for ``/.blobfs/errors``."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final, Self

from blobfs.logs import TextFormatter

_KEPT: Final = 100


class RecentFailures(logging.Handler):
    """Keeps the last warnings and errors that were logged, as lines of text. Thread-safe."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(TextFormatter())
        self.addFilter(lambda record: record.name != "blobfs.logs")  # of its own level
        self._lines: deque[str] = deque(maxlen=_KEPT)

    @classmethod
    def of_this_program(cls) -> Self:
        """What blobfs itself logs from now on, whatever is done with that."""
        failures = cls()
        logging.getLogger("blobfs").addHandler(failures)
        return failures

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
        except Exception:  # noqa: BLE001  (whoever logs must not fail for it)
            self.handleError(record)

    def text(self) -> str:
        """A line for each, the oldest first; a bug has its traceback below it."""
        return "".join(f"{line}\n" for line in list(self._lines))
