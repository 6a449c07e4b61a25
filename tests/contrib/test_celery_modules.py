"""Each module and each public name of Celery's can be imported, or says why not."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from cloudq.contrib import celery
from cloudq.contrib.celery import Celery, missing
from cloudq.contrib.celery.app import app_or_default
from cloudq.contrib.celery.app.control import flatten_reply
from cloudq.contrib.celery.result import AsyncResult, ResultBase, ResultSet
from cloudq.contrib.celery.schedules import ParseException, crontab, maybe_schedule
from cloudq.contrib.celery.utils import chunks, nodename, nodesplit
from cloudq.contrib.celery.utils.log import get_logger, mlevel

HERE = Path(__file__).parent
# The modules of Celery 5.7 and what is in __all__ of each, as celery_modules.py prints them.
RECORDED = (HERE / "celery_modules.txt").read_text()
PYTHON = os.environ.get("CELERY_PYTHON") or (sys.executable if find_spec("celery") else None)
MODULES = dict(line.split(":") for line in RECORDED.splitlines())


def outcome(statement: str) -> str:
    """Empty if it can be imported, else the reason; a reason of Python's own is none."""
    try:
        exec(statement, {})
    except ImportError as error:
        if not str(error).startswith("cloudq has no "):
            raise
        return str(error)
    return ""


@pytest.mark.parametrize("module", MODULES)
def test_each_module_is_there_or_says_why_not(module: str) -> None:
    here = module.replace("celery", missing.HERE, 1)
    if outcome(f"import {here}"):
        return
    for name in MODULES[module].split():
        outcome(f"from {here} import {name}")


def test_what_celery_has_not_is_no_matter_of_ours() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        import_module(f"{missing.HERE}.nonsense")
    with pytest.raises(ImportError, match="cannot import name"):
        exec(f"from {missing.HERE}.result import nonsense", {})


def test_a_reason_is_said_also_where_a_name_is_imported_from_a_package() -> None:
    for line in (
        f"from {missing.HERE} import platforms",
        f"import {missing.HERE}.worker.state",
        f"import {missing.HERE}.worker.state.below",
        f"from {missing.HERE}.utils import dispatch",
    ):
        with pytest.raises(ImportError, match=r"no celery\.(platforms|worker|utils)[.a-z]*: \S"):
            exec(line, {})
    with pytest.raises(ImportError, match="StampingVisitor: a call carries headers"):
        exec(f"from {missing.HERE}.canvas import StampingVisitor", {})


def test_the_package_has_its_modules_and_their_names() -> None:
    assert celery.result.AsyncResult is celery.AsyncResult
    assert celery.canvas.subtask is celery.subtask


def test_no_reason_stands_for_a_module_that_is_there() -> None:
    assert {f"celery.{module}" for module in missing.MODULES} <= MODULES.keys() | {
        "celery.contrib.testing"
    }
    for module, names in missing.NAMES.items():
        found = vars(import_module(f"{missing.HERE}.{module}"))
        assert not names.keys() & found.keys()


@pytest.mark.skipif(PYTHON is None, reason="needs Celery, or CELERY_PYTHON that has it")
def test_what_was_recorded_is_what_celery_has() -> None:
    done = subprocess.run(
        [str(PYTHON), str(HERE / "celery_modules.py")], capture_output=True, text=True, check=True
    )
    assert done.stdout == RECORDED


def test_the_small_tools_do_as_celery_s() -> None:
    assert [*chunks(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert (nodename("w1", "host"), nodename(None, "host")) == ("w1@host", "celery@host")
    assert (nodesplit("w1@host"), nodesplit("host")) == (("w1", "host"), (None, "host"))
    assert (mlevel("info"), mlevel(10), mlevel(None)) == (20, 10, None)
    assert get_logger("a.b").name == "a.b"
    assert flatten_reply([{"w1@h": {"ok": "pong"}}, {"w2@h": 1}]) == {
        "w1@h": {"ok": "pong"},
        "w2@h": 1,
    }
    daily = crontab(hour=3)
    assert maybe_schedule(daily) is daily
    assert maybe_schedule(30) == maybe_schedule(30.0)
    with pytest.raises(ParseException):
        crontab(minute=61)


def test_every_result_is_a_result_base() -> None:
    with Celery("base", broker="memory://base") as app:
        assert app_or_default() is app
        assert app_or_default(app) is app
        assert isinstance(AsyncResult("x"), ResultBase)
        assert isinstance(ResultSet([]), ResultBase)
        assert not isinstance("x", ResultBase)


def test_a_loader_imports_what_a_worker_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks_to_load.py").write_text(
        "from cloudq.contrib.celery import shared_task\n\n\n@shared_task\ndef loaded(): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with Celery("loads", broker="memory://loads", include=["tasks_to_load"]) as app:
        app.loader.import_default_modules()
        assert "tasks_to_load.loaded" in app.tasks
        assert app.loader.import_module("json").__name__ == "json"
        with pytest.raises(AttributeError, match="connect to signals"):
            _ = app.loader.on_worker_init
