"""How and where log lines are written, and how many.

The command line configures it. All other code logs to a logger of its own, with ``about`` for
what a program that reads the log should not have to find in the sentence.
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
"""From most to least."""

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_SYSLOG: Final = "/dev/log"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, and where: *form* is ``text`` or ``json``, one object a line."""

    level: str
    form: str
    file: Path | None


def about(**fields: object) -> dict[str, object]:
    """What a line is about, as the ``extra`` of a log call; None is for what is not known.

    ``operation``, ``repository``, ``digest``, ``upload``, ``path``, ``endpoint``, ``errno``,
    ``seconds``; an errno is told by its name.
    """
    number = fields.get("errno")
    if isinstance(number, int):
        fields["errno"] = errno.errorcode.get(number, str(number))
    return {"fields": {name: value for name, value in fields.items() if value is not None}}


def configure(settings: LogSettings, *, to_stderr: bool) -> None:
    """Send what is logged to the file, else to stderr or the system's log.

    Raises MountRefused if the file cannot be written.
    """
    handler = _handler(settings.file, to_stderr=to_stderr)
    handler.setFormatter(_Json() if settings.form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    # What others say below that is for their developers, and boto's has session tokens.
    root.setLevel(logging.WARNING)
    _set_level(settings.level)
    # A reply to a program that was killed meanwhile cannot be delivered; that is all it says.
    logging.getLogger("pyfuse3").setLevel(logging.CRITICAL)


def is_discarded() -> bool:
    """Return whether nothing keeps what is logged: no file, no terminal, no system log."""
    return all(isinstance(handler, logging.NullHandler) for handler in logging.getLogger().handlers)


def log_more() -> None:
    """Log one level more from now on, down to debug."""
    _shift_level(-1)


def log_less() -> None:
    """Log one level less from now on, up to errors."""
    _shift_level(+1)


def _shift_level(step: int) -> None:
    [handler] = logging.getLogger().handlers
    index = LEVELS.index(logging.getLevelName(handler.level).lower()) + step
    level = LEVELS[min(max(index, 0), len(LEVELS) - 1)]
    _set_level(level)
    log.log(handler.level, "the log level is %s now", level)  # at a level that shows


def _set_level(level: str) -> None:
    [handler] = logging.getLogger().handlers
    handler.setLevel(level.upper())
    # There are others that want warnings, whatever the log leaves out.
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
    """For people: the fields come last, less those that the sentence has anyway."""

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
        # Indented, so that no line of it can be taken for an event.
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
        return printable(json.dumps({**_fields(record), **line}, default=str))


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if set(text) & set(' ="') or not text else text


def printable(line: str) -> str:
    """Stored names may have anything in them: line ends, what terminals obey, half characters."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
