"""Rules of queues: what is not allowed there is dead-lettered with its reason, and nothing else."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, DecodeError, chain, chord, group
from cloudq.driver import Delivery
from cloudq.execution.queue_rules import refusal
from cloudq.messages.body import encode
from cloudq.messages.message import TaskMessage
from cloudq.testing import drain
from tests.servers import unique


def shop(**settings: Any) -> tuple[CloudQ, list[str]]:
    url = f"memory://{unique('rules')}"
    app = CloudQ("shop", broker=url, backend=url, task_default_queue="public", **settings)
    ran: list[str] = []
    for name in ("shop.mail.send", "shop.mail.drop", "shop.admin.wipe"):
        app.task(name=name)(lambda *args, name=name: ran.append(name))
    return app, ran


def reasons(app: CloudQ, queue: str = "public") -> list[str]:
    return [dead.reason or "" for dead in app.broker.admin.peek_dead(queue, count=50)]


def test_only_the_allowed_tasks_are_run() -> None:
    app, ran = shop(queue_tasks={"public": ["shop.mail.*"]})
    with app:
        sent = app.send_task("shop.mail.send")
        refused = app.send_task("shop.admin.wipe")
        elsewhere = app.send_task("shop.admin.wipe", queue="own")
        drain(app, queues=["public", "own"])
        assert ran == ["shop.mail.send", "shop.admin.wipe"]
        assert sent.successful()
        assert elsewhere.successful()
        why = "task 'shop.admin.wipe' is not run from queue 'public': see queue_tasks"
        assert reasons(app) == [why]
        with pytest.raises(DecodeError, match="is not run from queue"):
            refused.get(timeout=1)


@pytest.mark.parametrize("pattern", ["shop.mail.sen", "SHOP.mail.send", "mail.send", ""])
def test_a_pattern_is_of_the_whole_name(pattern: str) -> None:
    app, ran = shop(queue_tasks={"public": [pattern]})
    with app:
        app.send_task("shop.mail.send")
        drain(app)
        assert not ran
        assert len(reasons(app)) == 1


def test_an_empty_list_allows_none() -> None:
    app, ran = shop(queue_tasks={"public": []})
    with app:
        app.send_task("shop.mail.send")
        drain(app)
        assert not ran


def test_calls_of_bundles_are_judged_too() -> None:
    app, ran = shop(queue_tasks={"public": ["shop.mail.*"]})
    with app:
        wipe, send = app.tasks["shop.admin.wipe"], app.tasks["shop.mail.send"]
        app.publish([task.prepare() for task in (send, wipe, send, wipe)], bundle=4)
        app.publish([wipe.prepare() for _ in range(4)], bundle=4)
        drain(app)
        assert ran == ["shop.mail.send"] * 2
        assert len(reasons(app)) == 6


def test_the_bytes_of_a_bundle_are_those_of_each_of_its_calls() -> None:
    app, ran = shop(queue_limits={"public": {"bytes": 1_000}})
    with app:
        send = app.tasks["shop.mail.send"]
        app.publish([send.prepare("x" * size) for size in (400, 1_000, 400, 400)], bundle=4)
        drain(app)
        assert ran == ["shop.mail.send"] * 3
        assert len(reasons(app)) == 1


def of_all_kinds(send: Any, wipe: Any) -> list[Any]:
    """Workflows that begin with one task and go on to another, wherever that is to run."""
    return [
        chain(send.si(), wipe.si()),
        chain(send.si(), group(send.si(), wipe.si())),
        chain(send.si(), chord([send.si()], wipe.si())),
        chain(send.si(), chord([wipe.si(), send.si()], send.si())),
        chain(send.si(), send.si().on_error(wipe.si())),
        chain(send.si(), wipe.map([1])),
        send.si().set(link=wipe.si()),
        send.si().set(link=group(send.si(), wipe.si())),
        send.si().on_error(wipe.si()),
        wipe.map([1]),
        wipe.starmap([[1]]),
    ]


def test_no_call_brings_along_what_its_queue_may_not_start() -> None:
    app, ran = shop(queue_tasks={"public": ["shop.mail.*", "cloudq.*"]})
    with app:
        wipe, send = app.tasks["shop.admin.wipe"], app.tasks["shop.mail.send"]
        nodes = of_all_kinds(send, wipe)
        celery: dict[str, Any] = {
            "task": "celery.group",
            "subtask_type": "group",
            "kwargs": {"tasks": [{"task": "shop.admin.wipe", "args": [], "kwargs": {}}]},
        }
        wrong = send.s().on_error(wipe.si())
        wrong.task = "shop.mail.unknown"
        nodes.append(wrong)
        message = TaskMessage(id="a", task="shop.mail.send", queue="public", link=[celery])
        app.broker.send([message])
        for node in nodes:
            node.apply_async()
        drain(app)
        assert not ran
        said = reasons(app)
        assert len(said) == len(nodes) + 1
        assert sum("'shop.admin.wipe' is" in each for each in said) == len(said) - 1
        assert sum("unknown task 'shop.mail.unknown'" in each for each in said) == 1


def test_error_callbacks_that_are_allowed_are_told_of_a_call_that_is_refused() -> None:
    app, ran = shop(queue_tasks={"public": ["shop.mail.*"]})
    with app:
        wipe, send = app.tasks["shop.admin.wipe"], app.tasks["shop.mail.send"]
        wipe.s().on_error(send.si()).apply_async()
        drain(app)
        assert ran == ["shop.mail.send"]


def test_workflows_of_allowed_tasks_are_run_whole() -> None:
    app, ran = shop(queue_tasks={"public": ["shop.mail.*"]})
    with app:
        send, drop = app.tasks["shop.mail.send"], app.tasks["shop.mail.drop"]
        for node in of_all_kinds(send, drop):
            node.apply_async()
        many: Any = chain(
            group(chain(send.si(), group(send.si(), drop.si())), drop.si()), send.si()
        )
        many.apply_async()
        drain(app)
        assert not reasons(app)
        assert ran.count("shop.mail.drop") == 11


def test_size_depth_and_age_have_limits() -> None:
    limits = {"public": {"bytes": 2000, "depth": 2, "age": 3600}}
    app, ran = shop(queue_limits=limits)

    def sent(**fields: Any) -> None:
        message = TaskMessage(
            id=unique("id"),
            task="shop.mail.send",
            queue="public",
            **{"sent_at": time.time(), **fields},
        )
        app.broker.send([message])

    with app:
        sent()
        sent(args=["x" * 2000])
        sent(depth=2)
        sent(depth=3)
        sent(sent_at=time.time() - 3500)
        sent(sent_at=time.time() - 4000)
        drain(app)
        assert len(ran) == 3
        said = sorted(reasons(app))
        assert len(said) == 3
        assert said[0].startswith("3 calls deep, and queue 'public' allows 2")
        assert said[1].startswith("4,000 s old, and queue 'public' allows 3,600")
        assert said[2].startswith("oversized: 2,")


def test_one_that_was_put_off_is_as_old_as_it_is_due() -> None:
    app, ran = shop(queue_limits={"public": {"age": 1}})
    with app:
        now = time.time()
        message = TaskMessage(
            id="later",
            task="shop.mail.send",
            queue="public",
            sent_at=now - 9999,
            not_before=now - 5,
        )
        assert encode(message)
        app.broker.send([message])
        drain(app)
        assert ran


def test_a_queue_known_by_its_url_has_the_rules_of_its_name() -> None:

    app, _ = shop(queue_tasks={"public": ["shop.mail.*"]})
    url = "https://sqs.eu-west-1.amazonaws.com/123/public"
    message = TaskMessage(id="a", task="shop.admin.wipe")
    delivery = Delivery(queue=url, id="a", body=b"", receipt=None, attempts=1, lease=0.0)
    assert refusal(app.conf, app.tasks, delivery, message, 0.0) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue_limits": {"public": {"size": 5}}},
        {"queue_limits": {"public": {"bytes": -1}}},
        {"queue_limits": {"public": 5}},
        {"queue_tasks": {"public": "shop.mail.*"}},
    ],
)
def test_wrong_rules_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="queue_"):
        shop(**wrong)
