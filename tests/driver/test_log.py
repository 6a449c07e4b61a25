"""cloudq's own log: what the user's logging raises stops nothing, and is told of once."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cloudq.driver.ends import Died, pass_ends
from cloudq.driver.log import Log
from cloudq.errors import SoftTimeLimitExceeded, TimeLimitExceeded


class Panic(BaseException):
    """The panic of a library in Rust."""


class Spiteful(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise Panic


class Raises(logging.Handler):
    """A handler that raises."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self.error


Raising = Callable[[BaseException], Log]


@pytest.fixture
def raising() -> Iterator[Raising]:
    """Make a log with a handler that raises."""
    name = f"cloudq.{uuid4().hex}"
    logger = logging.getLogger(name)
    logger.propagate = False

    def make(error: BaseException) -> Log:
        logger.handlers[:] = [Raises(error)]
        return Log(name)

    yield make
    logger.handlers.clear()


def test_a_handlers_error_is_told_once_on_standard_error(
    raising: Raising, capsys: pytest.CaptureFixture[str]
) -> None:
    class Unheard(Exception):
        pass

    log = raising(Unheard("no\nroom"))
    log.warning("one")
    log.error("two")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("cloudq: logging raised ")
    assert "Unheard: no\\nroom" in told
    assert "in emit)" in told


@pytest.mark.parametrize("error", [Panic(), Spiteful(), GeneratorExit(), MemoryError()])
def test_nothing_that_logging_raises_comes_through(raising: Raising, error: BaseException) -> None:
    raising(error).warning("one")


@pytest.mark.parametrize(
    "error",
    [Died(), KeyboardInterrupt(), SystemExit(), SoftTimeLimitExceeded(), TimeLimitExceeded()],
)
def test_the_ends_of_a_process_and_a_tasks_limits_pass(
    raising: Raising, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        raising(error).warning("one")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_no_thread_ends_by_what_only_the_main_thread_gets_from_a_signal(
    kind: type[BaseException],
) -> None:
    passed: list[BaseException] = []

    def run() -> None:
        try:
            pass_ends(kind())
        except BaseException as error:
            passed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not passed
    with pytest.raises(kind):
        pass_ends(kind())


def test_a_record_names_the_place_that_logs(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("x")
    except ValueError:
        Log("cloudq.test").exception("one %d", 1, extra={"task": "t"})
    [record] = caplog.records
    assert record.funcName == "test_a_record_names_the_place_that_logs"
    assert record.getMessage() == "one 1"
    assert vars(record)["task"] == "t"
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError


EVIL = "E\x1b[31m\n[INFO]\ttask pay x: SUCCESS \u202e\u2028 postgres://bob:hunter2@db/x"
SAFE = r"E\x1b[31m\n[INFO]\ttask pay x: SUCCESS \u202e\u2028 postgres://***@db/x"


class Lines(logging.Handler):
    """A handler of the user's, with the format that comes with Python."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s %(task_id)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[tuple[Log, Lines]]:
    """Make a log whose records any program's own formatter writes."""
    log, handler = Log(f"cloudq.{uuid4().hex}"), Lines()
    log.logger.propagate = False
    log.logger.addHandler(handler)
    yield log, handler
    log.logger.removeHandler(handler)


@pytest.mark.parametrize("value", [EVIL, Exception(EVIL)])
def test_texts_are_one_safe_line_under_any_formatter(
    lines: tuple[Log, Lines], value: object
) -> None:
    log, handler = lines
    log.error("task %s ended after %d", value, 3, extra={"task_id": EVIL})
    log.error(value, extra={"task_id": "i"})
    assert handler.lines == [f"ERROR task {SAFE} ended after 3 {SAFE}", f"ERROR {SAFE} i"]


def test_the_repr_of_a_text_is_escaped_once(lines: tuple[Log, Lines]) -> None:
    log, handler = lines
    log.error("field %r", "a\nb", extra={"task_id": "i"})
    assert handler.lines == [r"ERROR field 'a\nb' i"]


def test_no_line_of_a_traceback_passes_for_a_record(lines: tuple[Log, Lines]) -> None:
    log, handler = lines
    log.error("it failed", exc_info=ValueError(EVIL), extra={"task_id": "i"})
    log.error("it failed", exc_info=Spiteful(), extra={"task_id": "i"})
    first, *more = handler.lines[0].split("\n")
    assert first == "ERROR it failed i"
    assert len(more) == 2
    assert all(line.startswith("  ") for line in more)
    assert not {"\x1b", "\u2028", "\u202e"} & set(handler.lines[0])
    assert "hunter2" not in handler.lines[0]
    assert "Spiteful" in handler.lines[1]


def test_no_text_is_made_of_what_is_not_logged() -> None:
    log = Log(f"cloudq.{uuid4().hex}")
    log.logger.setLevel(logging.WARNING)
    log.info("%s", Spiteful())  # its text ends the test


def test_no_module_logs_past_it() -> None:
    root = Path(__file__).parents[2]
    plain = re.compile(
        r'getLogger\((?:"cloudq|__name__|\))|logging\.(?:debug|info|warning|error|exception)\('
    )
    files = [*(root / "cloudq").rglob("*.py"), *(root / "adapters").rglob("*.py")]
    assert len(files) > 200
    assert [str(file) for file in files if plain.search(file.read_text())] == []
