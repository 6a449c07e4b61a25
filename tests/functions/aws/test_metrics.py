"""Metrics of a Lambda function: lines that CloudWatch reads off its log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq_aws import lambda_handler
from tests.functions.aws.events import EventSource


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out = capsys.readouterr().out
    return [json.loads(line) for line in out.splitlines() if '"_aws"' in line]


def define(app: CloudQ) -> None:
    @app.task(name="metered")
    def metered(number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number

    @app.task(name="other")
    def other() -> None: ...


def test_a_batch_is_told_task_by_task(
    app: CloudQ, source: EventSource, capsys: pytest.CaptureFixture[str]
) -> None:
    app.conf.max_retries = 0
    define(app)
    handler = lambda_handler(app, metrics="shop")
    for number in range(5):
        app.tasks["metered"].delay(number)
    app.tasks["other"].delay()
    handler(source.take(6), None)
    told = {line["task"]: line for line in lines(capsys)}
    assert told.keys() == {"metered", "other"}
    assert sum(told["metered"]["Succeeded"]) == 3
    assert sum(told["metered"]["Failed"]) == 2
    assert len(told["metered"]["Duration"]) == 5
    [directive] = told["other"]["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "shop"
    assert sorted(directive["Dimensions"][0]) == ["service", "task"]


def test_a_direct_call_is_told_and_the_next_starts_anew(
    app: CloudQ, capsys: pytest.CaptureFixture[str]
) -> None:
    define(app)
    handler = lambda_handler(app, metrics="shop")
    for _ in range(2):
        handler({"task": "other"}, None)
        [line] = lines(capsys)
        assert line["Succeeded"] == [1.0]


def test_without_a_namespace_nothing_is_written(
    app: CloudQ, capsys: pytest.CaptureFixture[str]
) -> None:
    define(app)
    lambda_handler(app)({"task": "other"}, None)
    assert lines(capsys) == []
