"""Azure Functions: what is registered, and how each message and each firing ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import azure.functions as func
import pytest

from cloudq import CloudQ
from cloudq.errors import ConfigurationError, InvalidArguments, Reject
from cloudq.execution.invocation import NotSettled
from cloudq.messages.message import TaskMessage
from cloudq.results.record import State
from cloudq.testing.waiting import PATIENCE, outgoing
from cloudq_azure import Timer, register
from tests.functions.azure.azure_host import QueueHost, binding, fire, functions

DAY = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)


@pytest.fixture
def ran() -> list[int]:
    return []


@pytest.fixture
def tasks(app: CloudQ, ran: list[int]) -> CloudQ:
    """The app with tasks that end in every way."""

    @app.task(name="double")
    def double(x: int) -> int:
        ran.append(x)
        return 2 * x

    @app.task(name="shaky", bind=True, max_retries=2)
    def shaky(self) -> int:  # type: ignore[no-untyped-def]
        ran.append(self.request.retries)
        if self.request.retries < 2:
            raise self.retry()
        return self.request.retries

    @app.task(name="busy", bind=True)
    def busy(self) -> None:  # type: ignore[no-untyped-def]
        ran.append(-self.request.attempts)
        raise Reject("busy", requeue=True)

    @app.task(name="broken", max_retries=0)
    def broken() -> None:
        raise ValueError("no")

    return app


@pytest.fixture
def host(tasks: CloudQ, make_app: Callable[..., CloudQ]) -> Callable[..., QueueHost]:
    """Registers the app and gives the host of its queue, which has a connection of its own."""

    def make(*, lock: float = 60.0, **options: Any) -> QueueHost:
        function_app = func.FunctionApp()
        register(function_app, tasks, queues=["orders"], **options)
        (function,) = functions(function_app).values()
        return QueueHost(function, make_app().broker, lock=lock)

    return make


def waiting(host: QueueHost) -> tuple[int | None, int | None, int | None]:
    stats = host.broker.admin.stats("orders")
    return stats.ready, stats.delayed, stats.leased


# ---- what is registered


def test_each_queue_has_a_function_and_each_timer(app: CloudQ) -> None:
    app.task(name="mail", queue="mail.fifo")(lambda: None)
    function_app = func.FunctionApp()
    register(
        function_app,
        app,
        connection="Bus",
        timers={"nightly": ("0 0 3 * * *", "mail"), "set": Timer(schedule="%WHEN%", task="mail")},
    )
    found = functions(function_app)
    assert {name: binding(function) for name, function in found.items()} == {
        "cloudq_orders": {
            "type": "serviceBusTrigger",
            "direction": "IN",
            "name": "message",
            "queueName": "orders",
            "connection": "Bus",
            "cardinality": "ONE",
            "dataType": "BINARY",
        },
        "cloudq_mail_fifo": {
            "type": "serviceBusTrigger",
            "direction": "IN",
            "name": "message",
            "queueName": "mail.fifo",
            "connection": "Bus",
            "cardinality": "ONE",
            "dataType": "BINARY",
            "isSessionsEnabled": True,
        },
        "cloudq_nightly": {
            "type": "timerTrigger",
            "direction": "IN",
            "name": "timer",
            "schedule": "0 0 3 * * *",
        },
        "cloudq_set": {
            "type": "timerTrigger",
            "direction": "IN",
            "name": "timer",
            "schedule": "%WHEN%",
        },
    }
    retry = found["cloudq_nightly"].get_settings_dict("retry_policy")
    assert (retry["strategy"], retry["max_retry_count"]) == ("fixed_delay", "10")


def test_a_prefix_stands_before_the_queues_of_the_namespace(app: CloudQ) -> None:
    app.configure(broker="servicebus://ns?prefix=shop-")
    function_app = func.FunctionApp()
    register(function_app, app)
    assert binding(functions(function_app)["cloudq_orders"])["queueName"] == "shop-orders"


def test_many_is_another_binding(app: CloudQ) -> None:
    function_app = func.FunctionApp()
    register(function_app, app, cardinality="many")
    found = binding(functions(function_app)["cloudq_orders"])
    assert (found["cardinality"], found["name"]) == ("MANY", "messages")


def test_a_blueprint_is_taken_too(app: CloudQ) -> None:
    blueprint = func.Blueprint()
    register(blueprint, app)
    function_app = func.FunctionApp()
    function_app.register_functions(blueprint)
    assert list(functions(function_app)) == ["cloudq_orders"]


def test_the_apps_own_functions_stay(app: CloudQ) -> None:
    function_app = func.FunctionApp()

    @function_app.timer_trigger(arg_name="timer", schedule="0 * * * * *")
    def own(timer: func.TimerRequest) -> None:
        return

    register(function_app, app)
    assert list(functions(function_app)) == ["own", "cloudq_orders"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cardinality": "few"}, "cardinality='few'"),
        ({"timeout": 0}, "timeout=0"),
        ({"reserve": -1}, "reserve=-1"),
        ({"queues": ["a.b", "a_b"]}, "two functions would be named cloudq_a_b"),
        ({"queues": ["a"], "timers": {"a": ("0 0 3 * * *", "t")}}, "would be named cloudq_a"),
        ({"queues": ["a.fifo"], "cardinality": "many"}, "has sessions, and a batch has one answer"),
        ({"timers": {"n": ("0 3 * * *", "t")}}, "has not the six fields of Azure's cron"),
    ],
)
def test_what_cannot_be_is_said_at_once(app: CloudQ, options: dict[str, Any], why: str) -> None:
    function_app = func.FunctionApp()
    with pytest.raises(ConfigurationError, match=why):
        register(function_app, app, **options)
    assert functions(function_app) == {}


def test_the_driver_needs_no_functions_to_be_imported() -> None:
    code = "import sys, cloudq_azure; assert 'azure.functions' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


# ---- one message


def test_what_returned_is_completed(
    tasks: CloudQ, host: Callable[..., QueueHost], ran: list[int]
) -> None:
    result = tasks.send_task("double", (21,))
    one = host()
    one.pump()
    assert one.error is None
    assert result.get(timeout=1) == 42
    assert waiting(one) == (0, 0, 0)


def test_a_retry_is_a_copy_and_its_message_completed(
    tasks: CloudQ, host: Callable[..., QueueHost], ran: list[int]
) -> None:
    result, one = tasks.send_task("shaky"), host()
    for _ in range(3):
        one.pump()
        assert one.error is None
    assert (result.get(timeout=1), ran) == (2, [0, 1, 2])
    assert waiting(one) == (0, 0, 0)


def test_a_failure_for_good_is_completed(tasks: CloudQ, host: Callable[..., QueueHost]) -> None:
    result, one = tasks.send_task("broken"), host()
    one.pump()
    assert one.error is None
    assert result.state is State.FAILURE


def test_what_is_put_back_is_abandoned(
    tasks: CloudQ, host: Callable[..., QueueHost], ran: list[int]
) -> None:
    tasks.send_task("busy")
    one = host()
    (first,) = one.pump()
    assert isinstance(one.error, NotSettled)
    assert "comes back: busy" in str(one.error)
    (second,) = one.pump()
    assert (first.id, first.attempts, second.attempts) == (second.id, 1, 2)
    assert ran == [-1, -2]


def test_a_redelivery_of_what_is_done_does_not_run(
    tasks: CloudQ, host: Callable[..., QueueHost], ran: list[int]
) -> None:
    queue = tasks.conf.task_default_queue
    message = TaskMessage(id="same", task="double", args=[1], queue=queue)
    tasks.broker.send([message])
    one = host()
    one.pump()
    tasks.broker.send([message])
    one.pump()
    assert one.error is None
    assert ran == [1]


@pytest.mark.parametrize("cardinality", ["one", "many"])
def test_the_calls_of_a_bundle_end_each_in_its_own_way(
    tasks: CloudQ, host: Callable[..., QueueHost], cardinality: str
) -> None:
    names = {"double": (21,), "shaky": (), "broken": ()}
    calls = [tasks.tasks[name].prepare(*args) for name, args in names.items()]
    double, shaky, broken = tasks.publish(calls, bundle=3)
    one = host(cardinality=cardinality)
    for _ in range(3):
        one.pump()
        assert one.error is None
    assert double.get(timeout=1) == 42
    assert shaky.get(timeout=1) == 2
    assert broken.state is State.FAILURE
    assert waiting(one) == (0, 0, 0)


@pytest.mark.parametrize("cardinality", ["one", "many"])
def test_what_is_put_back_of_a_bundle_comes_without_the_rest(
    tasks: CloudQ, host: Callable[..., QueueHost], ran: list[int], cardinality: str
) -> None:
    calls = [tasks.tasks["double"].prepare(1), tasks.tasks["busy"].prepare()]
    tasks.publish(calls, bundle=2)
    one = host(cardinality=cardinality)
    one.pump()
    assert one.error is None
    one.pump()
    assert ran == [1, -1, -2], "a copy says how often its call came before"


def test_a_bundle_of_which_all_come_back_counts_its_deliveries(
    tasks: CloudQ, host: Callable[..., QueueHost], ran: list[int]
) -> None:
    """In a batch of many each comes as a copy, which says how often it came before."""
    tasks.publish([tasks.tasks["busy"].prepare() for _ in range(2)], bundle=2)
    many = host(cardinality="many")
    many.pump()
    many.pump()
    many.pump()
    assert many.error is None
    assert ran == [-1, -1, -2, -2]


def test_a_task_is_interrupted_before_the_host_gives_up(
    tasks: CloudQ, host: Callable[..., QueueHost]
) -> None:
    @tasks.task(name="slow")
    def slow() -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(0.01)

    tasks.send_task("slow")
    one, started = host(timeout=1.0), time.monotonic()
    one.pump()
    assert time.monotonic() - started < PATIENCE, "left to itself it takes as long"
    assert "interrupted" in str(one.error)


def test_a_store_that_is_down_leaves_the_message(make_app: Callable[..., CloudQ]) -> None:
    down = make_app(backend="dynamodb://cloudq?endpoint_url=http://127.0.0.1:1")
    down.task(name="work")(lambda: None)
    function_app = func.FunctionApp()
    register(function_app, down)
    one = QueueHost(functions(function_app)["cloudq_orders"], make_app().broker)
    make_app().send_task("work")
    one.pump()
    assert isinstance(one.error, NotSettled)
    assert waiting(one) == (1, 0, 0)


def test_a_retry_in_a_session_stays_in_its_place(
    tasks: CloudQ, make_app: Callable[..., CloudQ], ran: list[int]
) -> None:
    function_app = func.FunctionApp()
    register(function_app, tasks, queues=["orders.fifo"])
    one = QueueHost(functions(function_app)["cloudq_orders_fifo"], make_app().broker)
    first = tasks.send_task("shaky", queue="orders.fifo", group_key="customer")
    second = tasks.send_task("double", (7,), queue="orders.fifo", group_key="customer")
    for error in (NotSettled, NotSettled, type(None), type(None)):
        one.pump()
        assert isinstance(one.error, error)
    assert ran == [0, 1, 2, 7]
    assert (first.get(timeout=1), second.get(timeout=1)) == (2, 14)


# ---- many messages


def test_one_that_stays_costs_its_neighbours_nothing(
    tasks: CloudQ, host: Callable[..., QueueHost], ran: list[int]
) -> None:
    results = [tasks.send_task("double", (x,)) for x in range(1, 5)]
    back = tasks.send_task("busy")
    tasks.send_task("shaky")
    many = host(cardinality="many")
    many.pump(6)
    assert many.error is None, "the batch is completed"
    assert [result.get(timeout=1) for result in results] == [2, 4, 6, 8]
    assert sorted(ran) == [-1, 0, 1, 2, 3, 4]
    assert back.state is State.PENDING
    ready, delayed, leased = waiting(many)
    assert ((ready or 0) + (delayed or 0), leased) == (2, 0), "a copy and a retry"
    many.pump(2)
    assert sorted(ran) == [-2, -1, 0, 1, 1, 2, 3, 4], "nobody ran twice for another's sake"


def test_a_batch_ends_before_its_locks_do(
    tasks: CloudQ, host: Callable[..., QueueHost], ran: list[int]
) -> None:
    @tasks.task(name="slow")
    def slow() -> None:
        ran.append(0)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(0.01)

    result = tasks.send_task("double", (1,))
    tasks.send_task("slow")
    many, started = host(cardinality="many", lock=2.0, timeout=300), time.monotonic()
    many.pump(2)
    assert time.monotonic() - started < PATIENCE, "left to itself it takes as long"
    assert many.error is None
    assert (ran, result.get(timeout=1)) == ([1, 0], 2)
    assert waiting(many) == (1, 0, 0), "the slow one has a copy"


def test_when_one_cannot_be_copied_all_come_back_and_what_is_done_is_known(
    tasks: CloudQ, host: Callable[..., QueueHost], ran: list[int]
) -> None:
    tasks.send_task("double", (1,))
    tasks.broker.driver.send("orders", [outgoing(body=b"{poison")])
    many = host(cardinality="many")
    for _ in range(2):  # this broker cannot bury what it has not received itself
        many.pump(2)
        assert isinstance(many.error, NotSettled)
        assert str(many.error).startswith("all 2 messages come back: ")
        assert waiting(many) == (2, 0, 0)
    assert ran == [1], "what was done did not run again"


# ---- timers


def timer(app: CloudQ, plan: Timer | tuple[str, str]) -> Any:
    function_app = func.FunctionApp()
    register(function_app, app, queues=[], timers={"nightly": plan})
    (function,) = functions(function_app).values()
    return function


def queued(app: CloudQ, queue: str = "orders") -> list[str]:
    found = app.broker.admin.peek(queue, count=10)
    return [message.id for message in found]


def test_a_firing_sends_its_task(tasks: CloudQ, host: Callable[..., QueueHost]) -> None:
    plan = Timer(schedule="0 0 3 * * *", task="double", args=[4])
    fire(timer(tasks, plan), due=DAY)
    (id,) = queued(tasks)
    host().pump()
    assert tasks.AsyncResult(id).get(timeout=1) == 8


def test_a_firing_that_comes_twice_is_one_task(tasks: CloudQ) -> None:
    function = timer(tasks, ("0 0 3 * * *", "double"))
    tasks.tasks.pop("double")  # its arguments are not of interest
    fire(function, due=DAY)
    fire(function, due=DAY, past_due=True)
    fire(function, due=DAY + timedelta(days=1))
    assert len(queued(tasks)) == len(set(queued(tasks))) == 2


def test_without_a_store_a_second_firing_has_the_same_id(make_app: Callable[..., CloudQ]) -> None:
    app = make_app(backend="none")
    function = timer(app, ("0 0 3 * * *", "double"))
    fire(function, due=DAY)
    fire(function, due=DAY)
    assert len(set(queued(app))) == 1


def test_a_firing_whose_task_cannot_be_sent_raises_and_is_tried_again(tasks: CloudQ) -> None:
    plan = Timer(schedule="0 0 3 * * *", task="double", args=[1, 2])
    with pytest.raises(InvalidArguments, match="double"):
        fire(timer(tasks, plan), due=DAY)
    fire(timer(tasks, Timer(schedule="0 0 3 * * *", task="double", args=[1])), due=DAY)
    assert len(queued(tasks)) == 1


def test_what_is_past_due_runs_unless_it_must_not(
    tasks: CloudQ, caplog: pytest.LogCaptureFixture
) -> None:
    plan = Timer(schedule="0 0 3 * * *", task="double", args=[1], queue="late", late=False)
    fire(timer(tasks, plan), due=DAY, past_due=True)
    assert queued(tasks, "late") == []
    assert "past due is left out" in caplog.text
    fire(timer(tasks, plan), due=DAY)
    assert len(queued(tasks, "late")) == 1


def test_a_firing_by_hand_or_without_a_monitor_runs_each_time(tasks: CloudQ) -> None:
    function = timer(tasks, Timer(schedule="*/5 * * * * *", task="double", args=[1]))
    fire(function)
    fire(function)
    fire(function, due=datetime.now(UTC) + timedelta(hours=1))
    assert len(set(queued(tasks))) == 3


def test_a_time_in_any_zone_is_the_same_firing(tasks: CloudQ) -> None:
    function = timer(tasks, Timer(schedule="0 0 3 * * *", task="double", args=[1]))
    fire(function, due=DAY)
    fire(function, due=datetime.fromisoformat("2026-03-01T05:00:00+02:00"))
    assert len(queued(tasks)) == 1
