"""A worker's log: one record is one line, none is forged or lost, and none shows a secret."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq import CloudQ
from cloudq.worker.logs import JsonLines, Lines, banner
from cloudq.worker.options import WorkerOptions

ESC = "\x1b]0;OWNED\x07\x1b[2J\x9b31m\r\n12:00:00 INFO    forged: line\u2028\u202e\ud800"
TEXT = Lines("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
FORMATTERS = [JsonLines(), TEXT]
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]")
START = re.compile(r"\d\d:\d\d:\d\d INFO ")


def _record(message: Any, *args: Any, **more: Any) -> logging.LogRecord:
    record = logging.LogRecord("shop", logging.INFO, __file__, 1, message, args, None)
    vars(record).update(more)
    return record


def _is_safe(written: str) -> bool:
    return not UNSAFE.search(written)


class _Raises:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("formatter", FORMATTERS)
@pytest.mark.parametrize(
    "record",
    [
        _record(ESC),
        _record("from %s", ESC),
        _record("x", task_name=ESC, task_id=ESC),
        _record("x", **{ESC: ESC}),
        _record("x", counts={1: 2, ESC: [ESC]}),
    ],
    ids=["message", "argument", "task", "odd field", "nested"],
)
def test_strangers_text_makes_one_safe_line(
    formatter: logging.Formatter, record: logging.LogRecord
) -> None:
    written = formatter.format(record)
    assert "\n" not in written
    assert _is_safe(written)


@pytest.mark.parametrize("formatter", FORMATTERS)
@pytest.mark.parametrize(
    "record",
    [
        _record("%d of %s", "x"),
        _record("%s", _Raises()),
        _record(_Raises()),
        _record("%(a)s", {"b": 1}),
        _record("x", big=2**70, nan=float("nan"), odd={(1,): {2}}, raises=_Raises()),
        _record("x", task_name=_Raises()),
        _record(b"\xff"),
        _record(None),
    ],
    ids=["args", "repr", "message", "mapping", "fields", "task", "bytes", "none"],
)
def test_no_record_is_lost(
    formatter: logging.Formatter, record: logging.LogRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.handle(record)
    assert capsys.readouterr().err == ""  # where logging complains of its own errors
    assert stream.getvalue().count("\n") == 1


@given(st.text(st.characters()), st.dictionaries(st.text(), st.integers() | st.floats()))
def test_any_text_and_fields_make_one_line_of_json(message: str, fields: dict[str, Any]) -> None:
    record = logging.LogRecord("shop", logging.INFO, __file__, 1, message, (), None)
    vars(record)["fields"] = fields
    assert json.loads(JsonLines().format(record))["logger"] == "shop"


def test_a_field_does_not_pass_for_the_records_own() -> None:
    read = json.loads(JsonLines().format(_record("x", level="error", time=1, exception="none")))
    assert (read["level"], read["level_"], read["time_"]) == ("info", "error", 1)


class _Unshowable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [ValueError(ESC), _Unshowable(), KeyError("a\nb")])
def test_lines_of_a_traceback_are_indented_and_pass_for_no_record(error: Exception) -> None:
    try:
        raise error
    except Exception:
        record = _record("failed")
        record.exc_info = sys.exc_info()
    first, *rest = TEXT.format(record).split("\n")
    assert START.match(first)
    assert rest
    assert all(line.startswith("  ") for line in rest)
    assert _is_safe("".join(rest))
    written = JsonLines().format(record)
    assert "\n" not in written
    assert "Traceback" in json.loads(written)["exception"]


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_a_log_shows_no_secret(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("postgres://u:hunter2@h/db?key=hunter2")
    except ValueError:
        record = _record("sent to %s", "redis://:hunter2@h", conf={"db": {"password": "hunter2"}})
        record.exc_info = sys.exc_info()
    written = formatter.format(record)
    assert "***" in written
    assert "hunter2" not in written


def test_the_banner_shows_no_secret() -> None:
    url = "sqlite:///x.db?password=hunter2"
    with CloudQ("shop", broker=url, backend=url) as app:
        options = WorkerOptions(app_path="x", queues=(("default", 1),), processes=1, threads=1)
        lines = "\n".join(banner(app, options))
        assert "hunter2" not in f"{lines} {app!r} {app.conf!r}"
        assert "broker   sqlite:///x.db?password=***" in lines


@pytest.mark.parametrize(
    ("queue", "meant"),
    [("defualt", "default"), ("mial", "mail"), ("mail2", None), ("media", None), ("mail", None)],
)
def test_the_banner_asks_about_a_queue_that_is_nearly_one_of_the_app(
    queue: str, meant: str | None
) -> None:
    with CloudQ("shop", broker="memory://logs") as app:
        app.task(name="send", queue="mail")(print)
        options = WorkerOptions(app_path="x", queues=((queue, 2),), processes=1, threads=1)
        asked = [line.strip() for line in banner(app, options) if "meant" in line]
    line = f"no task has the queue {queue}: is {meant} meant?"
    assert asked == ([] if meant is None else [line])
