"""The configuration of logging: destination, format and level.

The command line configures it. Each module has its own logger, and passes the values of a message
as fields too, by ``about``, so that programs need not parse the message.
"""

from __future__ import annotations

import errno
import json
import logging
import logging.handlers
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final

from blobfs.errors import MountRefused

log = logging.getLogger(__name__)

LEVELS: Final = ("debug", "info", "warning", "error")
"""Ordered from most to fewest lines."""

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_SYSLOG: Final = "/dev/log"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Level, format and file of the log; *form* is ``text``, or ``json`` for an object per line."""

    level: str
    form: str
    file: Path | None


def about(**fields: object) -> dict[str, object]:
    """Return the ``extra`` of a log call with *fields*; None values are left out.

    The fields are ``operation``, ``repository``, ``digest``, ``upload``, ``path``, ``endpoint``,
    ``errno``, ``seconds``. The log shows an errno by its name.
    """
    number = fields.get("errno")
    if isinstance(number, int):
        fields["errno"] = errno.errorcode.get(number, str(number))
    return {"fields": {name: value for name, value in fields.items() if value is not None}}


def configure(settings: LogSettings, *, to_stderr: bool) -> None:
    """Send log lines to the file, else to stderr or the system log.

    Raises MountRefused if the file cannot be written.
    """
    handler = _handler(settings.file, to_stderr=to_stderr)
    handler.setFormatter(_Json() if settings.form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    # Libraries log debug lines for their developers, and boto's contain session tokens.
    root.setLevel(logging.WARNING)
    _set_level(settings.level)
    # pyfuse3 logs only replies that it cannot deliver because the program was killed.
    logging.getLogger("pyfuse3").setLevel(logging.CRITICAL)


def is_discarded() -> bool:
    """True if the log has no destination: no file, no terminal, no system log."""
    return all(isinstance(handler, logging.NullHandler) for handler in logging.getLogger().handlers)


def log_more() -> None:
    """Lower the log level by one, at most to debug."""
    _shift_level(-1)


def log_less() -> None:
    """Raise the log level by one, at most to error."""
    _shift_level(+1)


def _shift_level(step: int) -> None:
    [handler] = logging.getLogger().handlers
    index = LEVELS.index(logging.getLevelName(handler.level).lower()) + step
    level = LEVELS[min(max(index, 0), len(LEVELS) - 1)]
    _set_level(level)
    log.log(handler.level, "the log level is %s now", level)  # at a level that is shown


def _set_level(level: str) -> None:
    [handler] = logging.getLogger().handlers
    handler.setLevel(level.upper())
    # Other handlers, such as RecentFailures, need warnings at every log level.
    logging.getLogger("blobfs").setLevel(min(handler.level, logging.WARNING))


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


class TextFormatter(logging.Formatter):
    """Text format: the fields follow the message, except those that the message contains."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        fields = (
            f" {name}={_quoted(str(value))}"
            for name, value in _fields(record).items()
            if str(value) not in record.message
        )
        return printable(super().formatMessage(record) + "".join(fields))

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802
        # The indentation tells a line of a traceback from a log line.
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"    {printable(line)}" for line in lines)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps({**_fields(record), **line}, default=str)  # all in ASCII


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if set(text) & set(' ="') or not text else text


def printable(line: str) -> str:
    """Escape line ends, control characters and surrogates, which stored names may contain."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
