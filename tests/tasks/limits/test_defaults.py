"""A default and the same value given are one call, whatever the hint makes of both."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from enum import Enum, Flag
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from cloudq.messages.message import TaskMessage
from tests.support.bench import Bench


class Plan(BaseModel):
    size: int = 1


class Strict(BaseModel):
    size: int

    @field_validator("size")
    @classmethod
    def check(cls, size: int) -> int:
        raise RuntimeError("no size")


def of_float(n: int, given: float = 1) -> None: ...
def of_decimal(n: int, given: Decimal = "1.5") -> None: ...  # type: ignore[assignment]
def of_span(n: int, given: timedelta = 5) -> None: ...  # type: ignore[assignment]
def of_list(n: int, given: list[int] = (1,)) -> None: ...  # type: ignore[assignment]
def of_plan(n: int, given: Plan = {}) -> None: ...  # type: ignore[assignment]  # noqa: B006
def of_keywords(n: int, *, given: float = 1) -> None: ...


CASES: list[tuple[Callable[..., None], Any]] = [
    (of_float, 1),
    (of_float, 1.0),
    (of_decimal, "1.5"),
    (of_decimal, Decimal("1.50")),
    (of_span, 5),
    (of_list, [1]),
    (of_plan, {}),
    (of_plan, Plan()),
    (of_keywords, 1),
]


@pytest.mark.parametrize(("function", "given"), CASES)
def test_a_default_and_the_same_given_run_once(
    app: Bench, function: Callable[..., None], given: Any
) -> None:
    task = app.task(name="t", idempotent=True, pydantic=True)(function)
    key = task.arguments.key
    assert key(*task.arguments.check((1,), {})) == key(
        *task.arguments.check((1,), {"given": given})
    )
    results = [task.delay(1), task.delay(1, given=given)]
    app.work()
    owners = {str(item) for item in map(app.record, results)}
    assert len(owners) == 2  # both have an end of their own
    assert key((1,), {}) != key(*task.arguments.check((2,), {}))


@pytest.mark.parametrize("unique", [True, "u:{n}:{given}"])
@pytest.mark.parametrize(("function", "given"), CASES)
def test_a_default_and_the_same_given_are_queued_once(
    app: Bench, function: Callable[..., None], given: Any, unique: bool | str
) -> None:
    task = app.task(name="t", unique=unique, pydantic=True)(function)
    assert task.delay(1).id == task.delay(1, given=given).id


def test_the_runs_of_equal_calls_are_one(app: Bench) -> None:
    runs: list[float] = []

    @app.task(name="pay", idempotent=True, pydantic=True)
    def pay(n: int, amount: float = 1) -> None:
        runs.append(amount)

    pay.delay(1)
    pay.delay(1, 1)
    pay.delay(1, amount=1.0)
    app.work()
    assert runs == [1]


def test_a_template_reads_a_field_of_a_default(app: Bench) -> None:
    @app.task(name="t", unique="u:{plan.size}")
    def call(plan: Plan = {}) -> None: ...  # type: ignore[assignment]  # noqa: B006

    assert call.delay().id == call.delay({}).id  # type: ignore[arg-type]


def test_a_default_that_its_hint_refuses_stays_as_it_is(app: Bench) -> None:
    @app.task(name="t", unique=True, pydantic=True)
    def call(n: int = "none", plan: Strict = {"size": 1}) -> None: ...  # type: ignore[assignment]  # noqa: B006

    assert call.delay().id == call.delay().id
    assert call.delay(1).id != call.delay().id


def test_a_default_counts_as_it_was_when_the_task_was_made(app: Bench) -> None:
    seen: list[list[int]] = []

    @app.task(name="t", idempotent=True, pydantic=True)
    def call(n: int, items: list[float] = [1]) -> None:  # noqa: B006
        items.append(2)
        seen.append([*map(int, items)])

    call(0)
    call.delay(1)
    call.delay(1, [1.0])
    app.work()
    assert len(seen) == 2  # the plain call, and one of the two


class Right(Flag):
    READ = 1
    WRITE = 2


class Named(Enum):
    A = "a"

    def __str__(self) -> str:
        return "another"


class Pair(Enum):
    BOTH = (1, 2)


class Outer(Enum):
    ONE = Named.A


@pytest.mark.parametrize(
    ("member", "value"),
    [(Right.READ | Right.WRITE, 3), (Named.A, "a"), (Pair.BOTH, [1, 2]), (Outer.ONE, "a")],
    ids=str,
)
def test_an_enum_in_a_template_is_its_value(app: Bench, member: Any, value: Any) -> None:
    @app.task(name="t", unique="u:{n}")
    def call(n: Any) -> None: ...

    assert call.delay(member).id == call.delay(value).id


def test_keys_of_messages_are_those_of_the_value(app: Bench) -> None:
    task = app.task(name="t", group_key="g:{n}:{given}", pydantic=True)(of_float)
    keys = {
        message.group_key
        for message in (
            app.publisher.message_of(task.prepare(1)),
            app.publisher.message_of(task.prepare(1, 1)),
        )
        if isinstance(message, TaskMessage)
    }
    assert keys == {"g:1:1.0"}
