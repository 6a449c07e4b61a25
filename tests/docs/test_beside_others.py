"""The claims of the page "cloudq beside others" are held by tests, and its figures are known.

Each claim names a test that fails when the claim is no longer true. The figures are those of the
benchmark's table in docs/design.md.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from celery import Celery

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "cloudq-beside-others.md"
TEXT = re.sub(r"\s+", " ", PAGE.read_text())
DESIGN = (ROOT / "docs" / "design.md").read_text()

CLAIMS = {
    "`inspect` and `control` go through the result store and work on every broker": (
        "tests/docs/test_commands.py::test_the_commands_of_a_section_run",
        "tests/worker/test_control.py::test_the_command_line_asks_and_tells",
    ),
    "In cloudq a message is acknowledged after its task has ended.": (
        "tests/worker/test_worker.py::test_a_killed_child_is_replaced_and_its_work_comes_back",
    ),
    "In cloudq a delay that is longer than the queue allows is sent on in hops.": (
        "tests/execution/test_execution.py::test_a_delay_beyond_the_brokers_limit_goes_in_hops",
    ),
    "`examples/celery_shop` was written for Celery, and gives the same results on cloudq.": (
        "tests/contrib/test_celery_shop.py::test_a_day_on_cloudq_is_a_day_on_celery",
    ),
    "cloudq has schedules, chords, revoking and functions in the cloud in one package.": (
        "tests/deploy/test_loop.py::test_the_whole_loop",
        "tests/functions/aws/test_workflows.py::test_a_chord_finishes_its_body_once",
        "tests/broker/test_delayed.py::test_a_revoked_task_is_taken_back_and_has_ended",
    ),
    "runs `async def` tasks on an event loop in each process": (
        "tests/functions/aws/test_batches.py::test_async_tasks_run",
    ),
    "calls your function with typed arguments, and gives back only the messages of a batch": (
        "tests/functions/aws/test_batches.py::test_only_what_failed_is_reported",
    ),
    "it can run in another queue, with other limits, in a worker or in a function": (
        "tests/functions/aws/test_real_lambda.py::test_a_zipped_function_does_every_task_right",
    ),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_each_claim_is_on_the_page_and_has_its_test(claim: str) -> None:
    assert claim in TEXT
    for name in CLAIMS[claim]:
        file, _, test = name.partition("::")
        assert f"def {test}(" in (ROOT / file).read_text(), f"{name} is gone"


def test_each_ratio_is_one_of_the_benchmark() -> None:
    table = PAGE.read_text().partition("| cloudq against |")[2].partition("\n\n")[0]
    ratios = re.findall(r"\d\.\d+(?:-\d\.\d+)?x", table)
    assert len(ratios) == 8
    assert [ratio for ratio in ratios if ratio not in DESIGN] == []


@pytest.mark.parametrize("figure", ["75-116 ms", "0.38-0.47 s", "4.4-6.3 ms", "0.49-1.4x"])
def test_each_figure_where_others_are_ahead_is_one_of_the_benchmark(figure: str) -> None:
    assert figure in DESIGN
    low, _, high = figure.removesuffix("x").partition("-")
    assert figure in TEXT or f"between {low} and {high} times" in TEXT


def test_celery_acknowledges_before_the_task_unless_told_otherwise() -> None:
    assert Celery("shop").conf.task_acks_late is False


def test_each_source_has_a_page_and_a_date() -> None:
    rows = TEXT.partition("| of | page | as of |")[2].split(" | ")
    addresses = re.findall(r"<(https://[^>]+)>", TEXT)
    assert len(addresses) > 10
    dates = [
        cell for cell in rows if re.fullmatch(r"(?:July|August|November) 2026(?: \|.*)?", cell)
    ]
    assert len(dates) >= 10
