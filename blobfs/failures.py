"""Recent warnings and errors, for ``/.blobfs/errors``."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final, Self

from blobfs.logs import TextFormatter

_KEPT: Final = 100


class RecentFailures(logging.Handler):
    """Log handler that keeps the last 100 warnings and errors as text. Thread-safe."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(TextFormatter())
        self.addFilter(
            lambda record: record.name != "blobfs.logs"
        )  # these lines report a change of the log level
        self._lines: deque[str] = deque(maxlen=_KEPT)

    @classmethod
    def of_this_program(cls) -> Self:
        """Attach a handler to the logger of blobfs; the level of the log does not matter."""
        failures = cls()
        logging.getLogger("blobfs").addHandler(failures)
        return failures

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
        except Exception:  # noqa: BLE001  (the caller of a log method must not fail)
            self.handleError(record)

    def text(self) -> str:
        """Return a line for each, oldest first; a traceback follows its line."""
        return "".join(f"{line}\n" for line in list(self._lines))
