"""Celery's modules that cloudq has not: the import error says where their names are, or why not."""

from __future__ import annotations

import importlib.util
from importlib import import_module

import pytest

from cloudq.contrib import celery
from cloudq.contrib.celery.modules import NOT_HERE

ROOT = "cloudq.contrib.celery"


@pytest.mark.parametrize("name", NOT_HERE)
def test_each_tells_its_reason(name: str) -> None:
    module = "app.base" if name == "app" else "worker.loops" if name == "worker" else name
    for place in (module, f"{module}.below"):
        with pytest.raises(ModuleNotFoundError, match=rf"no celery\.{module}: ") as caught:
            import_module(f"{ROOT}.{place}")
        assert NOT_HERE[name] in str(caught.value)


def test_also_where_it_is_imported_from_the_package() -> None:
    for line in ("from cloudq.contrib.celery import platforms", f"import {ROOT}.utils.log"):
        with pytest.raises(ImportError, match=r"no celery\.(platforms|utils): \S"):
            exec(line, {})
    with pytest.raises(ImportError, match="StampingVisitor: a call carries headers"):
        exec(f"from {ROOT}.canvas import StampingVisitor", {})


def test_other_modules_are_as_they_were() -> None:
    assert importlib.util.find_spec(f"{ROOT}.app") is not None
    assert importlib.util.find_spec(f"{ROOT}.nothing_of_celery") is None
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        import_module(f"{ROOT}.utilz")
    assert celery.result.AsyncResult is celery.AsyncResult
    assert celery.canvas.subtask is celery.subtask
