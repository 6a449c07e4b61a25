"""Calls for far times: one entry of EventBridge Scheduler each, on a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, PublishError
from cloudq.driver import Code, Key, Outgoing, StoreAdmin
from cloudq.driver.loader import parse
from cloudq.results.record import State
from cloudq.runtime import Services
from cloudq.testing import drain, eventually
from cloudq.testing.waiting import PATIENCE
from cloudq_aws.eventbridge import EventBridge, open_scheduler
from localstack.servers import Endpoint
from tests.schedules.refusing import refusing
from tests.servers import unique

ROLE = "arn:aws:iam::000000000000:role/scheduler"
DEAD = "arn:aws:sqs:us-east-1:000000000000:dead"
HOUR = 3600.0


@cache
def looking(url: str) -> EventBridge:
    """A client with which tests look at the service."""
    return open_scheduler(parse(f"eventbridge://us-east-1?endpoint_url={url}"))


@pytest.fixture(autouse=True, scope="module")
def closed(aws: Endpoint) -> Iterator[None]:
    yield
    looking(aws.url).close()
    looking.cache_clear()


class Shop:
    """An app whose distant calls wait in EventBridge Scheduler, and whose clock can be set."""

    def __init__(self, aws: Endpoint, *, scheduler: str = "", role: str = ROLE, **conf: Any):
        self.ahead = 0.0
        self.queue = conf.pop("queue", unique("far"))
        at = scheduler or aws.url
        table = unique("far")
        self.app = CloudQ(
            unique("shop"),
            **{
                "broker": f"sqs://?endpoint_url={aws.url}",
                "backend": f"dynamodb://{table}?endpoint_url={aws.url}",
                "task_default_queue": self.queue,
                "scheduler": f"eventbridge://us-east-1?role={role}&dead={DEAD}&endpoint_url={at}",
                "scheduler_eta": HOUR,
                **conf,
            },
        )
        self.app.runtime.services = Services(clock=lambda: time.time() + self.ahead)
        self.app.broker.admin.create(self.queue, lease=30, max_deliveries=30)
        if self.app.backend is not None:
            assert isinstance(self.app.backend.driver, StoreAdmin)
            self.app.backend.driver.create_store()
        self.ran: list[tuple[str, float]] = []

        @self.app.task(name="note")
        def note(tag: str = "") -> str:
            self.ran.append((tag, self.app.runtime.clock()))
            return tag

        self.note = note
        self.driver = looking(aws.url)
        self.group = f"cloudq-{self.app.name}.eta"

    def entries(self) -> dict[str, Any]:
        """The one-time schedules of the app, by name."""
        client = self.driver.client
        there = client.list_schedules(GroupName=self.group)["Schedules"]
        names = [each.get("Name", "") for each in there]
        return {name: client.get_schedule(GroupName=self.group, Name=name) for name in names}

    def fire(self) -> None:
        """Do what the service does at the time of the one entry."""
        [(name, entry)] = self.entries().items()
        self.driver.forget(self.group, name)
        body = entry["Target"]["Input"].encode()
        self.app.broker.driver.send(self.queue, [Outgoing(id=unique(), body=body)])

    def waiting(self) -> int:
        stats = self.app.broker.admin.stats(self.queue)
        return (stats.ready or 0) + (stats.delayed or 0)

    def close(self) -> None:
        self.app.close()


@pytest.fixture
def shop(aws: Endpoint) -> Iterator[Shop]:
    shop = Shop(aws)
    yield shop
    shop.close()


def test_a_far_call_is_one_entry_that_deletes_itself(shop: Shop) -> None:
    due = datetime(2035, 5, 4, 3, 2, 1, 500_000, tzinfo=UTC)
    result = shop.note.apply_async(("x",), eta=due)
    [(name, entry)] = shop.entries().items()
    fires = int(due.timestamp()) - 90
    assert name == f"{result.id}.{fires}"
    # A little early: the service keeps to the minute.
    assert entry["ScheduleExpression"] == "at(2035-05-04T03:00:31)"
    assert entry["ScheduleExpressionTimezone"] == "UTC"
    assert entry["ActionAfterCompletion"] == "DELETE"
    assert entry["FlexibleTimeWindow"] == {"Mode": "OFF"}
    target = entry["Target"]
    assert target["Arn"].endswith(f":{shop.queue}")
    assert (target["RoleArn"], target["DeadLetterConfig"]) == (ROLE, {"Arn": DEAD})
    assert target["RetryPolicy"] == {
        "MaximumEventAgeInSeconds": 86_400,
        "MaximumRetryAttempts": 185,
    }
    assert "SqsParameters" not in target
    body = json.loads(target["Input"])
    assert (body["id"], body["args"], body["not_before"]) == (result.id, ["x"], due.timestamp())
    assert shop.waiting() == 0
    assert shop.driver.owner(shop.group) == shop.app.name


def test_it_is_fired_and_runs_at_its_time(shop: Shop) -> None:
    # By a clock an hour behind the service's, whose entry fires in some seconds.
    shop.ahead = -2 * HOUR
    due = time.time() + 92.0
    result = shop.note.apply_async(("x",), eta=datetime.fromtimestamp(due, UTC))
    assert len(shop.entries()) == 1
    assert shop.waiting() == 0
    eventually(lambda: shop.waiting() == 1)
    assert shop.entries() == {}, "it deletes itself"
    # Now the clocks agree, but for what would be waiting.
    shop.ahead = due - 6.0 - time.time()
    drain(shop.app, [shop.queue])
    assert shop.ran == [], "it is early: the queue's own delay does the rest"
    assert shop.waiting() == 1

    def run() -> bool:
        drain(shop.app, [shop.queue])
        return bool(shop.ran)

    eventually(run)
    [(tag, ran)] = shop.ran
    assert tag == "x"
    assert due - 1.01 <= ran < due + PATIENCE
    assert result.get(timeout=PATIENCE) == "x"


def test_what_the_queue_can_delay_itself_and_what_is_near_stays_there(shop: Shop) -> None:
    for countdown in (0, 600, HOUR - 5):
        shop.note.apply_async(countdown=countdown)
    assert shop.waiting() == 3
    shop.app.conf.scheduler_eta = 0
    shop.app.close()
    shop.note.apply_async(countdown=890)
    assert shop.waiting() == 4
    assert shop.driver.owner(shop.group) is None
    shop.note.apply_async(countdown=910)
    assert (shop.waiting(), len(shop.entries())) == (4, 1)


def test_a_batch_goes_each_its_way(shop: Shop) -> None:
    times = (0, 2 * HOUR, 60, 3 * HOUR)
    results = shop.app.publish(shop.note.options(countdown=n).prepare(str(n)) for n in times)
    assert shop.waiting() == 2
    ids = {name.split(".")[0] for name in shop.entries()}
    assert ids == {results[1].id, results[3].id}


def test_without_the_setting_calls_go_in_hops(aws: Endpoint) -> None:
    shop = Shop(aws, scheduler_eta=None)
    shop.note.apply_async(countdown=2 * HOUR)
    assert shop.waiting() == 1
    assert shop.driver.owner(shop.group) is None
    shop.close()


def test_a_call_that_is_repeated_is_the_same_entry(shop: Shop) -> None:
    due = datetime.fromtimestamp(time.time() + 2 * HOUR, UTC)
    for _ in range(2):
        shop.note.apply_async(task_id="order/7: é", eta=due)
    [(name, entry)] = shop.entries().items()
    assert len(name) <= 64
    assert "order/7" in entry["Description"]
    shop.note.apply_async(task_id="order/7: ü", eta=due)
    assert len(shop.entries()) == 2


class TestRevoked:
    def test_it_takes_the_entry_out(self, shop: Shop) -> None:
        result = shop.note.apply_async(countdown=2 * HOUR)
        kept = shop.note.apply_async(countdown=2 * HOUR)
        assert result.revoke()
        assert [name.split(".")[0] for name in shop.entries()] == [kept.id]
        assert result.state == State.REVOKED
        assert not result.revoke()

    def test_one_of_a_name_of_its_own_too(self, shop: Shop) -> None:
        result = shop.note.apply_async(task_id="mine", countdown=2 * HOUR)
        assert shop.app.AsyncResult("mine").revoke()
        assert shop.entries() == {}
        assert result.state == State.REVOKED

    def test_what_has_run_is_not_noted_as_waiting(self, shop: Shop) -> None:
        shop.note.apply_async(("done",), task_id="mine")
        drain(shop.app, [shop.queue])
        again = shop.note.apply_async(task_id="mine", countdown=2 * HOUR)
        assert shop.app.AsyncResult("mine").get(timeout=1) == "done"
        assert not again.ready(), "the call that was made later has not run"

    def test_before_it_is_called(self, shop: Shop) -> None:
        shop.app.AsyncResult("mine").revoke()
        shop.note.apply_async(task_id="mine", countdown=100 * 24 * HOUR)
        assert shop.app.backend is not None
        [item] = shop.app.backend.get([Key("task#mine")]).values() or [None]
        assert item is not None
        assert item.fields["revoked"] is True
        assert item.expires is not None
        assert item.expires > time.time() + 130 * 24 * HOUR, "a month longer than it waits"

    def test_one_that_has_fired_is_dropped(self, shop: Shop) -> None:
        result = shop.note.apply_async(countdown=2 * HOUR)
        shop.fire()
        shop.ahead = 2 * HOUR
        assert result.revoke()
        assert result.state == State.PENDING
        drain(shop.app, [shop.queue])
        assert (shop.ran, shop.waiting(), result.state) == ([], 0, State.REVOKED)

    def test_the_mark_lasts_when_the_entry_cannot_be_deleted(
        self, aws: Endpoint, caplog: pytest.LogCaptureFixture
    ) -> None:
        with refusing(aws) as proxy:
            shop = Shop(aws, scheduler=proxy.url)
            result = shop.note.apply_async(countdown=400 * 24 * HOUR)
            proxy.refuse("DELETE", 403, "AccessDeniedException")
            assert result.revoke()
            assert "could not be unscheduled" in caplog.text
            assert len(shop.entries()) == 1
            assert shop.app.backend is not None
            record = shop.app.backend.record(result.id)
            assert record is not None
            assert (record.revoked, record.state) == (True, State.PENDING)
            [item] = shop.app.backend.get([Key(f"task#{result.id}")]).values()
            assert item.expires is not None
            assert item.expires > time.time() + 400 * 24 * HOUR, "when it is due it counts"
            shop.ahead = 399 * 24 * HOUR
            shop.fire()
            shop.ahead = 400 * 24 * HOUR
            drain(shop.app, [shop.queue])
            assert (shop.ran, result.state) == ([], State.REVOKED)
            shop.close()


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "error", "code"),
        [
            (403, "AccessDeniedException", Code.DENIED),
            (402, "ServiceQuotaExceededException", Code.DENIED),
            (429, "ThrottlingException", Code.THROTTLED),
            (400, "ValidationException", Code.INVALID),
            (500, "InternalServerException", Code.UNREACHABLE),
        ],
    )
    def test_a_call_whose_entry_cannot_be_made_fails(
        self, aws: Endpoint, status: int, error: str, code: Code
    ) -> None:
        with refusing(aws) as proxy:
            shop = Shop(aws, scheduler=proxy.url, publish_retries=0)
            proxy.refuse("POST", status, error)
            with pytest.raises(PublishError, match=f"no entry in event.*{error}") as caught:
                shop.note.apply_async(countdown=2 * HOUR)
            assert caught.value.code == code
            assert shop.waiting() == 0
            shop.close()

    def test_a_busy_scheduler_is_asked_again(self, aws: Endpoint) -> None:
        with refusing(aws) as proxy:
            shop = Shop(aws, scheduler=proxy.url)
            clock = shop.app.runtime.services.clock
            shop.app.runtime.services = Services(clock=clock, sleep=lambda _: proxy.heal())
            shop.app.close()
            proxy.refuse("POST", 429, "ThrottlingException")
            result = shop.note.apply_async(countdown=2 * HOUR)
            assert [name.split(".")[0] for name in shop.entries()] == [result.id]
            shop.close()

    def test_what_is_refused_is_named_and_the_others_are_sent(self, aws: Endpoint) -> None:
        with refusing(aws) as proxy:
            shop = Shop(aws, scheduler=proxy.url)
            proxy.refuse("POST", 403, "AccessDeniedException")
            calls = [shop.note.options(countdown=n).prepare() for n in (0, 2 * HOUR)]
            with pytest.raises(PublishError, match="1 of 2 messages not sent") as caught:
                shop.app.publish(calls)
            assert [each.index for each in caught.value.rejected] == [1]
            assert shop.waiting() == 1
            shop.close()

    def test_no_role(self, aws: Endpoint) -> None:
        shop = Shop(aws)
        shop.app.close()
        shop.app.conf.scheduler = f"eventbridge://us-east-1?endpoint_url={aws.url}"
        with pytest.raises(ConfigurationError, match="needs role=ARN"):
            shop.note.apply_async(countdown=2 * HOUR)
        assert shop.waiting() == 0
        shop.close()

    def test_a_scheduler_that_keeps_no_single_calls(self, aws: Endpoint) -> None:
        pytest.importorskip("google.cloud.scheduler_v1")
        url = "cloudscheduler://my-project/europe-west1?emulator=127.0.0.1:1"
        shop = Shop(aws)
        shop.app.conf.scheduler = url
        with pytest.raises(ConfigurationError, match="keeps no single calls: leave scheduler_eta"):
            shop.note.apply_async(countdown=2 * HOUR)
        shop.close()

    def test_no_scheduler(self) -> None:
        with pytest.raises(ConfigurationError, match="scheduler_eta needs a scheduler"):
            CloudQ(scheduler_eta=3600)


@pytest.mark.parametrize("tag", ["<aws.scheduler.execution-id>", "x" * 300_000])
def test_what_the_scheduler_would_not_send_as_it_is_goes_in_hops(shop: Shop, tag: str) -> None:
    shop.note.apply_async((tag,), countdown=2 * HOUR)
    assert shop.waiting() == 1
    assert shop.driver.owner(shop.group) is None


def test_without_a_result_store(aws: Endpoint) -> None:
    shop = Shop(aws, backend="none")
    shop.note.apply_async(countdown=2 * HOUR)
    assert len(shop.entries()) == 1
    shop.close()


def test_a_signed_call_is_signed(aws: Endpoint) -> None:
    shop = Shop(aws, signing_keys={"k": "0" * 32})
    shop.ahead = -2 * HOUR
    shop.note.apply_async(("x",), eta=datetime.fromtimestamp(time.time() + 92, UTC))
    shop.ahead = 95.0
    shop.fire()
    drain(shop.app, [shop.queue])
    assert [tag for tag, _ in shop.ran] == ["x"]
    shop.close()


def test_retries_stay_in_the_queue(aws: Endpoint) -> None:
    """Workers need no right to make entries."""
    shop = Shop(aws)

    @shop.app.task(max_retries=1, default_retry_delay=5 * HOUR, autoretry_for=(OSError,))
    def fails() -> None:
        raise OSError

    fails.delay()
    drain(shop.app, [shop.queue])
    assert shop.waiting() == 1
    assert shop.driver.owner(shop.group) is None
    shop.close()


def test_a_queue_that_delays_nothing_parks_its_far_calls(aws: Endpoint) -> None:
    shop = Shop(aws, queue=unique("far") + ".fifo")
    shop.note.apply_async(countdown=2 * HOUR, group_key="g")
    assert len(shop.app.broker.scheduled(shop.queue, count=5)) == 1
    assert shop.driver.owner(shop.group) is None
    shop.close()
