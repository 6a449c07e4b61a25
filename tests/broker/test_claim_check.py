"""The choice of what goes to the payload store, and what the message is then."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, MessageTooLarge, chain, chord, group
from cloudq.broker.claim_check import ClaimCheck
from cloudq.errors import PayloadError
from cloudq.messages.compression import COMPRESSIONS
from cloudq.messages.message import TaskMessage

OVER = 4096


@pytest.fixture
def app(tmp_path: Path) -> CloudQ:
    made = CloudQ(
        "claims",
        broker=f"sqlite:///{tmp_path}/q.db",
        payload_store=f"file://{tmp_path}/payloads",
        payload_store_over=OVER,
    )

    @made.task(name="take")
    def take(*args: Any, **kwargs: Any) -> None: ...

    return made


def sent(app: CloudQ, *, count: int = 1) -> list[dict[str, Any]]:
    """The bodies that wait, as JSON."""
    peeked = app.broker.admin.peek("default", count=10)
    assert len(peeked) == count
    return [json.loads(each.body) for each in peeked]


def stored(tmp_path: Path) -> list[bytes]:
    return sorted(
        (path.read_bytes() for path in (tmp_path / "payloads").rglob("*") if path.is_file()),
        key=lambda content: (len(content), content),
    )


def test_small_calls_touch_no_store(app: CloudQ, tmp_path: Path) -> None:
    with app:
        app.send_task("take", ["x" * (OVER // 2)])
        assert sent(app)[0]["args"] == ["x" * (OVER // 2)]
    assert not (tmp_path / "payloads").exists()


def test_the_largest_goes_and_the_others_stay(app: CloudQ, tmp_path: Path) -> None:
    with app:
        app.send_task("take", ["a" * 1500, "b" * 9000, 7], {"c": "c" * 900, "d": b"d" * 9000})
        [body] = sent(app)
    assert body["args"][0] == "a" * 1500
    assert set(body["args"][1]["$blob"]) == {"key", "size", "sha256", "as"}
    assert body["args"][2] == 7
    assert body["kwargs"]["c"] == "c" * 900
    assert body["kwargs"]["d"]["$blob"]["as"] == "bytes"
    assert len(json.dumps(body)) <= OVER
    assert stored(tmp_path) == [b"b" * 9000, b"d" * 9000]


def test_no_more_goes_than_has_to(app: CloudQ) -> None:
    """The message fits to the byte once the largest is out of it."""
    claims = ClaimCheck(app.broker.codec, app.runtime.payloads)
    message = TaskMessage(id="a", task="take", args=["a" * 4000, "b" * 4001])
    body = app.broker.codec.encode(message)
    small = claims.fit(message, body, len(body) - 1)
    exact = json.loads(claims.fit(message, body, len(small)))
    assert exact["args"][0] == "a" * 4000
    assert "$blob" in exact["args"][1]
    assert "$blob" in json.loads(claims.fit(message, body, len(small) - 1))["args"][0]


def test_calls_that_follow_have_theirs(app: CloudQ, tmp_path: Path) -> None:
    take = app.tasks["take"]
    with app:
        later = group(take.s("b" * 9000), chain(take.s(k="c" * 9000), take.s(1)))
        chain(take.s(1), later).apply_async(link_error=take.s("e" * 9000))
        [body] = sent(app)
    assert len(json.dumps(body)) <= OVER
    assert "$blob" not in json.dumps(body["args"])
    assert b"b" * 9000 in stored(tmp_path)
    assert b"c" * 9000 in stored(tmp_path)


@pytest.mark.parametrize("over", [None, OVER])
@pytest.mark.parametrize("large", [0, 1])
def test_many_small_ones_are_refused_with_the_reason(
    tmp_path: Path, over: int | None, large: int
) -> None:
    """Nothing is stored of what is not sent, whatever else could have been put away."""
    store = f"file://{tmp_path}/p"
    app = CloudQ("small", broker="memory://claims", payload_store=store, payload_store_over=over)
    with app:
        most = app.broker.limits("default").body
        app.task(name="take")(lambda *args: None)
        with pytest.raises(MessageTooLarge, match=r"takes [\d,]+: set payload_store, say to s3:"):
            app.send_task("take", ["x" * 900] * (most // 900 + 1) + ["y" * 9000] * large)
    assert not (tmp_path / "p").exists()


def test_what_stays_too_large_for_over_goes_with_its_claims(app: CloudQ, tmp_path: Path) -> None:
    with app:
        app.send_task("take", [*["x" * 900] * 10, "y" * 9000])
        [body] = sent(app)
    assert body["args"][:10] == ["x" * 900] * 10
    assert "$blob" in body["args"][10]
    assert stored(tmp_path) == [b"y" * 9000]


def test_what_claims_would_make_no_smaller_stays(app: CloudQ, tmp_path: Path) -> None:
    """Compressed, the text has fewer bytes than a claim to it."""
    with app:
        app.send_task(
            "take", [*(os.urandom(450).hex() for _ in range(10)), "y" * 2000], compression="zlib"
        )
        assert app.broker.admin.peek("default", count=1)
    assert not (tmp_path / "payloads").exists()


@pytest.mark.parametrize(("size", "count"), [(1023, 0), (1024, 1)])
def test_values_below_a_kilobyte_stay(app: CloudQ, tmp_path: Path, size: int, count: int) -> None:
    """The JSON of a text has two quotes."""
    with app:
        app.send_task("take", [*["x" * 900] * 5, "y" * (size - 2)])
    assert len(stored(tmp_path)) == count


def test_the_body_of_a_chord_that_follows_has_its_claims(app: CloudQ, tmp_path: Path) -> None:
    take = app.tasks["take"]
    with app:
        chain(take.s(1), chord([take.s(2), take.s(3)], take.s("b" * 9000, k="c" * 9000))).delay()
        [body] = sent(app)
    last = body["chain"][0]["body"]
    assert "$blob" in last["args"][0]
    assert "$blob" in last["kwargs"]["k"]
    assert stored(tmp_path) == [b"b" * 9000, b"c" * 9000]


def test_each_of_many_that_are_sent_together_has_its_claims(app: CloudQ, tmp_path: Path) -> None:
    take = app.tasks["take"]
    with app:
        app.publish([take.prepare(letter * 9000) for letter in "abc"])
        bodies = sent(app, count=3)
    assert all("$blob" in body["args"][0] for body in bodies)
    assert stored(tmp_path) == [b"a" * 9000, b"b" * 9000, b"c" * 9000]


@pytest.mark.parametrize("form", [{"protocol": "loud"}, {"serializer": "pickle"}])
def test_what_others_read_and_what_is_pickled_has_no_claims(
    app: CloudQ, tmp_path: Path, form: dict[str, Any]
) -> None:
    claims = ClaimCheck(app.broker.codec, app.runtime.payloads)
    message = TaskMessage(id="a", task="take", args=["x" * 9000], **form)
    body = b"x" * 10_000  # as another format would write it
    assert claims.fit(message, body, OVER) is body
    assert not (tmp_path / "payloads").exists()


def test_over_is_no_limit(app: CloudQ, tmp_path: Path) -> None:
    """A message that cannot be made smaller goes as it is, where the queue takes it."""
    with app:
        app.send_task("take", ["x" * 900] * 10)
        assert sent(app)[0]["args"] == ["x" * 900] * 10
    assert not (tmp_path / "payloads").exists()


def test_without_a_store_the_error_names_the_setting() -> None:
    app = CloudQ("none", broker="memory://claims-none")
    with app, pytest.raises(MessageTooLarge, match="set payload_store, say to s3://bucket/prefix"):
        app.send_task("take", ["x" * (app.broker.limits("default").body + 1)])


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_compression_makes_small_stays(app: CloudQ, tmp_path: Path, compression: str) -> None:
    with app:
        app.send_task("take", ["x" * 100_000], compression=compression)
        assert len(app.broker.admin.peek("default", count=1)[0].body) < OVER
    assert not (tmp_path / "payloads").exists()


def test_signed_messages_sign_their_claims(tmp_path: Path) -> None:
    app = CloudQ(
        "signed",
        broker=f"sqlite:///{tmp_path}/q.db",
        payload_store=f"file://{tmp_path}/payloads",
        payload_store_over=OVER,
        signing_keys={"a": "k" * 32},
    )
    with app:
        app.send_task("take", ["x" * 100_000])
        [body] = sent(app)
    assert body["sig"]
    assert body["body"]["args"][0]["$blob"]["size"] == 100_000


def test_a_store_that_fails_sends_nothing(tmp_path: Path) -> None:
    (tmp_path / "payloads").write_text("no folder")
    app = CloudQ(
        "fails",
        broker=f"sqlite:///{tmp_path}/q.db",
        payload_store=f"file://{tmp_path}/payloads",
        payload_store_over=OVER,
    )
    with app:
        with pytest.raises(PayloadError, match="cannot write"):
            app.send_task("take", ["x" * 100_000])
        sent(app, count=0)


def test_one_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    app = CloudQ(
        "limited",
        broker=f"sqlite:///{tmp_path}/q.db",
        payload_store_over=OVER,
        payload_limit=50_000,
    )
    with app:
        with pytest.raises(Exception, match="100,000 bytes, and this app takes 50,000: see paylo"):
            app.send_task("take", ["x" * 100_000])
        sent(app, count=0)


def test_an_embedded_app_has_a_store_beside_its_file(tmp_path: Path) -> None:
    app = CloudQ("beside", broker=f"sqlite:///{tmp_path}/a b%25.db", payload_store_over=OVER)
    with app:
        app.send_task("take", ["x" * 100_000])
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["a b%.db-payloads"]
    off = CloudQ("off", broker=f"sqlite:///{tmp_path}/q.db", payload_store="none")
    assert off.conf.payload_url is None
