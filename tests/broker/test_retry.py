"""`retry=` and `retry_policy=` of a call: how often a message is sent again to a busy broker."""

from __future__ import annotations

from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, InvalidArguments, PublishError, chord, group
from cloudq.broker.broker import Broker
from cloudq.contrib.celery import Celery
from cloudq.driver import Code, Outgoing
from tests.support.bench import Bench


class Slow(Bench):
    """A bench whose broker notes its pauses instead of making them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.pauses: list[float] = []
        self.runtime._broker = Broker(
            self.wire,
            url="faulty://",
            publish_retries=self.conf.publish_retries,
            sleep=self.pauses.append,
        )


@pytest.fixture
def slow() -> Any:
    with Slow() as app:
        app.task(name="same")(same)
        app.wire.refuse = lambda message: Code.THROTTLED
        yield app


def same(value: Any = 1) -> Any:
    return value


def sends(app: Bench, **options: Any) -> int:
    """Count how often a call was sent before it was given up."""
    before = app.wire.calls["send"]
    with pytest.raises(PublishError):
        app.send_task("same", **options)
    return app.wire.calls["send"] - before


def test_as_the_app_says_without_a_word(slow: Slow) -> None:
    assert sends(slow) == 4
    assert slow.pauses == [0.1, 0.2, 0.4]


def test_a_call_that_is_not_to_be_sent_again(slow: Slow) -> None:
    assert sends(slow, retry=False) == 1
    assert sends(slow, retry=False, retry_policy={"max_retries": 5}) == 1
    assert slow.pauses == []


def test_a_policy_says_how_often_and_how_long(slow: Slow) -> None:
    policy = {"max_retries": 4, "interval_start": 0.5, "interval_step": 1, "interval_max": 2}
    assert sends(slow, retry=True, retry_policy=policy) == 5
    assert slow.pauses == [0.5, 1.5, 2.0, 2.0]
    slow.pauses.clear()
    assert sends(slow, retry_policy={"max_retries": 6}) == 7
    assert slow.pauses == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert sends(slow, retry_policy={"max_retries": 0}) == 1


def test_a_call_is_sent_again_where_the_app_s_are_not() -> None:
    with Slow(publish_retries=0) as app:
        app.wire.refuse = lambda message: Code.THROTTLED
        assert sends(app) == 1
        assert sends(app, retry=True) == 4
        assert app.pauses == [0.1, 0.2, 0.4]


def test_calls_that_are_sent_together_keep_their_own_policy(slow: Slow) -> None:
    task = slow.tasks["same"]
    tries: dict[str, int] = {}

    def refuse(message: Outgoing) -> Code:
        tries[message.id] = tries.get(message.id, 0) + 1
        return Code.THROTTLED

    slow.wire.refuse = refuse
    never = task.options(task_id="never", retry=False)
    often = task.options(task_id="often", retry_policy={"max_retries": 5})
    with pytest.raises(PublishError, match="3 of 3"):
        slow.publish([never.prepare(), often.prepare(), task.options(task_id="plain").prepare()])
    assert tries == {"never": 1, "often": 6, "plain": 4}


def test_members_of_workflows_keep_theirs_when_they_are_sent_at_the_call(slow: Slow) -> None:
    task = slow.tasks["same"]
    tries: dict[Any, int] = {}

    def refuse(message: Outgoing) -> Code:
        key = b'"args":[1]' in message.body
        tries[key] = tries.get(key, 0) + 1
        return Code.THROTTLED

    slow.wire.refuse = refuse
    hurried, plain = task.s(1).set(retry=False), task.s(2)
    for flow in (chord([hurried, plain], task.s()), group(each for each in (hurried, plain))):
        tries.clear()
        with pytest.raises(PublishError):
            flow.delay()
        assert tries == {True: 1, False: 4}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"retry": "yes"}, "retry is 'yes'"),
        ({"retry_policy": 3}, "retry_policy is 3: give a mapping"),
        ({"retry_policy": {"max_retry": 3}}, "did you mean max_retries"),
        ({"retry_policy": {"max_retries": None}}, "max_retries is None: it must be a whole number"),
        ({"retry_policy": {"max_retries": 1.5}}, "max_retries is 1.5"),
        (
            {"retry_policy": {"interval_step": -1}},
            "interval_step is -1: it must be",
        ),
        ({"retry_policy": {"interval_max": float("inf")}}, "interval_max is inf"),
    ],
)
def test_policies_that_cannot_be_are_refused_at_the_call(
    slow: Slow, options: Any, reason: str
) -> None:
    with pytest.raises(InvalidArguments, match=reason):
        slow.send_task("same", **options)
    with pytest.raises(InvalidArguments, match=reason):
        (slow.tasks["same"].s(1).set(**options) | slow.tasks["same"].s()).delay()
    assert slow.wire.calls["send"] == 0


def test_a_route_says_nothing_of_publishing() -> None:
    with pytest.raises(ConfigurationError, match="has 'retry', which is no option"):
        CloudQ("x", task_routes={"t": {"retry": False}})


def test_nothing_of_it_is_on_the_wire(app: Bench) -> None:
    app.task(name="same")(same).apply_async((1,), retry=True, retry_policy={"max_retries": 9})
    [body] = app.sent()
    assert not body.keys() & {"retry", "retry_policy"}


def test_celery_s_options_are_carried_over(recwarn: pytest.WarningsRecorder) -> None:
    app = Celery("shop", broker="memory://publish-policy")
    task = app.task(same)
    task.apply_async((1,), retry=False)
    task.apply_async((1,), retry=True, retry_policy={"max_retries": 2, "interval_start": 0.1})
    assert not recwarn.list
    with pytest.raises(InvalidArguments, match="did you mean interval_step"):
        task.apply_async((1,), retry_policy={"interval_steps": 1})
    with pytest.raises(ConfigurationError, match="a call is not tried for ever"):
        task.apply_async((1,), retry_policy={"max_retries": None})
    with pytest.raises(ConfigurationError, match="errback is not possible"):
        task.apply_async((1,), retry_policy={"errback": print})
    app.close()
