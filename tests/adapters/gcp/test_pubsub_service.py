"""Behaviour of Pub/Sub that no contract covers: requests, refusals, set-up."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from google.api_core import exceptions as sdk
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.pubsub_v1.types import (
    AcknowledgeRequest,
    ModifyAckDeadlineRequest,
    PublishRequest,
    PublishResponse,
)

from cloudq.driver import Address, Code, Delivery, Scheduling
from cloudq.errors import ConfigurationError
from cloudq.testing import collect, eventually, outgoing
from cloudq.testing.waiting import HELD, PATIENCE
from cloudq_gcp.client import access
from cloudq_gcp.pubsub import PubSub, open_broker
from cloudq_gcp.pubsub_requests import Requests
from tests.adapters.gcp.grpc_wire import Wire, refuse_leases
from tests.adapters.gcp.pubsub_peers import PROJECT, SUBSCRIPTIONS, OnEmulator, Raw, code_of, opened
from tests.servers import SOON, unique

# What gRPC says when it got no token for a request; the rest is google-auth's.
_PLUGIN = "Getting metadata from plugin failed with error:"


def published(name: str, body: bytes, context: grpc.ServicerContext) -> bytes:
    """Answer a request to publish as the service does: with an id for each message."""
    count = len(PublishRequest.deserialize(body).messages) if name == "Publish" else 0
    return PublishResponse.serialize(PublishResponse(message_ids=map(str, range(count))))


class TestRequests(OnEmulator):
    def test_a_batch_is_one_request_each_way(self, driver: PubSub, wire: Wire, queue: str) -> None:
        assert not driver.send(queue, [outgoing() for _ in range(50)])
        deliveries = driver.receive(queue, count=50, wait=1, lease=HELD)
        assert len(deliveries) == 50
        assert not driver.extend(deliveries, lease=HELD)
        assert not driver.ack(deliveries)
        assert wire.names() == [
            "Publish",
            "Pull",
            "GetSubscription",
            "ModifyAckDeadline",
            "ModifyAckDeadline",
            "Acknowledge",
        ]

    def test_a_publish_has_one_ordering_key(self, driver: PubSub, wire: Wire, queue: str) -> None:
        # Pub/Sub refuses another mixture, which its emulator does not.
        groups = ["a", None, "b", "a", None, "b", "c"]
        messages = [outgoing(group=group) for group in groups]
        assert not driver.send(queue, messages)
        sent = [PublishRequest.deserialize(body).messages for body in wire.requests("Publish")]
        keys = [{message.ordering_key for message in batch} for batch in sent]
        assert sorted(map(sorted, keys)) == [[""], ["a"], ["b"], ["c"]]
        ids = [[message.attributes["cloudq-id"] for message in batch] for batch in sent]
        assert [messages[0].id, messages[3].id] in ids

    def test_many_leases_are_split_into_what_a_request_bears(
        self, driver: PubSub, wire: Wire
    ) -> None:
        sizes: list[int] = []
        ids: list[str] = []

        def answer(name: str, body: bytes, context: grpc.ServicerContext) -> bytes:
            sizes.append(len(body))
            ids.extend(AcknowledgeRequest.deserialize(body).ack_ids)
            return b""

        wire.answer = answer
        deliveries = [
            Delivery(queue="q", id="", body=b"", receipt=f"{n:0700}", attempts=1, lease=1)
            for n in range(1000)
        ]
        assert not driver.ack(deliveries)
        assert len(sizes) == 2
        assert max(sizes) < 512 * 1024
        assert ids == [delivery.receipt for delivery in deliveries]

    def test_a_pull_that_the_service_holds_to_its_end_is_empty(
        self, driver: PubSub, wire: Wire, queue: str
    ) -> None:
        over = threading.Event()

        def answer(name: str, body: bytes, context: grpc.ServicerContext) -> bytes | None:
            if name == "Pull":
                context.add_callback(over.set)
                over.wait(PATIENCE)
            return None

        wire.answer = answer
        start = time.monotonic()
        assert list(driver.receive(queue, count=1, wait=0.5, lease=HELD)) == []
        assert 0.5 < time.monotonic() - start < SOON

    @pytest.mark.parametrize(("shortest", "given"), [(0.0, 1.5), (3.0, 3.0)])
    def test_a_pull_is_given_longer_than_the_wait(
        self, address: Address, wire: Wire, plain: str, shortest: float, given: float
    ) -> None:
        left: list[float] = []

        def answer(name: str, body: bytes, context: grpc.ServicerContext) -> bytes | None:
            left.append(context.time_remaining() or 0.0)
            return b""

        requests = Requests(access(address))
        requests.shortest_pull = shortest
        wire.answer = answer
        with closing(requests):
            assert not requests.pull(f"{SUBSCRIPTIONS}/{plain}", 1, 0.5)
        assert abs(left[0] - given) < 0.3
        assert len(left) < 10

    def test_dead_letters_are_looked_for_once(self, driver: PubSub, wire: Wire, queue: str) -> None:
        driver.send(queue, [outgoing(), outgoing()])
        found = collect(driver, queue, 2)
        wire.calls.clear()
        for delivery in found:
            assert not driver.dead_letter([delivery], reason="test")
        assert wire.names().count("GetSubscription") == 1

    def test_delays_and_leases_are_rounded_up(self, driver: PubSub, plain: str) -> None:
        driver.send(plain, [outgoing()])
        (delivery,) = collect(driver, plain, 1, lease=0.2)
        assert delivery.lease == 1
        collect(driver, plain, 1)


class TestRefusals(OnEmulator):
    def test_a_body_over_the_limit_leaves_the_others_sent(self, driver: PubSub, queue: str) -> None:
        large = outgoing(body=b"x" * (driver.limits(queue).body + 1))
        small = outgoing()
        (failure,) = driver.send(queue, [large, small])
        assert (failure.index, failure.code) == (0, Code.TOO_LARGE)
        assert collect(driver, queue, 1)[0].id == small.id

    def test_the_largest_request_is_within_what_the_service_takes(
        self, driver: PubSub, wire: Wire
    ) -> None:
        queue = unique() + "q" * (255 - len(unique()))
        wire.answer = published
        limits, group = driver.limits(queue), "g" * 1024
        whole = [replace(outgoing(group=group), id="i" * 1024)] * limits.batch
        driver.send(queue, [replace(whole[0], body=b"x" * limits.body)])
        body = b"x" * (limits.batch_body // limits.batch)
        driver.send(queue, [replace(message, body=body) for message in whole])
        sizes = [len(body) for body in wire.requests("Publish")]
        assert len(sizes) == 2
        assert 9_900_000 < max(sizes) <= 10_000_000

    def test_a_dead_letter_of_the_largest_body_fits(self, driver: PubSub, wire: Wire) -> None:
        queue = unique() + "q" * 225
        wire.answer = published
        body = b"x" * driver.limits(queue).body
        delivery = Delivery(
            queue=queue,
            id="i" * 1024,
            body=body,
            receipt=None,
            attempts=1,
            lease=1,
            group="g" * 1024,
        )
        driver._copy_to_dead([delivery], "é" * 2000)  # pyright: ignore[reportPrivateUsage]
        (size,) = [len(body) for body in wire.requests("Publish")]
        assert size <= 10_000_000

    def test_a_group_over_the_limit_is_sent_in_a_short_form(
        self, driver: PubSub, queue: str
    ) -> None:
        assert not driver.send(queue, [outgoing(), outgoing(group="g" * 1025)])
        groups = [delivery.group or "" for delivery in collect(driver, queue, 2)]
        assert sorted(map(len, groups)) == [0, 105]

    def test_a_group_that_is_refused_leaves_the_others_sent(
        self, driver: PubSub, wire: Wire, queue: str
    ) -> None:
        def answer(name: str, body: bytes, context: grpc.ServicerContext) -> bytes | None:
            if name == "Publish":
                messages = PublishRequest.deserialize(body).messages
                if messages[0].ordering_key == "b":
                    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota")
            return None

        wire.answer = answer
        failures = driver.send(queue, [outgoing(group=group) for group in "abcb"])
        assert [(f.index, f.code) for f in failures] == [
            (1, Code.THROTTLED),
            (3, Code.THROTTLED),
        ]
        assert {delivery.group for delivery in collect(driver, queue, 2)} == {"a", "c"}

    def test_a_call_that_fails_as_a_whole_raises(
        self, driver: PubSub, wire: Wire, queue: str
    ) -> None:
        wire.answer = lambda _, __, context: context.abort(
            grpc.StatusCode.UNAVAILABLE, "the connection was cut"
        )
        messages = [outgoing(group=group) for group in "ab"]
        assert code_of(driver, lambda: driver.send(queue, messages)) is Code.UNREACHABLE

    def test_exactly_once_answers_are_read_lease_by_lease(self, driver: PubSub, wire: Wire) -> None:
        told = {
            "lost": "PERMANENT_FAILURE_INVALID_ACK_ID",
            "later": "TRANSIENT_FAILURE_UNORDERED_ACK_ID",
            "odd": "PERMANENT_FAILURE_OTHER",
        }
        wire.answer = lambda _, __, context: refuse_leases(context, told)
        deliveries = [
            Delivery(queue="q", id="", body=b"", receipt=receipt, attempts=1, lease=1)
            for receipt in ("fine", "lost", "later", "fine too", "odd")
        ]
        expected = [(1, Code.LEASE_LOST), (2, Code.THROTTLED), (4, Code.INVALID)]
        for failures in (
            driver.ack(deliveries),
            driver.release(deliveries, after=0),
            driver.extend(deliveries, lease=30),
        ):
            assert [(failure.index, failure.code) for failure in failures] == expected

    def test_what_cannot_be_leased_is_not_received(
        self, driver: PubSub, wire: Wire, queue: str
    ) -> None:
        sent = [outgoing(), outgoing()]
        driver.send(queue, sent)

        def answer(name: str, body: bytes, context: grpc.ServicerContext) -> bytes | None:
            if name == "ModifyAckDeadline":
                (first, *_) = ModifyAckDeadlineRequest.deserialize(body).ack_ids
                refuse_leases(context, {first: "PERMANENT_FAILURE_INVALID_ACK_ID"})
            return None

        wire.answer = answer
        received = driver.receive(queue, count=2, wait=1, lease=HELD)
        assert [delivery.id for delivery in received] == [sent[1].id]

    def test_a_foreign_lease_is_refused(self, driver: PubSub, plain: str) -> None:
        driver.send(plain, [outgoing()])
        stranger = replace(collect(driver, plain, 1)[0], receipt="nobody's")
        assert code_of(driver, lambda: driver.ack([stranger])) is Code.INVALID

    @pytest.mark.parametrize(
        ("status", "text", "code"),
        [
            (grpc.StatusCode.NOT_FOUND, "Resource not found (resource=q)", Code.NOT_FOUND),
            (grpc.StatusCode.NOT_FOUND, "Requested project not found", Code.NOT_FOUND),
            (grpc.StatusCode.PERMISSION_DENIED, "User not authorized", Code.DENIED),
            (grpc.StatusCode.UNAUTHENTICATED, "invalid credentials", Code.CREDENTIALS),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded for metric", Code.THROTTLED),
            (grpc.StatusCode.ABORTED, "try again", Code.THROTTLED),
            (grpc.StatusCode.UNAVAILABLE, "The service is unable", Code.UNREACHABLE),
            (grpc.StatusCode.INTERNAL, "an error", Code.UNREACHABLE),
            (grpc.StatusCode.INVALID_ARGUMENT, "The request is too large", Code.TOO_LARGE),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max", Code.TOO_LARGE),
            (grpc.StatusCode.INVALID_ARGUMENT, "Some messages are empty", Code.INVALID),
            (grpc.StatusCode.FAILED_PRECONDITION, "is a push subscription", Code.INVALID),
            (grpc.StatusCode.UNIMPLEMENTED, "no such method", Code.UNSUPPORTED),
        ],
    )
    def test_errors_have_codes(
        self, driver: PubSub, wire: Wire, status: grpc.StatusCode, text: str, code: Code
    ) -> None:
        wire.answer = lambda _, __, context: context.abort(status, text)
        calls: list[Callable[[], object]] = [
            lambda: driver.send("default", [outgoing()]),
            lambda: driver.receive("default", count=1, wait=0, lease=HELD),
            lambda: driver.stats("default"),
        ]
        for call in calls:
            assert code_of(driver, call) is code

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (DefaultCredentialsError("none"), Code.CREDENTIALS),
            (RefreshError("expired"), Code.CREDENTIALS),
            (TransportError("no route"), Code.UNREACHABLE),
            (sdk.DeadlineExceeded("late"), Code.UNREACHABLE),
            (sdk.ServiceUnavailable(f"{_PLUGIN} ('invalid_grant: expired')"), Code.CREDENTIALS),
            (sdk.ServiceUnavailable(f"{_PLUGIN} Max retries exceeded with url"), Code.UNREACHABLE),
        ],
    )
    def test_errors_without_a_service_have_codes(
        self, driver: PubSub, error: Exception, code: Code
    ) -> None:
        assert driver.error_code(error) is code

    def test_another_project_has_another_queue(self, address: Address, bare: str) -> None:
        with opened(replace(address, host="somebody-else")) as abroad:
            assert code_of(abroad, lambda: abroad.send(bare, [outgoing()])) is Code.NOT_FOUND

    def test_a_topic_without_its_subscription_is_not_found(self, driver: PubSub, raw: Raw) -> None:
        name = unique()
        raw.topic(name)
        asked = code_of(driver, lambda: driver.receive(name, count=1, wait=0, lease=HELD))
        assert asked is Code.NOT_FOUND
        assert driver.list(name) == []

    @pytest.mark.parametrize("wait", [0, 20])
    @pytest.mark.parametrize("listening", [True, False])
    def test_a_host_that_does_not_answer_is_told_fast(self, listening: bool, wait: float) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            if listening:
                silent.listen()
            host = f"127.0.0.1:{silent.getsockname()[1]}"
            address = Address(scheme="pubsub", host=PROJECT, options={"emulator": host})
            start = time.monotonic()
            with opened(address) as driver:
                asked = code_of(driver, lambda: driver.receive("q", count=1, wait=wait, lease=HELD))
                assert time.monotonic() - start < SOON
                sent = code_of(driver, lambda: driver.send("q", [outgoing()]))
                assert asked is sent is Code.UNREACHABLE
                assert time.monotonic() - start < 2 * SOON

    def test_closing_ends_a_receive(self, address: Address, wire: Wire, queue: str) -> None:
        before = threading.active_count()
        with ThreadPoolExecutor(1) as pool, opened(address) as driver:
            future = pool.submit(driver.receive, queue, count=1, wait=2 * SOON, lease=HELD)
            eventually(lambda: "Pull" in wire.names())
            driver.close()
            error = future.exception(timeout=SOON)
            assert isinstance(error, Exception)
            assert driver.error_code(error) is Code.UNREACHABLE
        eventually(lambda: threading.active_count() <= before + 1)


class TestSetUp(OnEmulator):
    @pytest.fixture(autouse=True)
    def nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in (
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_CLOUD_PROJECT",
            "PUBSUB_PROJECT_ID",
            "PUBSUB_EMULATOR_HOST",
        ):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize(
        ("address", "message"),
        [
            (Address(scheme="pubsub", options={"regoin": "x"}), "no option 'regoin'; it knows a"),
            (Address(scheme="pubsub", host="x y"), '"x y" in pubsub is not the id of a Google'),
            (Address(scheme="pubsub", path="q", url="pubsub:///q"), "the project is all"),
            (Address(scheme="pubsub", options={"dead": "failed"}), "no {queue} in it"),
            (Address(scheme="pubsub", options={"dead": "{queue}"}), "is the queue itself"),
            (Address(scheme="pubsub", options={"subscription": "s"}), "no {queue} in it"),
            (Address(scheme="pubsub", options={"exactly_once": "yes"}), "neither true nor false"),
            (Address(scheme="pubsub", options={"account": "a@b"}), "need tasks=LOCATION/QUEUE"),
            (Address(scheme="pubsub", options={"tasks": "cloudq"}), "is not LOCATION/QUEUE"),
            (Address(scheme="pubsub", options={"tasks": "europe-west1/q"}), "tasks_endpoint"),
            (Address(scheme="pubsub", options={"endpoint": "e"}, url="URL"), "an emulator and an"),
        ],
    )
    def test_a_wrong_url_says_what_is_right(self, address: Address, message: str) -> None:
        options = {"emulator": "127.0.0.1:1", **address.options}
        with pytest.raises(ConfigurationError, match=message):
            open_broker(replace(address, host=address.host or PROJECT, options=options))

    def test_no_project_is_one_clear_line(self) -> None:
        with pytest.raises(ConfigurationError, match="no Google project for pubsub://"):
            open_broker(Address(scheme="pubsub", options={"emulator": "127.0.0.1:1"}))

    def test_no_credentials_are_one_clear_line(self) -> None:
        start = time.monotonic()
        with pytest.raises(ConfigurationError, match="no Google credentials for pubsub://"):
            open_broker(Address(scheme="pubsub", host=PROJECT))
        assert time.monotonic() - start < SOON

    def test_credentials_that_cannot_be_used_are_one_clear_line(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        wrong = tmp_path / "wrong.json"
        wrong.write_text(json.dumps({"type": "service_account"}))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(wrong))
        with pytest.raises(ConfigurationError, match="pubsub://"):
            open_broker(Address(scheme="pubsub", host=PROJECT))

    def test_project_and_emulator_come_from_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, wire: Wire, bare: str
    ) -> None:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{wire.port}")
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", PROJECT)
        with opened(Address(scheme="pubsub")) as driver:
            assert driver.list(bare) == [bare]
            assert not isinstance(driver, Scheduling)
