"""Tasks: names, options, checked calls, and what of a call reaches the message."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from pydantic import AfterValidator, BaseModel, Field

from cloudq import (
    CloudQ,
    ConfigurationError,
    EncodeError,
    InvalidArguments,
    State,
    Task,
    chord,
    group,
)
from cloudq.testing import drain
from cloudq.testing.waiting import PATIENCE
from tests.support.bench import Bench


def add(a: int, b: int = 2, *, c: int = 0) -> int:
    return a + b + c


class Color(Enum):
    RED = "red"


class User(BaseModel):
    user_id: int = Field(alias="userId")
    joined: datetime


@dataclass
class Order:
    number: int
    color: Color


class Row(TypedDict):
    count: int


def positive(value: int) -> int:
    if value < 1:
        raise ValueError("must be positive")
    return value


# ---- names


def test_a_task_is_named_by_its_module_and_function(app: Bench) -> None:
    assert app.task(add).name == f"{__name__}.add"


def test_a_task_can_have_a_name_of_its_own(app: Bench) -> None:
    task = app.task(name="shop.add")(add)
    assert app.tasks == {"shop.add": task}
    assert repr(task) == "<Task shop.add>"


def test_two_tasks_of_one_name_are_refused(app: Bench) -> None:
    app.task(name="same")(add)
    with pytest.raises(ConfigurationError, match="two tasks are named 'same'"):
        app.task(name="same")(lambda: None)


def test_the_same_function_may_be_registered_again(app: Bench) -> None:
    app.task(add)
    app.task(max_retries=9)(add)
    assert app.tasks[f"{__name__}.add"].policy.max_retries == 9


@pytest.mark.parametrize("way", ["file", "module"])
def test_a_task_of_the_started_program_has_the_importable_name(tmp_path: Path, way: str) -> None:
    (tmp_path / "shop.py").write_text(
        "from cloudq import CloudQ\n"
        'app = CloudQ(broker="memory://")\n'
        "@app.task\ndef add(): pass\n"
        "print(add.name)\n"
    )
    command = ["shop.py"] if way == "file" else ["-m", "shop"]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "shop.add"


def test_a_task_keeps_the_look_of_its_function(app: Bench) -> None:
    @app.task
    def documented() -> None:
        """Documents itself."""

    assert documented.__doc__ == "Documents itself."
    assert documented.__name__ == "documented"
    assert documented.__module__ == __name__


# ---- options of the task


def test_an_unknown_task_option_is_a_type_error_that_lists_the_known(app: Bench) -> None:
    with pytest.raises(TypeError, match=r"no task option 'max_retry': did you mean max_retries\?$"):
        app.task(max_retry=3)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "name", ["time_limit", "soft_time_limit", "expires", "max_retries", "default_retry_delay"]
)
def test_a_negative_task_option_is_refused(app: Bench, name: str) -> None:
    options: Any = {name: -1}
    with pytest.raises(
        ConfigurationError, match=f"task t: {name} is -1: it must be a .* from 0 on"
    ):
        app.task(name="t", **options)(add)


@pytest.mark.parametrize("soft", [10.0, 11.0])
def test_the_soft_limit_must_be_below_the_hard_one(app: Bench, soft: float) -> None:
    with pytest.raises(ConfigurationError, match="must be below time_limit"):
        app.task(time_limit=10.0, soft_time_limit=soft)(add)


# ---- the call


def test_calling_a_task_runs_it_here(app: Bench) -> None:
    task = app.task(add)
    assert task(1, b=5) == 6
    assert app.left() == 0


def test_calling_a_bound_task_passes_the_task(app: Bench) -> None:
    @app.task(bind=True)
    def bound(self: Task[..., Any], a: int) -> tuple[str, int]:
        return self.name, a

    assert bound(1) == (f"{__name__}.test_calling_a_bound_task_passes_the_task.bound", 1)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, 2, 3), {}),
        ((1,), {"a": 2}),
        ((1,), {"d": 2}),
        ((), {"b": 2}),
    ],
)
def test_a_call_that_does_not_fit_the_signature_sends_nothing(
    app: Bench, args: tuple[Any, ...], kwargs: dict[Any, Any]
) -> None:
    task = app.task(add)
    with pytest.raises(InvalidArguments, match=r"add\(a: .*int.*, b: .*int.* = 2"):
        task.apply_async(args, kwargs)
    assert app.left() == 0
    assert not app.wire.calls["send"]


def test_invalid_arguments_are_a_type_error_as_in_a_plain_call(app: Bench) -> None:
    with pytest.raises(TypeError):
        app.task(add).delay()  # type: ignore[call-arg]


def test_a_missing_keyword_only_argument_is_refused(app: Bench) -> None:
    @app.task
    def only(*, key: int) -> int:
        return key

    with pytest.raises(InvalidArguments, match="missing a required"):
        only.delay()  # type: ignore[call-arg]


def test_the_self_of_a_bound_task_is_not_an_argument(app: Bench) -> None:
    @app.task(bind=True)
    def bound(self: Task[..., Any], a: int) -> int:
        return a

    with pytest.raises(InvalidArguments):
        bound.delay()  # type: ignore[call-arg]
    result = bound.delay(4)
    app.work()
    assert result.get(timeout=0) == 4


def test_plain_hints_are_not_enforced_unless_asked_for(app: Bench) -> None:
    loose = app.task(name="loose")(add)
    strict = app.task(name="strict", pydantic=True)(add)
    loose.apply_async(["x"])
    with pytest.raises(InvalidArguments, match="strict: a: Input should be a valid integer"):
        strict.apply_async(["x"])
    assert [message["task"] for message in app.sent()] == ["loose"]


def test_pydantic_converts_where_it_is_asked_for(app: Bench) -> None:
    app.task(name="strict", pydantic=True)(add).apply_async(["1"], {"c": "3"})
    assert app.work()[0].record is not None
    assert app.record(app.AsyncResult("none")).state is State.PENDING


def test_models_dataclasses_enums_and_typed_dicts_arrive_whole(plain: CloudQ) -> None:
    seen: list[object] = []

    @plain.task
    def take(
        user: User, order: Order, color: Color, row: Row, users: list[User], maybe: User | None
    ) -> Order:
        seen.extend([user, order, color, row, users, maybe])
        return Order(order.number + 1, color)

    user = User(userId=3, joined=datetime(2026, 1, 2, tzinfo=UTC))
    order = Order(7, Color.RED)
    result = take.delay(user, order, Color.RED, {"count": 1}, [user], None)
    drain(plain)
    assert seen == [user, order, Color.RED, {"count": 1}, [user], None]
    assert result.get(timeout=0) == Order(8, Color.RED)


def test_plain_data_is_validated_into_models_at_the_call(app: Bench) -> None:
    @app.task(name="take")
    def take(order: Order) -> None: ...

    take.apply_async([{"number": 1, "color": "red"}])
    with pytest.raises(InvalidArguments, match=r"take: order\.color: Input should be 'red'"):
        take.apply_async([{"number": 1, "color": "blue"}])
    assert len(app.sent()) == 1


def test_annotated_rules_are_checked_at_the_call(app: Bench) -> None:
    @app.task(name="take")
    def take(count: Annotated[int, AfterValidator(positive)]) -> None: ...

    take.delay(1)
    with pytest.raises(InvalidArguments, match="must be positive"):
        take.delay(0)
    assert len(app.sent()) == 1


def test_what_cannot_be_sent_is_refused_at_the_call(app: Bench) -> None:
    task = app.task(add)
    with pytest.raises(EncodeError, match=r"builtins\.object cannot be sent"):
        task.apply_async([object()])
    with pytest.raises(EncodeError):
        task.apply_async(["\ud800"])
    assert not app.wire.calls["send"]


# ---- options of the call


def test_an_unknown_call_option_is_a_type_error(app: Bench) -> None:
    task = app.task(add)
    with pytest.raises(TypeError, match="count_down"):
        task.apply_async([1], count_down=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="count_down"):
        task.options(count_down=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="count_down"):
        app.send_task("add", [1], count_down=3)  # type: ignore[call-arg]
    assert not app.wire.calls["send"]


def test_options_makes_a_copy_and_leaves_the_task(app: Bench) -> None:
    task = app.task(add)
    urgent = task.options(queue="urgent", headers={"a": "1"})
    both = urgent.options(headers={"b": "2"}, task_id="given")
    for each in (task, urgent, both):
        each.delay(1)
    assert [m["queue"] for m in app.sent() + app.sent("urgent")] == ["default", "urgent", "urgent"]
    assert [m.get("headers") for m in app.sent("urgent")] == [{"a": "1"}, {"b": "2"}]
    assert app.sent("urgent")[1]["id"] == "given"
    assert both.name == task.name


def test_apply_async_options_go_over_those_of_options(app: Bench) -> None:
    app.task(add).options(queue="a", task_id="x").apply_async([1], queue="b")
    assert [(m["id"], m["queue"]) for m in app.sent("b")] == [("x", "b")]


def test_the_queue_is_the_calls_the_tasks_or_the_apps(app: Bench) -> None:
    task = app.task(queue="mail")(add)
    task.delay(1)
    task.options(queue="other").delay(1)
    app.task(name="bare")(add).delay(1)
    assert [len(app.sent(name)) for name in ("mail", "other", "default")] == [1, 1, 1]


def test_all_options_reach_the_message(app: Bench) -> None:
    before = time.time()
    app.task(name="t")(add).apply_async(
        [1],
        {"c": 3},
        task_id="given",
        countdown=60.0,
        expires=120.0,
        headers={"tenant": "7"},
        ignore_result=True,
        time_limit=30.0,
        soft_time_limit=20.0,
        group_key="g",
        dedup_key="d",
        idempotency_key="i",
    )
    message = app.sent()[0]
    assert before - 1 <= message.pop("sent_at") <= time.time() + 1
    assert 59 < message.pop("not_before") - before < 70
    assert 119 < message.pop("expires") - before < 130
    assert len(message.pop("call")) == 22
    assert message == {
        "v": 1,
        "id": "given",
        "task": "t",
        "args": [1],
        "kwargs": {"c": 3},
        "queue": "default",
        "headers": {"tenant": "7"},
        "ignore_result": True,
        "time_limit": 30.0,
        "soft_time_limit": 20.0,
        "group_key": "g",
        "dedup_key": "d",
        "idempotency_key": "i",
    }


def test_eta_and_countdown_delay_the_message(app: Bench) -> None:
    task = app.task(add)
    at = datetime.now(UTC) + timedelta(hours=1)
    task.apply_async([1], eta=at)
    task.apply_async([1], countdown=3600.0)
    assert app.receive() == []
    assert app.sent()[0]["not_before"] == at.timestamp()
    app.clock.ahead = 3601.0
    assert len(app.receive()) == 2


def test_an_eta_in_the_past_and_no_countdown_are_due_now(app: Bench) -> None:
    task = app.task(add)
    task.apply_async([1], eta=datetime.now(UTC) - timedelta(days=1))
    task.apply_async([1], countdown=0)
    assert len(app.work()) == 2
    assert app.left() == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"countdown": 1, "eta": datetime(2030, 1, 1, tzinfo=UTC)},
            "countdown and eta exclude each other",
        ),
        ({"countdown": -1}, "countdown is -1"),
        ({"countdown": float("nan")}, "countdown is nan"),
        ({"countdown": float("inf")}, "countdown is inf"),
        ({"countdown": 1e15}, "countdown is 1000000000000000.0: that is more than a century"),
        ({"time_limit": -1}, "time_limit is -1"),
        ({"time_limit": 0}, "time_limit: Input should be greater than 0"),
        ({"soft_time_limit": 0}, "soft_time_limit: "),
        ({"expires": float("nan")}, "expires is nan"),
        ({"expires": float("inf")}, "expires is inf"),
        ({"expires": -1.0}, "expires is -1.0: it must be a number of seconds from 0 on"),
        ({"countdown": "5"}, "countdown is '5': it must be a number of seconds"),
        ({"eta": "soon"}, "eta is 'soon': it must be a datetime, or use countdown"),
        ({"queue": ""}, "queue is empty"),
        ({"task_id": ""}, "task_id is empty"),
        ({"expires": 1e15}, "expires is 1000000000000000.0: that is more than a century"),
        ({"headers": {"a": 1}}, "headers.a: "),
        ({"task_id": 5}, "task_id is 5: give a text"),
        ({"task_id": "x" * 256}, "id: "),
        ({"idempotency_key": 5}, "idempotency_key is 5: give a text"),
        ({"group_key": 5}, "group_key is 5: give a text"),
        ({"queue": ["a"]}, "queue is ..a..: give a text"),
        ({"countdown": datetime(2030, 1, 1, tzinfo=UTC)}, "countdown is datetime"),
    ],
    ids=str,
)
def test_impossible_call_options_send_nothing(
    app: Bench, options: dict[str, Any], reason: str
) -> None:
    task = app.task(add)
    with pytest.raises(InvalidArguments, match=reason):
        task.apply_async([1], **options)
    assert not app.wire.calls["send"]


def test_expires_is_seconds_or_a_time(app: Bench) -> None:
    task = app.task(add)
    for expires in (60.0, datetime.now(UTC) + timedelta(seconds=60)):
        task.apply_async([1], expires=expires)
    for message in app.sent():
        assert message["expires"] == pytest.approx(time.time() + 60, abs=30)


def test_the_task_says_when_calls_expire_unless_the_call_does(app: Bench) -> None:
    task = app.task(expires=1000.0)(add)
    task.delay(1)
    task.apply_async([1], expires=10.0)
    left = [message["expires"] - time.time() for message in app.sent()]
    assert left == [pytest.approx(1000, abs=30), pytest.approx(10, abs=30)]


# ---- what a task knows of its own call


def test_a_bound_task_sees_its_request(app: Bench) -> None:
    requests: list[Any] = []

    @app.task(name="t", bind=True, time_limit=50.0)
    def bound(self: Task[..., Any], a: int, b: int = 0) -> None:
        requests.append(self.request)

    bound.apply_async([1], {"b": 2}, task_id="given", headers={"h": "1"}, soft_time_limit=9.0)
    app.work()
    request = requests[0]
    assert (request.id, request.task, request.queue) == ("given", "t", "default")
    assert (list(request.args), dict(request.kwargs)) == ([1], {"b": 2})
    assert (request.retries, request.attempts, request.is_eager) == (0, 1, False)
    assert (request.root_id, request.parent_id) == ("given", None)
    assert (request.time_limit, request.soft_time_limit) == (50.0, 9.0)
    assert request.headers == {"h": "1"}
    assert request.hostname == "bench"


def test_outside_of_a_task_the_request_says_so(app: Bench) -> None:
    request = app.task(add).request
    assert (request.called_directly, request.id) == (True, "")


def test_a_task_sent_by_a_task_knows_its_parent_and_root(app: Bench) -> None:
    seen: dict[str, tuple[str | None, str | None]] = {}

    @app.task(name="t", bind=True)
    def chained(self: Task[..., Any], depth: int) -> None:
        seen[self.request.id] = (self.request.root_id, self.request.parent_id)
        if depth:
            chained.apply_async([depth - 1], task_id=f"level-{depth - 1}")

    chained.apply_async([2], task_id="level-2")
    app.work()
    assert seen == {
        "level-2": ("level-2", None),
        "level-1": ("level-2", "level-2"),
        "level-0": ("level-2", "level-1"),
    }


# ---- send_task, asyncio


def test_send_task_needs_no_registered_task(app: Bench) -> None:
    result = app.send_task("other.service.add", [1], {"b": 2}, queue="theirs", task_id="x")
    assert result.id == "x"
    message = app.sent("theirs")[0]
    assert (message["task"], message["args"], message["kwargs"]) == (
        "other.service.add",
        [1],
        {"b": 2},
    )


def test_send_task_checks_the_arguments_of_a_task_it_knows(app: Bench) -> None:
    app.task(name="add", queue="sums")(add)
    app.send_task("add", [1])
    assert len(app.sent("sums")) == 1
    with pytest.raises(InvalidArguments):
        app.send_task("add", [])


def test_adelay_and_await_in_asyncio(plain: CloudQ) -> None:
    task = plain.task(name="add")(add)

    async def main() -> int:
        result = await task.adelay(1, c=5)
        await asyncio.to_thread(drain, plain)
        return await result

    assert asyncio.run(main()) == 8


def test_workflows_are_sent_and_awaited_in_asyncio(plain: CloudQ) -> None:
    task = plain.task(name="add")(add)

    async def main() -> list[Any]:
        sums = await group(task.s(n, c=1) for n in range(3)).adelay()
        nested = await group(task.s(1), task.s(2) | group(task.s(3), task.s(4))).adelay()
        single, empty = await task.s(1).adelay(), await group().adelay()
        joined = await chord([task.s(1), task.s(2)], plain.signature("total")).adelay()
        await asyncio.to_thread(drain, plain)
        return [await each for each in (sums, nested, single, empty, joined)]

    plain.task(name="total")(lambda values: sum(values))
    sums, nested, single, empty, joined = asyncio.run(main())
    assert sums == [add(n, c=1) for n in range(3)]
    assert nested == [add(1), [add(add(2), 3), add(add(2), 4)]]
    assert (single, empty, joined) == (add(1), [], add(1) + add(2))


def test_a_group_is_awaited_to_its_end_and_raises_its_first_failure(plain: CloudQ) -> None:
    @plain.task(name="odd")
    def odd(n: int) -> int:
        if n % 2:
            raise ValueError(n)
        return n

    async def main() -> None:
        result = await group(odd.s(n) for n in range(4)).adelay()
        waits = asyncio.create_task(_value(result))
        await asyncio.to_thread(drain, plain)
        with pytest.raises(ValueError, match="1"):
            await asyncio.wait_for(waits, PATIENCE)
        assert result.ready()

    asyncio.run(main())


async def _value(result: Any) -> Any:
    return await result


def test_an_async_task_runs_in_a_worker(app: Bench) -> None:
    @app.task(name="t", bind=True)
    async def double(self: Task[..., Any], a: int) -> tuple[int, str]:
        await asyncio.sleep(0)
        return a * 2, self.request.id

    result = double.apply_async([4], task_id="given")
    app.work()
    assert result.get(timeout=0) == [8, "given"]


def test_a_message_names_no_default_twice(app: Bench) -> None:
    app.task(name="t")(add).apply_async([1], task_id="x")
    message = app.sent()[0]
    assert len(message.pop("call")) == 22  # since the id was given
    assert set(message) == {"v", "id", "task", "args", "queue", "sent_at"}
    assert len(json.dumps(message)) < 120


class Strange:
    pass


def test_a_model_in_a_hint_that_cannot_be_checked_is_said_so(app: Bench) -> None:
    @app.task(name="take")
    def take(a: dict[Strange, User]) -> None: ...

    with pytest.raises(
        ConfigurationError, match="take: pydantic cannot check the type hint of 'a'"
    ):
        take.delay({})


def test_strange_hints_without_a_model_are_nobodys_business(app: Bench) -> None:
    @app.task(name="take")
    def take(a: Strange | None = None) -> None: ...

    take.delay(None)
    assert [s.state for s in app.work()] == [State.SUCCESS]


def test_an_unknown_option_names_the_one_that_was_meant(app: Bench) -> None:
    task = app.task(add)
    options: Any = {"count_down": 5}
    for call in (
        lambda: task.apply_async([1], **options),
        lambda: task.options(**options),
        lambda: app.send_task("elsewhere.task", **options),
    ):
        with pytest.raises(TypeError, match=r"'count_down': did you mean countdown\?"):
            call()


class NotATask:
    """A class with a task's attributes at most by chance."""


@pytest.mark.parametrize("base", [NotATask, NotATask(), int, "Task"])
def test_a_base_that_is_no_task_is_refused_with_advice(base: Any) -> None:
    app = CloudQ("x", broker="memory://x")
    advice = r"task odd: base is .*: derive it from cloudq\.Task, or leave base out"
    with pytest.raises(ConfigurationError, match=advice):
        app.task(name="odd", base=base)(len)
    assert "odd" not in app.tasks
