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


def test_no_module_logs_past_it() -> None:
    root = Path(__file__).parents[2]
    plain = re.compile(r'logging\.getLogger\("cloudq')
    files = [*(root / "cloudq").rglob("*.py"), *(root / "adapters").rglob("*.py")]
    assert len(files) > 200
    assert [str(file) for file in files if plain.search(file.read_text())] == []
