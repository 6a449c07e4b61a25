"""Push requests: who may send one, what is in it, and how it is answered."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, request

from cloudq import CloudQ
from cloudq.errors import ConfigurationError, Reject
from cloudq.messages.body import encode
from cloudq.messages.ids import bundled_id, new_bundle
from cloudq.messages.message import TaskMessage
from cloudq.results.record import State
from cloudq.testing.waiting import PATIENCE
from cloudq_gcp import PushEndpoint, push_handler
from cloudq_gcp.functions import queue_namer
from cloudq_gcp.push import ForeignBody, Pushed, from_event, from_request
from tests.functions.gcp.google_tokens import AUDIENCE, EMAIL, Keys, Signer, publishing, unsigned

GOOGLE = Signer("google-1")
STRANGER = Signer("google-1")  # a key of its own under a name that is known


@pytest.fixture
def keys() -> Iterator[Keys]:
    with publishing(Keys(GOOGLE)) as keys:
        yield keys


@pytest.fixture
def ran(app: CloudQ) -> list[int]:
    ran: list[int] = []

    @app.task(name="work")
    def work(x: int) -> int:
        ran.append(x)
        if x < 0:
            raise Reject("negative", requeue=True)
        return 2 * x

    return ran


@pytest.fixture
def endpoint(app: CloudQ, keys: Keys, ran: list[int]) -> PushEndpoint:
    return PushEndpoint(app, audience=AUDIENCE, email=EMAIL, certs_url=keys.url)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def call(x: int, id: str = "call-1") -> bytes:
    return encode(TaskMessage(id=id, task="work", args=[x]))


def wrapped(body: bytes, **more: Any) -> bytes:
    message = {"data": base64.b64encode(body).decode(), "messageId": "77", "attributes": {}}
    subscription = "projects/shop/subscriptions/orders"
    return json.dumps({"message": message, "subscription": subscription} | more).encode()


# ---- who sent it


def test_a_request_with_googles_token_runs_its_task(
    app: CloudQ, endpoint: PushEndpoint, ran: list[int]
) -> None:
    assert endpoint.answer(bearer(GOOGLE.token()), wrapped(call(21))) == (204, "")
    assert ran == [21]
    assert app.AsyncResult("call-1").get(timeout=1) == 42


def test_a_bundle_is_answered_when_each_of_its_calls_has_an_end(
    app: CloudQ, endpoint: PushEndpoint, ran: list[int]
) -> None:
    name = new_bundle()
    calls = [TaskMessage(id=bundled_id(name, n), task="work", args=[n]) for n in (2, 1, 0)]
    body = app.runtime.codec.encode_bundle(calls)
    for _ in range(2):  # a push may come twice
        assert endpoint.answer(bearer(GOOGLE.token()), wrapped(body)) == (204, "")
    assert ran == [2, 1, 0]
    assert [app.AsyncResult(call.id).get(timeout=1) for call in calls] == [4, 2, 0]


def test_what_is_put_back_of_a_bundle_goes_to_its_queue(
    app: CloudQ, endpoint: PushEndpoint, ran: list[int]
) -> None:
    name = new_bundle()
    calls = [
        TaskMessage(id=bundled_id(name, n), task="work", args=[n - 1], queue="orders")
        for n in range(2)
    ]
    body = app.runtime.codec.encode_bundle(calls)
    assert endpoint.answer(bearer(GOOGLE.token()), wrapped(body)) == (204, "")
    assert ran == [-1, 0]
    stats = app.broker.admin.stats("orders")
    assert (stats.ready or 0) + (stats.delayed or 0) == 1
    kept = app.runtime.codec.encode_bundle(calls[:1])
    status, _ = endpoint.answer(bearer(GOOGLE.token()), wrapped(kept))
    assert status >= 500, "all of it comes back by the subscription"


WRONG = {
    "no token": (None, 401, "no token was sent"),
    "basic": ("Basic dXNlcjpwYXNz", 401, "no token was sent"),
    "empty": ("Bearer ", 401, "no token was sent"),
    "no jwt": ("Bearer nonsense", 401, "not valid"),
    "cut off": (GOOGLE.token().rpartition(".")[0], 401, "Wrong number of segments"),
    "long": (GOOGLE.token(aud="x" * 1000), 401, "wrong audience"),
    "three parts": ("Bearer a.b.c", 401, "not valid"),
    "expired": (GOOGLE.token(iat=int(time.time()) - 7200, exp=int(time.time()) - 3600), 401, "exp"),
    "early": (GOOGLE.token(iat=int(time.time()) + 3600), 401, "too early"),
    "no end": (GOOGLE.token(exp=None), 401, "required claim exp"),
    "audience": (GOOGLE.token(aud="https://other.example.com"), 401, "wrong audience"),
    "no audience": (GOOGLE.token(aud=None), 401, "wrong audience"),
    "email": (GOOGLE.token(email="pusher@other.iam.gserviceaccount.com"), 403, "not of the exp"),
    "no email": (GOOGLE.token(email=None), 403, "not of the expected account"),
    "unverified": (GOOGLE.token(email_verified=False), 403, "not verified"),
    "as text": (GOOGLE.token(email_verified="true"), 403, "not verified"),
    "issuer": (GOOGLE.token(iss="https://evil.example.com"), 401, "issued by"),
    "other key": (STRANGER.token(), 401, "signature"),
    "unknown key": (Signer("google-2").token(), 401, "google-2 not found"),
    "alg none": (unsigned(), 401, "algorithm none"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_token_is_refused_in_one_line(
    endpoint: PushEndpoint, ran: list[int], wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    token, status, why = WRONG[wrong]
    header = token if token is None or " " in token else f"Bearer {token}"
    headers = {} if header is None else {"Authorization": header}
    with caplog.at_level(logging.WARNING):
        answered, text = endpoint.answer(headers, wrapped(call(1)))
    assert (answered, ran) == (status, [])
    assert why in text
    assert "\n" not in text
    assert len(text) < 300
    assert token is None or len(token) < 30 or token[:20] not in text, "a token is a secret"
    assert text in caplog.text


def test_any_of_several_audiences_will_do(app: CloudQ, keys: Keys, ran: list[int]) -> None:
    several = ("https://a.example.com", "https://b.example.com")
    endpoint = PushEndpoint(app, audience=several, email=EMAIL, certs_url=keys.url)
    for audience, status in zip((*several, AUDIENCE), (204, 204, 401), strict=True):
        token = GOOGLE.token(aud=audience)
        assert endpoint.answer(bearer(token), wrapped(call(1, audience)))[0] == status
    assert ran == [1, 1]


def test_keys_are_fetched_once_and_again_when_they_are_stale(
    endpoint: PushEndpoint, keys: Keys
) -> None:
    for _ in range(3):
        assert endpoint.answer(bearer(GOOGLE.token()), wrapped(call(1)))[0] == 204
    assert keys.asked == 1


def test_new_keys_are_known_when_the_old_answer_has_expired(
    app: CloudQ, keys: Keys, ran: list[int]
) -> None:
    keys.headers = {"Cache-Control": "max-age=0"}
    endpoint = PushEndpoint(app, audience=AUDIENCE, email=EMAIL, certs_url=keys.url)
    assert endpoint.answer(bearer(GOOGLE.token()), wrapped(call(1)))[0] == 204
    new = Signer("google-3")
    keys.published = {"google-3": new.certificate}
    assert endpoint.answer(bearer(GOOGLE.token()), wrapped(call(1, "b")))[0] == 401
    assert endpoint.answer(bearer(new.token()), wrapped(call(1, "c")))[0] == 204


@pytest.mark.parametrize("how", ["status", "unreachable", "nonsense", "jwk"])
def test_keys_that_cannot_be_fetched_are_a_nack(
    app: CloudQ, keys: Keys, ran: list[int], how: str
) -> None:
    url = keys.url
    if how == "status":
        keys.status = 500
    elif how == "unreachable":
        url = "http://127.0.0.1:1/certs"
    else:
        keys.body = b'{"keys": [{"kid": "1"}]}' if how == "jwk" else b"<html>"
    endpoint = PushEndpoint(app, audience=AUDIENCE, email=EMAIL, certs_url=url)
    status, text = endpoint.answer(bearer(GOOGLE.token()), wrapped(call(1)))
    assert (status, ran) == (503, [])
    assert "keys cannot be fetched" in text


def test_what_must_be_checked_must_be_named(app: CloudQ) -> None:
    for options in ({}, {"audience": AUDIENCE}, {"email": EMAIL}, {"audience": "", "email": EMAIL}):
        with pytest.raises(ConfigurationError, match="verify=False takes requests of anybody"):
            push_handler(app, **options)


# ---- what is in it


def test_a_wrapped_message_with_all_it_can_have() -> None:
    message = {
        "data": base64.b64encode(b"hello").decode(),
        "messageId": "2070443601311540",
        "message_id": "2070443601311540",
        "attributes": {"cloudq-id": "own"},
        "orderingKey": "customer-1",
        "publishTime": "2026-02-26T19:13:55.749Z",
    }
    body = {"message": message, "deliveryAttempt": 5, "subscription": "projects/p/subscriptions/q"}
    pushed = from_request({}, json.dumps(body).encode())
    delivery = pushed.delivery("q", 60)
    assert (pushed.subscription, pushed.topic) == ("q", None)
    assert (delivery.id, delivery.body, delivery.attempts) == ("own", b"hello", 5)
    assert (delivery.group, delivery.receipt) == ("customer-1", None)
    assert delivery.sent_at == pytest.approx(1772133235.749)


def test_a_message_without_a_wrapper_has_its_metadata_in_headers() -> None:
    headers = {
        "x-goog-pubsub-subscription-name": "projects/p/subscriptions/q",
        "x-goog-pubsub-message-id": "77",
        "x-goog-pubsub-publish-time": "2026-02-26T19:13:55.749Z",
        "x-goog-pubsub-ordering-key": "customer-1",
        "cloudq-id": "own",
    }
    pushed = from_request(headers, b"hello")
    delivery = pushed.delivery("q", 60)
    assert (pushed.subscription, delivery.id, delivery.body) == ("q", "own", b"hello")
    assert (delivery.group, delivery.sent_at) == ("customer-1", pytest.approx(1772133235.749))


def test_an_event_names_its_topic() -> None:
    data = {"message": {"data": "aGVsbG8=", "messageId": "1"}}
    pushed = from_event("//pubsub.googleapis.com/projects/p/topics/orders", data)
    assert (pushed.topic, pushed.subscription, pushed.data) == ("orders", None, b"hello")
    assert from_event("//pubsub.googleapis.com/", data).topic is None


FOREIGN = (
    b"",
    b"{nonsense",
    b"[1, 2]",
    b"null",
    b'"text"',
    b"\xff\xfe",
    b'{"hello": "world"}',
    b'{"message": "text"}',
    b'{"message": {}}',
    b'{"message": {"data": "aGVsbG8="}}',
    b'{"message": {"messageId": 7, "data": "aGVsbG8="}}',
    b'{"message": {"messageId": "7", "data": {"a": 1}}}',
    b'{"message": {"messageId": "7", "data": "no base64!"}}',
    b'{"message": {"messageId": "7", "data": "YQ==", "attributes": ["x"]}}',
    b'{"message": {"messageId": "7", "data": "YQ==", "orderingKey": 1}}',
)


@pytest.mark.parametrize("body", FOREIGN)
def test_a_foreign_body_is_a_bad_request(
    endpoint: PushEndpoint, ran: list[int], body: bytes
) -> None:
    status, text = endpoint.answer(bearer(GOOGLE.token()), body)
    assert (status, ran) == (400, [])
    assert text.startswith("no push of Pub/Sub: ")
    with pytest.raises(ForeignBody):
        from_request({}, body)


def test_metadata_may_be_missing() -> None:
    body = {"message": {"messageId": "1", "attributes": None}, "newer": "field"}
    pushed = from_request({}, json.dumps(body).encode())
    assert (pushed.published, pushed.attempts, pushed.subscription) == (None, 1, None)
    assert (pushed.data, pushed.attributes) == (b"", {})


# ---- how it is answered


def test_what_stays_is_a_nack_with_its_reason(
    app: CloudQ, endpoint: PushEndpoint, ran: list[int]
) -> None:
    answer = endpoint.answer(bearer(GOOGLE.token()), wrapped(call(-1)))
    assert answer == (503, "message 77 comes back: negative")
    assert ran == [-1]
    assert app.AsyncResult("call-1").state is State.PENDING


def test_without_verification_anybody_is_answered(app: CloudQ, ran: list[int]) -> None:
    endpoint = PushEndpoint(app, verify=False)
    assert endpoint.answer({}, wrapped(call(3))) == (204, "")
    assert ran == [3]


def test_a_message_runs_as_one_of_its_subscription(app: CloudQ) -> None:
    queues: list[str] = []

    @app.task(name="where", bind=True)
    def where(self) -> None:  # type: ignore[no-untyped-def]
        queues.append(self.request.queue)

    def push(handler: PushEndpoint, id: str, **more: Any) -> None:
        body = encode(TaskMessage(id=id, task="where"))
        assert handler.answer({}, wrapped(body, **more))[0] == 204

    push(PushEndpoint(app, verify=False), "1")
    push(PushEndpoint(app, verify=False), "2", subscription="projects/p/subscriptions/mail")
    push(PushEndpoint(app, verify=False, queue="own"), "3")
    push(PushEndpoint(app, verify=False), "4", subscription=None)
    assert queues == ["orders", "mail", "own", "orders"]


def test_the_brokers_url_says_how_subscriptions_are_named(make_app: Callable[..., CloudQ]) -> None:
    url = "pubsub://shop-project?emulator=127.0.0.1:1&prefix=eu-&subscription={queue}-push"
    app = make_app(broker=url, backend="none")
    name = queue_namer(app, None)

    def of(subscription: str | None = None, topic: str | None = None) -> str:
        return name(Pushed(id="1", data=b"", subscription=subscription, topic=topic))

    assert of("eu-mail-push") == "mail"
    assert of("mail-push") == "mail"
    assert of("eventarc-1", topic="eu-mail") == "mail"
    assert of("something-else") == of() == "orders", "the default queue"


def test_flask_makes_a_response_of_the_answer(app: CloudQ, keys: Keys, ran: list[int]) -> None:
    handler = push_handler(app, audience=AUDIENCE, email=EMAIL, certs_url=keys.url)
    site = Flask("site")
    site.add_url_rule("/push", view_func=lambda: handler(request), methods=["POST"])
    client = site.test_client()
    good = client.post("/push", data=wrapped(call(1)), headers=bearer(GOOGLE.token()))
    assert (good.status_code, good.data) == (204, b"")
    bad = client.post("/push", data=wrapped(call(1)))
    assert (bad.status_code, bad.text[:17]) == (401, "no token was sent")


def test_a_task_is_interrupted_before_the_function_times_out(
    make_app: Callable[..., CloudQ],
) -> None:
    app = make_app()

    @app.task(name="work")
    def work(x: int) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(0.01)

    endpoint = PushEndpoint(app, verify=False, timeout=1.0)
    started = time.monotonic()
    status, text = endpoint.answer({}, wrapped(call(1)))
    while "interrupted" not in text and time.monotonic() - started < PATIENCE:
        # On a busy machine half of its second is over before the call begins.
        status, text = endpoint.answer({}, wrapped(call(1)))
    assert time.monotonic() - started < PATIENCE, "left to itself it takes as long"
    assert (status, "interrupted" in text) == (503, True)


def test_the_time_is_that_of_cloud_run(
    app: CloudQ, monkeypatch: pytest.MonkeyPatch, ran: list[int]
) -> None:
    app.task(name="long", time_limit=400)(lambda: ran.append(1))
    body = wrapped(encode(TaskMessage(id="1", task="long")))
    limits: list[float | None] = []

    @app.task(name="limit", bind=True)
    def limit(self) -> None:  # type: ignore[no-untyped-def]
        limits.append(self.request.time_limit)

    monkeypatch.setenv("CLOUD_RUN_TIMEOUT_SECONDS", "540")
    endpoint = PushEndpoint(app, verify=False)
    assert endpoint.answer({}, body)[0] == 204
    endpoint.answer({}, wrapped(encode(TaskMessage(id="2", task="limit"))))
    assert limits == [pytest.approx(538, abs=30)]
    with pytest.raises(ConfigurationError, match="timeout=0"):
        PushEndpoint(app, verify=False, timeout=0)


# ---- hostile requests


def _segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "token",
    [
        f"{_segment(DEEP)}.e30.e30",
        f"{_segment(b'[' * 5000)}.e30.e30",
        f"e30.{_segment(b'[' * 5000 + b']' * 5000)}.e30",
        f"{_segment(b'[1]')}.{_segment(b'5')}.x",
        "x" * 1_000_000,
        "..",
        "\u00e9.\u00e9.\u00e9",
    ],
    ids=["deep", "cut", "claims", "arrays", "long", "empty", "accents"],
)
def test_a_hostile_token_is_refused_whatever_is_in_it(endpoint: PushEndpoint, token: str) -> None:
    assert endpoint.answer(bearer(token), wrapped(call(1)))[0] == 401


@pytest.mark.parametrize(
    "body",
    [
        DEEP,
        b'{"message": ' + DEEP + b"}",
        b'{"message": {"messageId": "1", "data": "YQ==", "attributes": ' + DEEP + b"}}",
        b'{"message": {"messageId": "1", "data": "YQ=="}, "deliveryAttempt": 1'
        + b"0" * 4000
        + b"}",
        b"\xff\xfe",
        b"x" * ((16 << 20) + 1),
    ],
    ids=["array", "message", "attributes", "attempt", "bytes", "long"],
)
def test_a_hostile_body_is_a_bad_request(endpoint: PushEndpoint, body: bytes) -> None:
    assert endpoint.answer(bearer(GOOGLE.token()), body)[0] == 400


class Unread:
    """A request of a stranger; nobody may read its body."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers

    def get_data(self) -> bytes:
        raise AssertionError("the body was read")


def test_the_body_of_a_stranger_is_not_read(app: CloudQ, keys: Keys, ran: list[int]) -> None:
    handler = push_handler(app, audience=AUDIENCE, email=EMAIL, certs_url=keys.url)
    assert handler(Unread({}))[1] == 401
    assert handler(Unread(bearer(STRANGER.token())))[1] == 401
    for length in ("99999999", "9" * 5000):
        named = bearer(GOOGLE.token()) | {"Content-Length": length}
        assert handler(Unread(named))[1] == 413
