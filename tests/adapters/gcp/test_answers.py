"""Answers that lack what Google's services always send are believed by no driver."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
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

from cloudq.driver import Address, Change, Code, Delivery, Failure, Item, Key, Peeked
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
    """A server that answers each call with what is set for its name, else with an empty answer.

    An answer that is a list is a stream of several parts.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[list[bytes]]] = {}
        self.refusals: dict[str, grpc.StatusCode] = {}
        self.asked: list[str] = []
        self.port = 0

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        name = details.method.rpartition("/")[2]

        def call(_: bytes, context: grpc.ServicerContext) -> list[bytes]:
            self.asked.append(name)
            if name in self.refusals:
                context.abort(self.refusals[name], "refused")
            answers = self.answers.get(name, [[b""]])
            return answers.pop(0) if len(answers) > 1 else answers[0]

        if name in _STREAMS:
            return grpc.unary_stream_rpc_method_handler(lambda *given: iter(call(*given)))
        return grpc.unary_unary_rpc_method_handler(lambda *given: call(*given)[0])

    def give(self, **answers: Any) -> None:
        self.answers = {
            name: [
                [
                    type(part).serialize(part)
                    for part in (each if isinstance(each, list) else [each])
                ]
                for each in given
            ]
            for name, given in answers.items()
        }
        self.asked.clear()


@pytest.fixture(scope="module")
def server() -> Iterator[Canned]:
    canned = Canned()
    unlimited = [("grpc.max_receive_message_length", -1)]
    running = grpc.server(ThreadPoolExecutor(4), handlers=[canned], options=unlimited)
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


def test_what_has_moved_to_the_dead_letters_is_not_told_as_refused(
    server: Canned, pubsub: PubSubWithTasks
) -> None:
    pubsub._with_dead_letters.add("q")
    deliveries = [
        Delivery(queue="q", id=id, body=b"x" * 6_000_000, receipt=id, attempts=1, lease=9)
        for id in "abc"
    ]
    server.give(Publish=[*ids("1"), *ids()])
    refused = pubsub.dead_letter(deliveries, reason="test")
    assert [each.index for each in refused] == [1, 2]
    assert server.asked.count("Acknowledge") == 1


