"""Answers that lack what Google's services always send are believed by no driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.cloud.firestore_v1.types import (
    ArrayValue,
    BatchGetDocumentsResponse,
    BatchWriteResponse,
    CommitResponse,
    Document,
    MapValue,
    RunQueryResponse,
    Value,
)
from google.cloud.scheduler_v1 import Job as CloudJob
from google.cloud.scheduler_v1.types import ListJobsResponse
from google.cloud.tasks_v2.types import HttpRequest, ListTasksResponse, Task
from google.pubsub_v1.types import (
    ListSubscriptionsResponse,
    ListTopicsResponse,
    PublishResponse,
    PubsubMessage,
    PullResponse,
    ReceivedMessage,
    Subscription,
    Topic,
)
from google.rpc.status_pb2 import Status

from cloudq.driver import Address, Change, Code, Failure, Item, Key, Peeked
from cloudq.driver.schedulers import Job
from cloudq.testing import outgoing
from cloudq_gcp.cloud_scheduler import CloudScheduler, open_scheduler
from cloudq_gcp.firestore import Firestore, open_backend
from cloudq_gcp.firestore_items import partition_ids
from cloudq_gcp.pubsub import PubSubWithTasks, open_broker

PROJECT = "cloudq-tests"
TOPIC = f"projects/{PROJECT}/topics/q"
NOW = datetime.now(UTC)
_STREAMS = ("BatchGetDocuments", "RunQuery")


class Canned(grpc.GenericRpcHandler):
    """A server that answers each call with what is set for its name, else with an empty answer."""

    def __init__(self) -> None:
        self.answers: dict[str, list[bytes]] = {}
        self.asked: list[str] = []
        self.port = 0

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        name = details.method.rpartition("/")[2]

        def call(_: bytes, context: grpc.ServicerContext) -> bytes:
            self.asked.append(name)
            answers = self.answers.get(name, [b""])
            return answers.pop(0) if len(answers) > 1 else answers[0]

        if name in _STREAMS:
            return grpc.unary_stream_rpc_method_handler(lambda *given: iter([call(*given)]))
        return grpc.unary_unary_rpc_method_handler(call)

    def give(self, **answers: Any) -> None:
        self.answers = {
            name: [type(each).serialize(each) for each in given] for name, given in answers.items()
        }
        self.asked.clear()


@pytest.fixture(scope="module")
def server() -> Iterator[Canned]:
    canned = Canned()
    running = grpc.server(ThreadPoolExecutor(4), handlers=[canned])
    canned.port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield canned
    running.stop(None).wait()


@pytest.fixture(scope="module")
def host(server: Canned) -> str:
    return f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def pubsub(host: str) -> Iterator[PubSubWithTasks]:
    options = {"emulator": host, "tasks": "europe-west1/cloudq", "tasks_endpoint": host}
    driver = open_broker(Address(scheme="pubsub", host=PROJECT, options=options))
    assert isinstance(driver, PubSubWithTasks)
    with closing(driver):
        yield driver


@pytest.fixture(scope="module")
def firestore(host: str) -> Iterator[Firestore]:
    url = Address(scheme="firestore", host=PROJECT, path="cloudq", options={"emulator": host})
    with closing(open_backend(url)) as driver:
        yield driver


@pytest.fixture(scope="module")
def scheduler(host: str) -> Iterator[CloudScheduler]:
    url = Address(
        scheme="cloudscheduler", host=PROJECT, path="europe-west1", options={"emulator": host}
    )
    with closing(open_scheduler(url)) as driver:
        yield driver


def is_unreachable(driver: Any, call: Callable[[], object]) -> None:
    with pytest.raises(Exception, match="cut or not the service's") as error:
        call()
    assert driver.error_code(error.value) is Code.UNREACHABLE


# ---- Pub/Sub


def received(ack: str = "a", id: str = "1", data: bytes = b"x") -> ReceivedMessage:
    return ReceivedMessage(ack_id=ack, message=PubsubMessage(message_id=id, data=data))


def pulled(*messages: ReceivedMessage) -> list[PullResponse]:
    return [PullResponse(received_messages=messages)]


def ids(*given: str) -> list[PublishResponse]:
    return [PublishResponse(message_ids=given)]


@pytest.mark.parametrize("given", [(), ("1",), ("1", ""), ("1", "1"), ("1", "2", "3")])
def test_messages_without_ids_of_their_own_are_not_published(
    server: Canned, pubsub: PubSubWithTasks, given: Sequence[str]
) -> None:
    server.give(Publish=ids(*given))
    is_unreachable(pubsub, lambda: pubsub.send("q", [outgoing(), outgoing()]))


def test_a_group_whose_publish_was_not_answered_fails_alone(
    server: Canned, pubsub: PubSubWithTasks
) -> None:
    server.give(Publish=[*ids("1"), *ids()])
    refused = pubsub.send("q.fifo", [outgoing(group="a"), outgoing(group="b")])
    assert [failure.code for failure in refused] == [Code.UNREACHABLE]


PULLS: list[list[PullResponse]] = [
    pulled(received(ack="")),
    pulled(received(id="")),
    pulled(ReceivedMessage(ack_id="a")),
    pulled(ReceivedMessage()),
]


@pytest.mark.parametrize("answer", PULLS)
def test_a_message_without_its_parts_is_not_taken_for_an_empty_one(
    server: Canned, pubsub: PubSubWithTasks, answer: list[PullResponse]
) -> None:
    server.give(Pull=answer)
    is_unreachable(pubsub, lambda: pubsub.receive("q", count=1, wait=0.0, lease=30.0))
    is_unreachable(pubsub, lambda: pubsub.peek("q", count=1))
    chosen = [Peeked(id="1", body=b"x", attempts=1, handle="1")]
    is_unreachable(pubsub, lambda: pubsub.redrive("q", chosen))
    assert not {"Publish", "Acknowledge"} & set(server.asked)


def test_messages_beside_one_that_is_not_whole_are_received(
    server: Canned, pubsub: PubSubWithTasks, caplog: pytest.LogCaptureFixture
) -> None:
    twice = received("b", "2")
    server.give(Pull=pulled(received(), received(id=""), twice, twice))
    found = pubsub.receive("q", count=9, wait=0.0, lease=30.0)
    assert [delivery.id for delivery in found] == ["1", "2"]
    assert "left for later" in caplog.text


NAMED = Subscription(name="s", topic=TOPIC)
ADMIN: dict[str, tuple[Callable[[PubSubWithTasks], object], dict[str, Any]]] = {
    "stats of nothing": (lambda driver: driver.stats("q"), {}),
    "stats of no topic": (
        lambda driver: driver.stats("q"),
        {"GetSubscription": [Subscription(name="s")]},
    ),
    "list of topics": (
        lambda driver: driver.list(),
        {"ListTopics": [ListTopicsResponse(topics=[Topic()])]},
    ),
    "list of subscriptions": (
        lambda driver: driver.list(),
        {"ListSubscriptions": [ListSubscriptionsResponse(subscriptions=[Subscription(topic="t")])]},
    ),
    "topic": (lambda driver: driver.create("q", lease=30, max_deliveries=5), {}),
    "subscription": (
        lambda driver: driver.create("q", lease=30, max_deliveries=5),
        {"CreateTopic": [Topic(name="t")]},
    ),
    "delayed to no topic": (lambda driver: driver.send("q", [outgoing(delay=60)]), {}),
    "look at no topic": (lambda driver: driver.scheduled("q", count=1), {}),
}


@pytest.mark.parametrize("case", ADMIN)
def test_a_queue_that_an_answer_does_not_name_is_neither_made_nor_seen(
    server: Canned, pubsub: PubSubWithTasks, case: str
) -> None:
    call, answers = ADMIN[case]
    server.give(**answers)
    is_unreachable(pubsub, lambda: call(pubsub))


# ---- Cloud Tasks

URL = f"/v1/{TOPIC}:publish"


def task(**parts: Any) -> Task:
    whole: dict[str, Any] = {
        "name": "queues/q/tasks/t1",
        "schedule_time": NOW,
        "http_request": HttpRequest(url=URL, body=b"{}"),
    }
    return Task(**whole | parts)


@pytest.mark.parametrize("made", [task(name=""), task(schedule_time=None), Task()])
def test_a_delayed_message_without_a_task_is_not_sent(
    server: Canned, pubsub: PubSubWithTasks, made: Task
) -> None:
    server.give(GetTopic=[Topic(name=TOPIC)], CreateTask=[made])
    is_unreachable(pubsub, lambda: pubsub.schedule("q", [outgoing(delay=60)]))


def test_a_publish_that_nobody_confirmed_does_not_repeat_the_delayed_ones(
    server: Canned, pubsub: PubSubWithTasks
) -> None:
    server.give(GetTopic=[Topic(name=TOPIC)], CreateTask=[task()], Publish=ids())
    first, second = pubsub.schedule("q", [outgoing(delay=60), outgoing()])
    assert isinstance(first, str)
    assert isinstance(second, Failure)
    assert second.code is Code.UNREACHABLE


def test_a_strangers_task_is_no_delayed_message_and_one_without_a_body_is_no_task(
    server: Canned, pubsub: PubSubWithTasks, host: str
) -> None:
    url = f"http://{host}{URL}"
    for body in (b"{", b"[]", b"{}", b'{"messages": [{}]}', b'{"messages": ["x"]}'):
        tasks = [task(http_request=HttpRequest(url=url, body=body))]
        server.give(GetTopic=[Topic(name=TOPIC)], ListTasks=[ListTasksResponse(tasks=tasks)])
        assert pubsub.scheduled("q", count=9) == []
    for cut in (task(http_request=HttpRequest(url=url)), task(name=""), task(schedule_time=None)):
        server.give(GetTopic=[Topic(name=TOPIC)], ListTasks=[ListTasksResponse(tasks=[cut])])
        is_unreachable(pubsub, lambda: pubsub.scheduled("q", count=9))


# ---- Firestore

KEY = Key("a", "-")
ROOT = f"projects/{PROJECT}/databases/(default)/documents/cloudq/"
NAME = f"{ROOT}{partition_ids('a')[0]}-"
FIELDS = {"fields": Value(map_value=MapValue(fields={"n": Value(integer_value=1)}))}


def document(name: str = NAME, *, time: Any = NOW, **fields: Value) -> Document:
    return Document(name=name, fields={**FIELDS, **fields}, update_time=time)


def inside(**fields: Value) -> Document:
    return document(fields=Value(map_value=MapValue(fields=fields)))


DOCUMENTS: dict[str, Document] = {
    "of another item": document(f"{ROOT}other"),
    "a field without a value": inside(n=Value()),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_document_that_is_not_ours_or_not_whole_is_no_item(
    server: Canned, firestore: Firestore, case: str
) -> None:
    found = DOCUMENTS[case]
    server.give(
        BatchGetDocuments=[BatchGetDocumentsResponse(found=found)],
        RunQuery=[RunQueryResponse(document=found, read_time=NOW)],
    )
    is_unreachable(firestore, lambda: firestore.get([KEY], consistent=True))
    is_unreachable(firestore, lambda: firestore.update(KEY, Change(set={"n": 2})))
    is_unreachable(firestore, lambda: firestore.query("a", after=None, limit=2))
    assert "Commit" not in server.asked


FOREIGN: dict[str, tuple[Document, dict[str, int]]] = {
    "without fields": (Document(name=NAME, update_time=NOW), {}),
    "fields that are no map": (document(fields=Value(string_value="x")), {}),
    "an end that is no time": (document(expires=Value(string_value="soon")), {"n": 1}),
    "a map of no number": (inside(m=Value(map_value=MapValue(fields={}))), {}),
    "a list of numbers": (
        inside(m=Value(array_value=ArrayValue(values=[Value(integer_value=1)]))),
        {},
    ),
    "a reference": (inside(m=Value(reference_value=NAME), n=Value(integer_value=1)), {"n": 1}),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_another_program_wrote_into_a_document_is_left_out(
    server: Canned, firestore: Firestore, case: str
) -> None:
    found, fields = FOREIGN[case]
    server.give(BatchGetDocuments=[BatchGetDocumentsResponse(found=found)])
    item = firestore.get([KEY], consistent=True)[KEY]
    assert (item.fields, item.expires) == (fields, None)


def test_answers_about_nothing_do_not_say_that_nothing_is_there(
    server: Canned, firestore: Firestore
) -> None:
    server.give(BatchWrite=[BatchWriteResponse()], Commit=[CommitResponse()])
    is_unreachable(firestore, lambda: firestore.get([KEY], consistent=True))
    is_unreachable(firestore, lambda: firestore.query("a", after=None, limit=2))
    is_unreachable(firestore, lambda: firestore.put([Item(key=KEY, fields={})]))
    is_unreachable(firestore, lambda: firestore.delete([KEY]))
    server.give(BatchWrite=[BatchWriteResponse(status=[Status(), Status()])])
    is_unreachable(firestore, lambda: firestore.delete([KEY]))
    server.give(RunQuery=[RunQueryResponse(read_time=NOW)])
    assert firestore.query("a", after=None, limit=2).items == []


def test_a_document_without_its_time_is_not_written_over(
    server: Canned, firestore: Firestore
) -> None:
    found = BatchGetDocumentsResponse(found=document(time=None))
    server.give(BatchGetDocuments=[found], Commit=[CommitResponse(write_results=[{}])])
    is_unreachable(firestore, lambda: firestore.update(KEY, Change(set={"n": 2})))
    assert "Commit" not in server.asked
    server.give(BatchGetDocuments=[BatchGetDocumentsResponse(found=document())])
    is_unreachable(firestore, lambda: firestore.update(KEY, Change(set={"n": 2})))


# ---- Cloud Scheduler

JOB = Job(
    name="g-job", queue="q", expression="* * * * *", timezone="UTC", body="{}", description=""
)
WHOLE: dict[str, Any] = {
    "name": "jobs/g-job",
    "schedule": "* * * * *",
    "pubsub_target": {"topic_name": TOPIC, "data": b"\xff"},
}


def test_a_job_that_an_answer_does_not_name_is_neither_made_nor_seen(
    server: Canned, scheduler: CloudScheduler
) -> None:
    server.give()
    is_unreachable(scheduler, lambda: scheduler.create("g", JOB))
    is_unreachable(scheduler, lambda: scheduler.update("g", JOB))
    for name in WHOLE:
        lacking = CloudJob(**{part: value for part, value in WHOLE.items() if part != name})
        server.give(ListJobs=[ListJobsResponse(jobs=[lacking])])
        is_unreachable(scheduler, lambda: scheduler.current("g"))
    server.give(ListJobs=[ListJobsResponse(jobs=[CloudJob(**WHOLE)])])
    assert list(scheduler.current("g")) == ["g-job"]
