"""A migration of messages that are signed, compressed, in other notations, or in Celery's form."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.broker.migration.compatibility import Compatibility
from cloudq.broker.migration.journal import Entry
from cloudq.driver import Limits, Outgoing
from cloudq.messages.message import TaskMessage
from cloudq.testing import drain
from tests.broker.migration.migrating import Ground, small
from tests.servers import unique

KEYS = {"signing_keys": {"k": "x" * 32}}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "signed": (KEYS, {}),
    "signed msgpack zstd": (
        {**KEYS, "accept_content": ["json", "msgpack"]},
        {"serializer": "msgpack", "compression": "zstd"},
    ),
    "yaml": ({"accept_content": ["json", "yaml"]}, {"serializer": "yaml"}),
    "zlib": ({}, {"compression": "zlib"}),
    "celery": ({"queue_accept": {"q": ["celery", "cloudq"]}}, {"protocol": "celery"}),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    return FORMS[request.param]


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    urls = [f"sqlite:///{tmp_path}/{unique('m')}.db?synchronous=off" for _ in range(2)]
    with Ground(*urls, tmp_path) as made:
        yield made


def shop(url: str, settings: dict[str, Any]) -> tuple[CloudQ, list[Any]]:
    """An app on a broker, and what its task was run with."""
    seen: list[Any] = []
    app = CloudQ("shop", broker=url, backend="none", task_default_queue="q", **settings)

    def pack(text: str, number: int = 0) -> None:
        seen.append((text, number))

    app.task(name="pack")(pack)
    return app, seen


def fill(app: CloudQ, call: dict[str, Any], **more: Any) -> None:
    app.send_task("pack", ("wide " * 300,), {"number": 7}, **call, **more)


def test_what_the_app_can_read_moves_and_runs(
    ground: Ground, form: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    settings, call = form
    source, _ = shop(ground.source_url, settings)
    target, seen = shop(ground.target_url, settings)
    with source, target:
        fill(source, call)
        [before] = source.broker.admin.peek("q", count=9)
        report = ground.run(codec=source.runtime.codec)
        assert report.complete, report.queues[0].left
        [after] = target.broker.admin.peek("q", count=9)
        assert (after.id, after.body) == (before.id, before.body)
        drain(target)
        assert seen == [("wide " * 300, 7)]


def test_without_the_app_it_stays_with_a_clear_line(
    ground: Ground, form: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    settings, call = form
    source, _ = shop(ground.source_url, settings)
    with source:
        fill(source, call)
    report = ground.run()
    assert not report.complete
    [reason] = report.queues[0].left
    assert "-A names the app that can read it, --raw moves it as it is" in reason
    assert not ground.inside(1)
    assert ground.run(raw=True).complete
    assert ground.inside(1).total() == 1


def test_a_signed_message_cannot_go_to_another_name(ground: Ground) -> None:
    source, _ = shop(ground.source_url, KEYS)
    with source:
        fill(source, {})
        report = ground.run(codec=source.runtime.codec, names={"q": "work"})
    [reason] = report.queues[0].left
    assert "it is for queue 'q', not for 'work'" in reason
    assert ground.inside(0).total() == 1


def test_a_stranger_s_signature_and_what_is_not_accepted_stay(ground: Ground) -> None:
    source, _ = shop(ground.source_url, FORMS["signed msgpack zstd"][0])
    stranger, _ = shop(ground.source_url, {"signing_keys": {"other": "y" * 32}})
    plain, _ = shop(ground.source_url, KEYS)
    with source, stranger, plain:
        fill(source, FORMS["signed msgpack zstd"][1])
        fill(stranger, {})
        fill(plain, {})
        report = ground.run(codec=plain.runtime.codec)
    left = sorted(report.queues[0].left)
    assert len(left) == 2
    assert all("no worker of the app could read it in 'q'" in reason for reason in left)
    assert any("'msgpack' is not in this app's accept_content" in reason for reason in left)
    assert ground.inside(1).total() == 1


def test_keys_and_times_inside_of_a_sealed_body_count(tmp_path: Path) -> None:
    def plain(limits: Limits) -> Limits:
        return replace(small(limits), ordered=False)

    url = f"sqlite:///{tmp_path}/{unique('m')}.db"
    other = f"sqlite:///{tmp_path}/{unique('m')}.db"
    with Ground(url, other, tmp_path, limits=(small, plain)) as ground:
        source, _ = shop(url, KEYS)
        with source:
            fill(source, {}, group_key="g")
            late = TaskMessage(id="late", task="pack", queue="q", not_before=time.time() + 500)
            ground.source.send("q", [Outgoing(id="late", body=source.runtime.codec.encode(late))])
            report = ground.run(codec=source.runtime.codec)
        assert list(report.queues[0].left) == [
            "has a group_key, and the target queue keeps no order"
        ]
        assert ground.inside(1) == {"late": 1}
        with CloudQ("target", broker=other, backend="none") as target:
            assert target.broker.admin.stats("q").delayed == 1  # by the time in its body


@pytest.mark.parametrize("has_app", [True, False])
def test_a_bundle_moves_as_it_is(tmp_path: Path, has_app: bool) -> None:
    first, second = (f"sqlite:///{tmp_path}/{unique('m')}.db" for _ in range(2))
    app, _ = shop(first, {})
    with app:
        task = app.tasks["pack"]
        app.publish([task.prepare("a", n) for n in range(4)], bundle=4)
        [peeked] = app.broker.admin.peek("q", count=2)
        fit = Compatibility(
            queue="q",
            limits=app.broker.limits("q"),
            stores_delayed=True,
            raw=False,
            token="t",
            codec=app.runtime.codec if has_app else None,
        )
        sent = fit.judge(Entry(peeked.id, b"", None), peeked.body, group=None)
    assert isinstance(sent, Outgoing)
    assert sent.body == peeked.body
    other, seen = shop(second, {})
    with other:
        other.broker.driver.send("q", [sent])
        drain(other, ["q"])
    assert seen == [("a", n) for n in range(4)]