def test_a_deadline_that_the_service_tells_at_once_is_no_hot_loop(
    server: Canned, pubsub: PubSubWithTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.give()
    monkeypatch.setattr(server, "refusals", {"Pull": grpc.StatusCode.DEADLINE_EXCEEDED})
    began = time.monotonic()
    assert pubsub.receive("q", count=1, wait=0.5, lease=9.0) == []
    assert time.monotonic() - began >= 0.5
    assert len(server.asked) <= 6


def test_a_group_whose_publish_was_not_answered_fails_alone(
    server: Canned, pubsub: PubSubWithTasks
) -> None:
    server.give(Publish=[*ids("1"), *ids()])
    refused = pubsub.send("q.fifo", [outgoing(group="a"), outgoing(group="b")])
    assert [failure.code for failure in refused] == [Code.UNREACHABLE]


class Tunnel:
    """A proxy to a port. Once it is cut, new connections are taken, and nothing is forwarded."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends: list[socket.socket] = []
        self._is_cut = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listening.accept()
                self._ends.append(near)
                if not self._is_cut:
                    far = socket.create_connection(("127.0.0.1", self._port))
                    self._ends.append(far)
                    for pair in ((near, far), (far, near)):
                        threading.Thread(target=self._forward, args=pair, daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # cut
            while data := source.recv(65_536):
                target.sendall(data)

    def cut(self) -> None:
        self._is_cut = True
        self._shut()

    def _shut(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._shut()


def test_a_host_that_no_longer_answers_is_no_empty_queue(server: Canned) -> None:
    """After one good pull it was."""
    server.give()
    with closing(Tunnel(server.port)) as tunnel:
        address = Address(scheme="pubsub", host=PROJECT, options={"emulator": tunnel.host})
        with closing(open_broker(address)) as driver:
            assert driver.receive("q", count=1, wait=0.0, lease=9.0) == []
            tunnel.cut()
            end = time.monotonic() + 8.0
            while time.monotonic() < end:
                with pytest.raises(Exception) as error:
                    driver.receive("q", count=1, wait=0.0, lease=9.0)
                assert driver.error_code(error.value) is Code.UNREACHABLE
                time.sleep(0.1)


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


LISTS: dict[str, tuple[str, Any]] = {
    "topics": ("ListTopics", ListTopicsResponse(next_page_token="a")),
    "subscriptions": ("ListSubscriptions", ListSubscriptionsResponse(next_page_token="a")),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_page_of_queues_that_is_said_to_follow_itself_is_no_answer(
    server: Canned, pubsub: PubSubWithTasks, case: str
) -> None:
    """The list never ended."""
    name, answer = LISTS[case]
    server.give(**{name: [answer]})
    is_unreachable(pubsub, pubsub.list)
    assert server.asked.count(name) == 2


def test_pages_are_followed_to_the_last(server: Canned, pubsub: PubSubWithTasks) -> None:
    server.give(
        ListTopics=[
            ListTopicsResponse(next_page_token="a"),
            ListTopicsResponse(topics=[Topic(name=TOPIC)], next_page_token="b"),
            ListTopicsResponse(),
        ],
        ListSubscriptions=[
            ListSubscriptionsResponse(
                subscriptions=[
                    Subscription(name=f"projects/{PROJECT}/subscriptions/q", topic=TOPIC)
                ]
            )
        ],
    )
    assert pubsub.list() == ["q"]


def test_what_is_copied_of_pushed_messages_is_not_told_as_refused(
    server: Canned, pubsub: PubSubWithTasks
) -> None:
    pubsub._with_dead_letters.add("q")
    deliveries = [
        Delivery(queue="q", id=id, body=b"x" * 6_000_000, receipt=None, attempts=1, lease=9)
        for id in "abc"
    ]
    server.give(Publish=[*ids("1"), *ids()])
    refused = pubsub.bury(deliveries, reason="test")
    assert [(each.index, each.code) for each in refused] == [
        (1, Code.UNREACHABLE),
        (2, Code.UNREACHABLE),
    ]
    server.give(Publish=ids())
    is_unreachable(pubsub, lambda: pubsub.bury(deliveries, reason="test"))


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


def page(*sorts: str, ended: bool = False) -> list[RunQueryResponse]:
    fields = {"expires": Value(timestamp_value=NOW)} if ended else {}
    return [
        RunQueryResponse(document=document(NAME[:-1] + sort, **fields), read_time=NOW)
        for sort in sorts
    ]


@pytest.mark.parametrize(
    ("after", "answer"),
    [
        (None, page("b", "a")),
        (None, page("a", "a")),
        (None, page("a", "b", "c")),
        ("b", page("a")),
        ("b", page("b")),
        (None, page("a", "b", ended=True)),  # for ever
    ],
)
def test_documents_out_of_order_or_beyond_the_limit_are_no_page(
    server: Canned, firestore: Firestore, after: str | None, answer: list[RunQueryResponse]
) -> None:
    server.give(RunQuery=[answer])
    is_unreachable(firestore, lambda: firestore.query("a", after=after, limit=2))


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
    server.give(ListJobs=[ListJobsResponse(next_page_token="a")])
    is_unreachable(scheduler, lambda: scheduler.current("g"))


def test_a_page_of_delayed_messages_that_is_said_to_follow_itself_is_no_answer(
    server: Canned, pubsub: PubSubWithTasks
) -> None:
    server.give(GetTopic=[Topic(name=TOPIC)], ListTasks=[ListTasksResponse(next_page_token="a")])
    is_unreachable(pubsub, lambda: pubsub.scheduled("q", count=9))
