"""The queues of an app: whatever calls go to is served by every platform and in every plan."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import azure.functions as func
import pytest

from cloudq import CloudQ, crontab
from cloudq.driver import Delivery
from cloudq.errors import DecodeError
from cloudq.tasks.request import current_request
from cloudq_aws import lambda_handler
from cloudq_azure import Timer, register
from cloudq_deploy.aws import planner as on_aws
from cloudq_deploy.aws.options import AwsOptions
from cloudq_deploy.azure import planner as on_azure
from cloudq_deploy.azure.options import AzureOptions
from cloudq_deploy.google import planner as on_google
from cloudq_deploy.google.options import GoogleOptions
from cloudq_gcp import PushEndpoint
from tests.functions.azure.azure_host import QueueHost, binding, functions

QUEUES = [
    "default",
    "archive",
    "mail",
    "media",
    "nightly",
    "orders-high",
    "orders",
    "orders-low",
    "parcels-high.fifo",
    "parcels.fifo",
    "parcels-low.fifo",
    "reports",
]
LIMITS = {"shop.mail.send": 40, "shop.order": 60, "shop.parcel": 80}


def by_argument(
    name: str, args: Sequence[Any], kwargs: Any, options: Any, task: object = None
) -> dict[str, str] | None:
    """A route that only a call's arguments decide."""
    return {"queue": "archive"} if list(args) == ["old"] else None


@pytest.fixture
def ran() -> list[str]:
    """The queue of each call that was run."""
    return []


@pytest.fixture
def shop(make_app: Callable[..., CloudQ], ran: list[str]) -> CloudQ:
    """An app that names queues in every way there is."""
    at_three = {"task": "shop.plain", "schedule": crontab("0 3 * * *")}
    app = make_app(
        task_default_queue="default",
        priority_queues=["orders", "parcels.fifo"],
        task_routes=[
            by_argument,
            {"shop.mail.*": "mail"},
            [(re.compile(r".*\.video"), {"queue": "media"})],
        ],
        beat_schedule={"night": {**at_three, "options": {"queue": "nightly"}}},
    )

    def note(which: str = "") -> None:
        request = current_request.get()
        assert request is not None
        ran.append(request.queue)

    app.task(name="shop.mail.send", time_limit=LIMITS["shop.mail.send"])(note)
    app.task(name="shop.video")(note)
    app.task(name="shop.order", queue="orders", time_limit=LIMITS["shop.order"])(note)
    app.task(
        name="shop.parcel", queue="parcels.fifo", group_key="one", time_limit=LIMITS["shop.parcel"]
    )(note)
    plain = app.task(name="shop.plain")(note)
    app.periodic(crontab("0 6 * * *"), name="morning", queue="reports")(plain)
    app.periodic(crontab("0 9 * * 1"), name="weekly", args=["old"])(plain)
    return app


def send_to_each(app: CloudQ) -> None:
    """Make a call that goes to each of the queues, by itself."""
    for name in ("shop.plain", "shop.mail.send", "shop.video", "shop.order", "shop.parcel"):
        app.send_task(name)
    for name in ("shop.order", "shop.parcel"):
        app.send_task(name, priority=9)
        app.send_task(name, priority=0)
    for schedule in ("night", "morning", "weekly"):
        app.schedules.run_now(schedule)


def taken(app: CloudQ, queue: str) -> Delivery:
    """The one message of a queue."""
    (delivery,) = app.broker.receive(queue, count=1, wait=0.0, lease=60.0)
    return delivery


def test_the_app_names_its_queues_and_those_of_a_task(shop: CloudQ) -> None:
    assert shop.queues() == QUEUES
    plain = ["default", "archive", "mail", "media", "nightly", "orders", "parcels.fifo", "reports"]
    assert shop.queues(priorities=False) == plain
    assert shop.queues("shop.order") == ["orders-high", "orders", "orders-low"]
    assert shop.queues("shop.order", priorities=False) == ["orders"]
    assert shop.queues("shop.plain") == ["default", "archive", "nightly", "reports"]
    assert shop.queues("shop.mail.of_another_program") == ["mail"]


def test_a_schedule_of_an_unknown_task_has_its_queue(make_app: Callable[..., CloudQ]) -> None:
    entry = {"task": "elsewhere", "schedule": 60, "options": {"queue": "theirs"}}
    assert make_app(beat_schedule={"far": entry}).queues() == ["orders", "theirs"]


def test_azure_has_a_trigger_for_each_queue_and_it_runs_the_call(
    shop: CloudQ, ran: list[str]
) -> None:
    function_app = func.FunctionApp()
    register(function_app, shop)
    found = list(functions(function_app).values())
    assert [binding(function)["queueName"] for function in found] == QUEUES
    ordered = [queue for queue in QUEUES if queue.endswith(".fifo")]
    assert [
        binding(each)["queueName"] for each in found if binding(each).get("isSessionsEnabled")
    ] == ordered
    send_to_each(shop)
    for function in found:
        host = QueueHost(function, shop.broker)
        host.pump()
        assert host.error is None
    assert ran == QUEUES


