"""`group_key=` and `dedup_key=` of a task: templates and functions over its calls' arguments."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from cloudq import ChordError, ConfigurationError, InvalidArguments, Task, chord, group
from cloudq.app import CloudQ
from tests.support.bench import Bench


class Order(BaseModel):
    """An argument that is no plain value."""

    customer: int


def ship(order_id: int, customer: str = "nobody") -> str:
    return f"{order_id} {customer}"


def pack(order: Order) -> int:
    return order.customer


def total(values: list[Any], name: str) -> list[Any]:
    return values


def body(values: list[Any]) -> list[Any]:
    return values


def keys(app: Bench, queue: str = "default") -> list[tuple[Any, Any]]:
    return [(body.get("group_key"), body.get("dedup_key")) for body in app.sent(queue)]


def test_templates_name_arguments_however_they_are_given(app: Bench) -> None:
    task = app.task(name="ship", group_key="customer:{customer}", dedup_key="{order_id}")(ship)
    task.delay(1, "ann")
    task.apply_async(kwargs={"customer": "bob", "order_id": 2})
    task.delay(3)
    app.send_task("ship", [4, "eve"])
    app.publish([task.prepare(5, "pat")])
    assert keys(app) == [
        ("customer:ann", "1"),
        ("customer:bob", "2"),
        ("customer:nobody", "3"),
        ("customer:eve", "4"),
        ("customer:pat", "5"),
    ]


def test_a_function_makes_a_key_and_a_call_brings_its_own(app: Bench) -> None:
    def by_customer(order_id: int, customer: str = "nobody") -> str:
        return customer.upper()

    task = app.task(name="ship", group_key=by_customer, dedup_key="{order_id}")(ship)
    task.delay(1, "ann")
    task.apply_async((2, "bob"), group_key="mine")
    task.options(dedup_key="once").delay(3, "eve")
    assert keys(app) == [("ANN", "1"), ("mine", "2"), ("EVE", "once")]


def test_models_are_looked_into(app: Bench) -> None:
    task = app.task(name="pack", group_key="{order.customer}")(pack)
    task.delay(Order(customer=7))
    (task.s({"customer": 8}) | app.task(name="next")(print).s()).delay()
    assert [group for group, _ in keys(app)] == ["7", "8"]


def test_calls_of_a_group_run_in_order_one_after_the_other(app: Bench) -> None:
    task = app.task(name="ship", group_key="{customer}")(ship)
    for number in range(3):
        task.delay(number, "ann")
    first = app.receive(10)
    assert len(first) == 1  # those behind it wait for it
    assert first[0].group == "ann"


def test_a_retry_keeps_its_place(app: Bench) -> None:
    seen: list[int] = []

    @app.task(name="flaky", group_key="{customer}", autoretry_for=[ValueError], max_retries=1)
    def flaky(number: int, customer: str) -> None:
        seen.append(number)
        if seen == [1]:
            raise ValueError("again")

    flaky.delay(1, "ann")
    flaky.delay(2, "ann")
    app.work()
    assert seen == [1, 1, 2]


def test_steps_of_workflows_have_their_group_and_no_dedup_key(app: Bench) -> None:
    task = app.task(name="ship", group_key="{customer}", dedup_key="{order_id}")(ship)
    add = app.task(name="total", group_key="sum:{name}")(total)
    one = app.task(name="one")(lambda: 1)
    (one.s() | task.s("late")).delay()
    app.step()
    assert keys(app) == [("late", None)]
    app.work()
    result = chord([task.s(1, "ann"), task.s(1, "bob")], add.s("x")).delay()
    assert keys(app) == [("ann", None), ("bob", None)]
    app.step()
    app.step()
    assert keys(app) == [("sum:x", None)]
    app.work()
    assert result.get(timeout=0) == ["1 ann", "1 bob"]
    named = [body["args"] for body in app.sent()]
    assert named == []


def test_a_step_whose_arguments_do_not_fit_fails_by_itself(app: Bench) -> None:
    task = app.task(name="pack", group_key="{order.customer}")(pack)
    wrong = app.task(name="wrong")(lambda: 5)
    result = (wrong.s() | task.s()).delay()
    app.work()
    assert isinstance(result.get(timeout=0, propagate=False), InvalidArguments)


def test_a_body_cannot_have_a_key_of_values_that_are_not_read_yet(app: Bench) -> None:
    member = app.task(name="member")(lambda: 1)
    ends = app.task(name="body", group_key="{values}")(body)
    result = chord(group(member.s()), ends.s()).delay()
    app.work()
    with pytest.raises(ChordError, match="read when its body runs"):
        result.get(timeout=0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"group_key": "{customer}:{shop}"}, "group_key is .* no parameter 'shop'"),
        ({"dedup_key": "{0}"}, "dedup_key is '{0}'"),
        ({"group_key": "{customer"}, "group_key is '{customer'"),
        ({"group_key": ""}, "group_key is ''"),
        ({"dedup_key": 5}, "dedup_key is 5: it must be a key like"),
        ({"group_key": True}, "group_key is True"),
    ],
)
def test_keys_that_cannot_be_are_refused_at_the_decorator(
    app: Bench, options: Any, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        app.task(name="ship", **options)(ship)
    app.task(name="annotated")(ship)
    with pytest.raises(ConfigurationError, match=reason):
        app.config_from_object({"task_annotations": {"annotated": options}})


def test_arguments_that_make_no_key_are_refused_at_the_call(app: Bench) -> None:
    task = app.task(name="ship", group_key="{customer}", dedup_key="{order_id.number}")(ship)
    with pytest.raises(InvalidArguments, match=r"ship: group_key: the key .* is empty"):
        task.delay(1, "")
    with pytest.raises(InvalidArguments, match=r"ship: dedup_key: .* AttributeError"):
        task.delay(1, "ann")
    assert app.sent() == []


def test_a_queue_that_keeps_no_order_refuses_the_task_s_key() -> None:
    with CloudQ("plain", broker="sqs://eu-west-1?endpoint_url=http://127.0.0.1:1") as app:
        task = app.task(name="ship", group_key="{customer}")(ship)
        with pytest.raises(ConfigurationError, match="keeps no order, so group_key"):
            task.delay(1, "ann")


def test_a_class_gives_its_tasks_a_key(app: Bench) -> None:
    class Ordered(Task[..., Any]):
        group_key = "{customer}"

    app.task(name="ship", base=Ordered)(ship).delay(1, "ann")
    assert keys(app) == [("ann", None)]
