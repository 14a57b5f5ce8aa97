"""What a log line looks like, and how many there are."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobfs import logs
from blobfs.digest import Digest
from blobfs.logs import LogSettings, about

OURS = logging.getLogger("blobfs.somewhere")
Logged = Callable[[], list[str]]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("blobfs")
    before = root.handlers, root.level, ours.level
    yield
    for handler in root.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
    root.handlers, root.level, _ = before
    ours.setLevel(before[2])
    root.setLevel(before[1])


def _configure(tmp_path: Path, form: str, level: str = "debug") -> Logged:
    """Log to a file; gives what reads its lines."""
    file = tmp_path / "log"
    logs.configure(LogSettings(level, form, file), to_stderr=False)
    return lambda: file.read_text(encoding="utf-8").split("\n")[:-1]


@pytest.fixture
def text(tmp_path: Path) -> Logged:
    return _configure(tmp_path, "text")


@pytest.fixture
def objects(tmp_path: Path) -> Callable[[], list[dict[str, object]]]:
    lines = _configure(tmp_path, "json")
    return lambda: [json.loads(line) for line in lines()]


def test_text_has_the_fields_that_the_sentence_lacks(text: Logged) -> None:
    """[S17.11] As text, what the sentence does not have follows it."""
    OURS.warning("of %s nothing", "a/b", extra=about(repository="a/b", errno=5, seconds=0.25))
    [line] = text()
    assert line.endswith(" WARNING blobfs.somewhere: of a/b nothing errno=EIO seconds=0.25")


def test_text_quotes_what_has_spaces(text: Logged) -> None:
    """[S17.11] As text, what the sentence does not have follows it."""
    OURS.warning("no", extra=about(path='/a b="c"'))
    assert text()[0].endswith(r'no path="/a b=\"c\""')


def test_json_has_all_fields_with_their_types(
    objects: Callable[[], list[dict[str, object]]],
) -> None:
    """[S17.11] With `--log-format json` a line is an object with `time`, `level`, `logger`,
    `message`.
    """
    digest = Digest.of(b"x")
    fields = about(digest=digest, seconds=0.25, repository=None, message="not this")
    OURS.warning("blob %s", digest, extra=fields)
    [line] = objects()
    assert line.pop("time")
    assert line == {
        "level": "WARNING",
        "logger": "blobfs.somewhere",
        "message": f"blob {digest}",
        "digest": str(digest),
        "seconds": 0.25,
    }


HOSTILE = "a\nERROR b\r\x1b[2J\x07\x7f\x85\u2028\u202e\udcff"


def test_stored_names_can_forge_no_line_and_obey_no_terminal(text: Logged) -> None:
    """[S17.11] An event is one line of the log, whatever names are stored: line ends and what
    terminals obey are escaped.
    """
    OURS.warning("%s", HOSTILE, extra=about(path=HOSTILE + "x"))
    [line] = text()
    assert line.isprintable()
    assert r"a\nERROR b\r\x1b[2J\x07\x7f\x85\u2028\u202e\udcff" in line


def test_stored_names_are_whole_in_json_and_harmless(tmp_path: Path) -> None:
    """[S17.11] An event is one line of the log, whatever names are stored."""
    lines = _configure(tmp_path, "json")
    OURS.warning("%s", HOSTILE)
    [line] = lines()
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == HOSTILE


def _fail() -> None:
    raise ValueError("x\n2026-01-01 00:00:00,000 ERROR forged")


def test_traceback_follows_indented(text: Logged) -> None:
    """[S17.11] Only the lines of a traceback come after their event's, indented."""
    try:
        _fail()
    except ValueError:
        OURS.exception("unexpected")
    event, *others = text()
    assert event.endswith("unexpected")
    assert others
    assert all(line.startswith("    ") for line in others)


def test_what_libraries_log_below_a_warning_is_left_out(text: Logged) -> None:
    """boto's own debugging shows session tokens."""
    logging.getLogger("botocore.auth").debug("x-amz-security-token: secret")
    OURS.debug("ours")
    [line] = text()
    assert line.endswith("ours")


def test_level_goes_up_and_down_a_step_at_a_time_and_says_so(tmp_path: Path) -> None:
    """[S17.13] SIGUSR1 has more logged, SIGUSR2 less, one level each."""
    lines = _configure(tmp_path, "text", "warning")
    for change in (logs.log_more, logs.log_more, logs.log_more, logs.log_less, logs.log_less):
        change()
    said = [line.split("the log level is ")[1] for line in lines()]
    assert said == ["info now", "debug now", "debug now", "info now", "warning now"]


def test_least_that_is_logged_is_errors(tmp_path: Path) -> None:
    """[S17.13] SIGUSR1 has more logged, SIGUSR2 less, one level each."""
    lines = _configure(tmp_path, "text", "error")
    logs.log_less()
    OURS.warning("not this")
    OURS.error("this")
    assert lines()[-1].endswith("this")
    assert len(lines()) == 2