def test_azure_has_triggers_for_the_queue_of_a_timer(shop: CloudQ) -> None:
    function_app = func.FunctionApp()
    timer = Timer(schedule="0 0 3 * * *", task="shop.plain", queue="timed")
    register(function_app, shop, timers={"nightly-timer": timer})
    triggers = [binding(each).get("queueName") for each in functions(function_app).values()]
    assert triggers == [*QUEUES, "timed", None]


def test_a_push_of_each_queue_runs_the_call(shop: CloudQ, ran: list[str]) -> None:
    endpoint = PushEndpoint(shop, verify=False)
    send_to_each(shop)
    for queue in QUEUES:
        data = base64.b64encode(taken(shop, queue).body).decode()
        pushed = {
            "message": {"data": data, "messageId": "1", "attributes": {}},
            "subscription": f"projects/shop/subscriptions/{queue}",
        }
        assert endpoint.answer({}, json.dumps(pushed).encode()) == (204, "")
    assert ran == QUEUES


def test_a_lambda_runs_the_call_of_each_queue(shop: CloudQ, ran: list[str]) -> None:
    handler = lambda_handler(shop)
    send_to_each(shop)
    for queue in QUEUES:
        record = {
            "messageId": "1",
            "receiptHandle": "1",
            "body": taken(shop, queue).body.decode(),
            "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "0"},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": f"arn:aws:sqs:eu-west-1:123456789012:{queue}",
        }
        assert handler({"Records": [record]}, None) == {"batchItemFailures": []}
    assert ran == QUEUES


# ---- plans


def planned(app: CloudQ, cloud: str, schedules: str) -> Any:
    """The app's plan for a cloud."""
    given: dict[str, Any] = {"schedules": schedules, "stack": "shop"}
    if cloud == "aws":
        return on_aws.plan_of(app, "shop:app", AwsOptions(region="eu-west-1", **given))
    if cloud == "google":
        options = GoogleOptions(project="my-project", region="europe-west1", **given)
        return on_google.plan_of(app, "shop:app", options)
    return on_azure.plan_of(app, "shop:app", AzureOptions(region="westeurope", **given))


@pytest.mark.parametrize("schedules", ["cloud", "beat"])
@pytest.mark.parametrize("cloud", ["aws", "google", "azure"])
def test_a_plan_has_each_queue_and_a_function_with_its_tasks(
    shop: CloudQ, cloud: str, schedules: str
) -> None:
    made = planned(shop, cloud, schedules)
    assert [queue.name for queue in made.queues] == QUEUES
    holders = made.queues if cloud == "azure" else made.functions
    tasks = {each.name if cloud == "azure" else each.queues[0]: each.tasks for each in holders}
    assert tasks == {
        "default": ("shop.plain",),
        "archive": ("shop.plain",),
        "mail": ("shop.mail.send",),
        "media": ("shop.video",),
        "nightly": ("shop.plain",),
        "orders-high": ("shop.order",),
        "orders": ("shop.order",),
        "orders-low": ("shop.order",),
        "parcels-high.fifo": ("shop.parcel",),
        "parcels.fifo": ("shop.parcel",),
        "parcels-low.fifo": ("shop.parcel",),
        "reports": ("shop.plain",),
    }
    if cloud == "aws":
        assert [feed.queue for feed in made.mappings] == QUEUES
    if cloud != "azure":
        timeouts = {function.queues[0]: function.timeout for function in made.functions}
        assert timeouts["mail"] == LIMITS["shop.mail.send"] + 10
        assert timeouts["parcels-high.fifo"] == LIMITS["shop.parcel"] + 10


@pytest.mark.parametrize(
    ("event", "queue"),
    [
        ({"task": "shop.plain"}, "default"),
        ({"task": "shop.mail.send"}, "mail"),
        ({"task": "shop.video"}, "media"),
        ({"task": "shop.plain", "args": ["old"]}, "archive"),
        ({"task": "shop.order"}, "orders"),
        ({"task": "shop.mail.send", "queue": "theirs"}, "theirs"),
    ],
)
def test_a_direct_call_has_the_queue_it_would_be_sent_to(
    shop: CloudQ, ran: list[str], event: dict[str, Any], queue: str
) -> None:
    lambda_handler(shop)(event, None)
    assert ran == [queue]


def test_a_direct_call_has_the_level_of_its_task(make_app: Callable[..., CloudQ]) -> None:
    app, ran = make_app(priority_queues=["orders"], task_default_queue="orders"), list[str]()

    def urgent() -> None:
        request = current_request.get()
        assert request is not None
        ran.append(request.queue)

    app.task(name="urgent", priority=9)(urgent)
    lambda_handler(app)({"task": "urgent"}, None)
    assert ran == ["orders-high"]


def test_arguments_that_are_none_reach_no_route(shop: CloudQ) -> None:
    with pytest.raises(DecodeError, match="args"):
        lambda_handler(shop)({"task": "shop.plain", "args": 5}, None)
