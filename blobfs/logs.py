"""How and where log lines are written; the command line alone calls this."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from blobfs.errors import MountRefused

_SYSLOG: Final = "/dev/log"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, and where: *form* is ``text`` or ``json``, one object a line."""

    level: str
    form: str
    file: Path | None


def configure(settings: LogSettings, *, to_stderr: bool) -> None:
    """Send what is logged to the file, else to stderr or the system's log.

    Raises MountRefused if the file cannot be written.
    """
    handler = _handler(settings.file, to_stderr=to_stderr)
    handler.setFormatter(_Json() if settings.form == "json" else _Text())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    # A reply to a program that was killed meanwhile cannot be delivered; that is all it says.
    logging.getLogger("pyfuse3").setLevel(logging.CRITICAL)


def _handler(file: Path | None, *, to_stderr: bool) -> logging.Handler:
    if file is not None:
        try:
            return logging.FileHandler(file, encoding="utf-8")
        except OSError as exc:
            raise MountRefused(f"cannot write the log {file}: {exc.strerror}") from None
    if to_stderr:
        return logging.StreamHandler(sys.stderr)
    if Path(_SYSLOG).exists():
        handler = logging.handlers.SysLogHandler(_SYSLOG)
        handler.ident = "blobfs: "
        return handler
    return logging.NullHandler()


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        # One line a record, whatever a name that somebody stored has in it.
        line = super().format(record)
        return line if record.exc_info else line.replace("\n", "\\n").replace("\r", "\\r")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
