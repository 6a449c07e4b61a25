"""Delaying Pub/Sub's messages with Cloud Tasks: requests, tokens, queues, refusals."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from google.cloud.tasks_v2.types import Queue, Task

from cloudq.driver import Address, Code, Failure, Outgoing, Scheduling
from cloudq.testing import collect, eventually, outgoing
from cloudq.testing.waiting import HELD
from cloudq_gcp.client import Access
from cloudq_gcp.cloud_tasks import MAX_DELAY, CloudTasks
from cloudq_gcp.pubsub import PubSubWithTasks, open_broker
from localstack.servers import Endpoint
from tests.adapters.gcp.cloud_tasks_server import CloudTasksServer, serving_tasks
from tests.servers import SOON, unique

PROJECT = "cloudq-tests"
QUEUE = f"projects/{PROJECT}/locations/europe-west1/queues/cloudq"
ACCOUNT = f"cloudq@{PROJECT}.iam.gserviceaccount.com"


@pytest.fixture
def server(pubsub: Endpoint) -> Iterator[CloudTasksServer]:
    """A Cloud Tasks whose requests to Pub/Sub meet the emulator."""
    with serving_tasks({"https://pubsub.googleapis.com": pubsub.url}) as server:
        yield server


@contextmanager
def opened(pubsub: Endpoint, tasks_port: int, project: str = PROJECT) -> Iterator[PubSubWithTasks]:
    options = {
        "emulator": f"127.0.0.1:{pubsub.port}",
        "tasks": "europe-west1/cloudq",
        "tasks_endpoint": f"127.0.0.1:{tasks_port}",
    }
    driver = open_broker(Address(scheme="pubsub", host=project, options=options))
    assert isinstance(driver, PubSubWithTasks)
    try:
        yield driver
    finally:
        driver.close()


@pytest.fixture
def driver(pubsub: Endpoint, server: CloudTasksServer) -> Iterator[PubSubWithTasks]:
    with opened(pubsub, server.port) as driver:
        yield driver


@pytest.fixture
def queue(driver: PubSubWithTasks) -> Iterator[str]:
    name = unique()
    driver.create(name, lease=30, max_deliveries=5)
    yield name
    driver.delete(name)


@pytest.fixture
def tasks(server: CloudTasksServer) -> Iterator[CloudTasks]:
    """Tasks as they are made for the service itself."""
    access = Access(project=PROJECT, emulator=None, endpoint=None, credentials=None)
    options = {
        "tasks": "europe-west1/cloudq",
        "account": ACCOUNT,
        "tasks_endpoint": f"127.0.0.1:{server.port}",
    }
    tasks = CloudTasks.of(access, options)
    assert tasks is not None
    tasks.create()
    yield tasks
    tasks.close()


def only(server: CloudTasksServer) -> Task:
    (task,) = server.tasks.values()
    return task


class TestTasks:
    def test_a_task_publishes_with_the_accounts_token(
        self, tasks: CloudTasks, server: CloudTasksServer
    ) -> None:
        message = outgoing(body=b'{"a":"\xc3\xbc"}', delay=HELD, group="g")
        (handle,) = tasks.add(f"projects/{PROJECT}/topics/q.fifo", [message])
        assert isinstance(handle, str)
        task = only(server)
        request = task.http_request
        url = f"https://pubsub.googleapis.com/v1/projects/{PROJECT}/topics/q.fifo:publish"
        assert (request.http_method.name, request.url) == ("POST", url)
        assert request.oauth_token.service_account_email == ACCOUNT
        assert request.oauth_token.scope.endswith("/auth/pubsub")
        (published,) = json.loads(request.body)["messages"]
        assert published["attributes"] == {"cloudq-id": message.id}
        assert published["orderingKey"] == "g"
        assert abs(task.schedule_time.timestamp() - time.time() - HELD) < 5
        (seen,) = tasks.waiting(f"projects/{PROJECT}/topics/q.fifo", 10, None)
        assert (seen.id, seen.body, seen.group) == (message.id, message.body, "g")
        assert tasks.waiting(f"projects/{PROJECT}/topics/q", 10, None) == []

    def test_the_request_is_one_that_pubsub_takes(
        self, tasks: CloudTasks, driver: PubSubWithTasks, queue: str
    ) -> None:
        message = outgoing(body="Grüße 🎉".encode(), delay=0.1, group="g")
        tasks.add(f"projects/{PROJECT}/topics/{queue}", [message])
        (delivery,) = collect(driver, queue, 1)
        assert (delivery.id, delivery.body, delivery.group) == (message.id, message.body, "g")

    def test_a_regional_endpoint_is_published_to(self, server: CloudTasksServer) -> None:
        host = "europe-west1-pubsub.googleapis.com"
        access = Access(project=PROJECT, emulator=None, endpoint=host, credentials=None)
        options = {
            "tasks": "europe-west1/cloudq",
            "account": ACCOUNT,
            "tasks_endpoint": f"127.0.0.1:{server.port}",
        }
        tasks = CloudTasks.of(access, options)
        assert tasks is not None
        tasks.create()
        tasks.add("projects/p/topics/t", [outgoing(delay=HELD)])
        assert only(server).http_request.url == f"https://{host}/v1/projects/p/topics/t:publish"
        tasks.close()

    def test_a_month_is_within_what_cloud_tasks_takes(
        self, driver: PubSubWithTasks, queue: str
    ) -> None:
        assert driver.limits(queue).max_delay == MAX_DELAY > 29.9 * 86_400
        assert not driver.send(queue, [outgoing(delay=MAX_DELAY)])

    def test_one_that_fails_is_tried_again(
        self, pubsub: Endpoint, driver: PubSubWithTasks, server: CloudTasksServer, queue: str
    ) -> None:
        reachable, server.rewrite = server.rewrite, {pubsub.url: "http://127.0.0.1:9"}
        failed = len(server.failures)
        assert not driver.send(queue, [outgoing(delay=0.1)])
        eventually(lambda: len(server.failures) > failed)
        assert len(driver.scheduled(queue, count=5)) == 1
        server.rewrite = reachable
        collect(driver, queue, 1)


class TestRefusals:
    def test_a_delayed_body_over_the_tasks_limit_is_too_large(
        self, driver: PubSubWithTasks, server: CloudTasksServer, queue: str
    ) -> None:
        # As base64, with what is around it, 74,000 bytes are just below 100,000, 76,000 above.
        fits, large = (outgoing(body=b"x" * size, delay=HELD) for size in (74_000, 76_000))
        prompt = Outgoing(id="prompt", body=b"x" * 76_000)
        (failure,) = driver.send(queue, [fits, prompt, large])
        assert (failure.index, failure.code) == (2, Code.TOO_LARGE)
        assert "Cloud Tasks takes 100000" in failure.reason
        assert [seen.id for seen in driver.scheduled(queue, count=5)] == [fits.id]
        assert collect(driver, queue, 1)[0].id == "prompt"

    def test_no_queue_of_cloud_tasks_is_not_found(
        self, driver: PubSubWithTasks, server: CloudTasksServer, queue: str
    ) -> None:
        server.queues.clear()
        with pytest.raises(Exception, match="Queue does not exist") as caught:
            driver.send(queue, [outgoing(delay=HELD)])
        assert driver.error_code(caught.value) is Code.NOT_FOUND
        # What is there without one can be deleted all the same: see the fixture.

    def test_no_cloud_tasks_is_told_fast(self, pubsub: Endpoint, queue: str) -> None:
        with opened(pubsub, 9) as alone:
            start = time.monotonic()
            with pytest.raises(Exception, match="connect") as caught:
                alone.send(queue, [outgoing(delay=HELD)])
            assert alone.error_code(caught.value) is Code.UNREACHABLE
            assert time.monotonic() - start < SOON
            # What is due needs none.
            assert not alone.send(queue, [outgoing()])

    def test_what_cannot_be_sent_beside_delayed_ones_is_refused_alone(
        self, driver: PubSubWithTasks, queue: str
    ) -> None:
        gone = f"{queue}-gone"
        driver._known.add(gone)  # pyright: ignore[reportPrivateUsage]
        handle, failure = driver.schedule(gone, [outgoing(delay=HELD), outgoing()])
        assert isinstance(failure, Failure)
        assert (failure.index, failure.code) == (1, Code.NOT_FOUND)
        assert isinstance(handle, str)
        assert not driver._tasks.remove([handle])  # pyright: ignore[reportPrivateUsage]

    def test_a_handle_of_nothing_is_not_found(self, driver: PubSubWithTasks, queue: str) -> None:
        failures = driver.unschedule(queue, ["", "0.000000/nothing"])
        assert [failure.code for failure in failures] == [Code.NOT_FOUND, Code.NOT_FOUND]

    def test_a_delayed_message_that_is_refused_leaves_the_others(
        self, driver: PubSubWithTasks, queue: str
    ) -> None:
        wrong = outgoing(delay=HELD, body=b"x" * 100_000)
        first, failure, third = driver.schedule(queue, [outgoing(), wrong, outgoing(delay=HELD)])
        assert isinstance(failure, Failure)
        assert (failure.index, failure.code) == (1, Code.TOO_LARGE)
        assert first == ""
        assert third


class TestQueues:
    def test_a_made_queue_never_gives_up_and_an_existing_one_stays(
        self, driver: PubSubWithTasks, server: CloudTasksServer, queue: str
    ) -> None:
        assert server.queues[QUEUE].retry_config.max_attempts == -1
        server.queues[QUEUE] = Queue(name=QUEUE)
        driver.create(queue, lease=30, max_deliveries=5)
        assert server.queues[QUEUE] == Queue(name=QUEUE)

    def test_a_purge_takes_the_delayed_too_and_no_others(
        self, driver: PubSubWithTasks, queue: str
    ) -> None:
        other = unique("other")
        driver.create(other, lease=30, max_deliveries=5)
        for name in (queue, other):
            driver.send(name, [outgoing(delay=HELD), outgoing(delay=HELD)])
        driver.purge(queue)
        assert driver.scheduled(queue, count=5) == []
        assert len(driver.scheduled(other, count=5)) == 2
        driver.delete(other)

    def test_a_deleted_queue_leaves_no_task(
        self, driver: PubSubWithTasks, server: CloudTasksServer
    ) -> None:
        name = unique()
        driver.create(name, lease=30, max_deliveries=5)
        driver.send(name, [outgoing(delay=HELD)])
        driver.delete(name)
        assert not server.tasks
        with pytest.raises(Exception) as caught:
            driver.send(name, [outgoing(delay=HELD)])
        assert driver.error_code(caught.value) is Code.NOT_FOUND

    def test_only_with_tasks_a_broker_schedules(
        self, driver: PubSubWithTasks, pubsub: Endpoint
    ) -> None:
        assert isinstance(driver, Scheduling)
        plain = open_broker(
            Address(scheme="pubsub", host=PROJECT, options={"emulator": f"127.0.0.1:{pubsub.port}"})
        )
        assert not isinstance(plain, Scheduling)
        assert plain.limits("q").max_delay == 0
        plain.close()

    def test_an_account_is_needed_where_tokens_are(self) -> None:
        access = Access(project=PROJECT, emulator=None, endpoint=None, credentials=None)
        with pytest.raises(Exception, match="tasks= needs account="):
            CloudTasks.of(access, {"tasks": "europe-west1/cloudq"})
