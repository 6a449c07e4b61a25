"""Signatures as the dictionaries that Celery's users know. Each was tried with Celery 5.7."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import cloudq
from cloudq.contrib.celery import (
    Celery,
    Signature,
    chain,
    chord,
    group,
    maybe_signature,
    signature,
)
from cloudq.errors import ConfigurationError, InvalidArguments
from cloudq.testing import drain
from cloudq.testing.kit.workers import Worker


class Sums:
    """An app with a few tasks."""

    def __init__(self) -> None:
        self.app = Celery("sums", broker="memory://signatures")
        app = self.app

        @app.task(name="add")
        def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="total")
        def total(values: list[int]) -> int:
            return sum(values)

        @app.task(name="run")
        def run(given: Any) -> list[Any]:
            return [type(given).__name__, signature(given).apply_async().id]

        @app.task(name="give")
        def give() -> Any:
            return add.s(2, 2)

        self.add, self.total, self.run, self.give = add, total, run, give


@pytest.fixture
def t() -> Iterator[Sums]:
    made = Sums()
    with made.app:
        yield made


KINDS: dict[str, Any] = {
    "signature": (lambda t: t.add.s(1, 2), 3),
    "immutable": (lambda t: t.add.si(1, 2), 3),
    "options": (lambda t: t.add.s(1, 2).set(queue="celery", expires=60), 3),
    "callbacks": (lambda t: t.add.s(1, 2).on_error(t.total.s()), 3),
    "chain": (lambda t: t.add.s(1, 2) | t.add.s(3), 6),
    "group": (lambda t: group(t.add.s(1, 1), t.add.s(2, 2)), [2, 4]),
    "chord": (lambda t: chord([t.add.s(1, 1), t.add.s(2, 2)], t.total.s()), 6),
    "nested": (lambda t: chain(t.add.s(1, 1), group(t.add.s(1), t.add.s(2)), t.total.s()), 7),
}


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, t: Sums) -> tuple[Any, Any]:
    make, value = KINDS[request.param]
    return make(t), value


def plain(task: str, *args: int, **more: Any) -> dict[str, Any]:
    """A call as Celery shows it once it has been JSON."""
    made: dict[str, Any] = {"task": task, "args": list(args), "kwargs": {}, "options": {}}
    return {**made, "subtask_type": None, "immutable": False, **more}


def test_what_a_dictionary_has(t: Sums) -> None:
    call = t.add.s(1, 2).set(queue="q")
    assert dict(call) == {
        "task": "add",
        "args": (1, 2),
        "kwargs": {},
        "options": {"queue": "q"},
        "subtask_type": None,
        "immutable": False,
    }
    one, two = plain("add", 1, 1), plain("add", 2, 2)
    several = json.loads(
        json.dumps([group(t.add.s(1, 1), t.add.s(2, 2)), t.add.s(1, 1) | t.add.s(5)])
    )
    assert several == [
        plain("celery.group", kwargs={"tasks": [one, two]}, subtask_type="group"),
        plain("celery.chain", kwargs={"tasks": [one, plain("add", 5)]}, subtask_type="chain"),
    ]
    joined = chord([t.add.s(1, 1)], t.total.s())
    assert json.loads(json.dumps(joined))["kwargs"] == {
        "header": [one],
        "body": plain("total"),
        "kwargs": {},
    }


def test_a_dictionary_as_others_read_it(case: tuple[Any, Any]) -> None:
    node, _ = case
    assert isinstance(node, dict)
    assert isinstance(node, Signature)
    assert node
    assert [*node] == [*node.keys()] == [*dict(node)] == [*{**node}]
    assert [node["task"], node.get("subtask_type")] == [node.task, node.subtask_type]
    assert node.get("none", 5) == 5
    assert "task" in node
    assert node == dict(node)
    assert node == node.clone() == copy.copy(node) == copy.deepcopy(node)
    assert node != node.clone().set(countdown=7)
    with pytest.raises(KeyError):
        node["none"]


def test_json_and_pickles_come_back(case: tuple[Any, Any]) -> None:
    node, value = case
    found: list[Any] = [
        signature(json.loads(json.dumps(node))),
        Signature.from_dict(dict(node)),
        maybe_signature(dict(node)),
        pickle.loads(pickle.dumps(node)),
    ]
    for again in found:
        assert again == node
        assert again.apply().get() == value


def test_a_signature_is_an_argument_and_a_value(t: Sums, case: tuple[Any, Any]) -> None:
    node, _ = case
    node = node.clone()
    for given in (node, dict(node), json.loads(json.dumps(node))):
        sent: Any = t.run.delay(given)
        drain(t.app)
        assert sent.get(timeout=1)[0] == "dict"
    gave: Any = t.give.delay()
    drain(t.app)
    assert signature(gave.get(timeout=1)).apply().get() == 4


def test_what_is_set_is_what_runs(t: Sums) -> None:
    call: Any = t.add.s(1)
    call["args"] = [5, 6]
    assert (call.args, call.apply().get()) == ((5, 6), 11)
    call.args = (7,)
    assert call["args"] == (7,)
    call["kwargs"].update(y=1)
    assert (call.kwargs, call.apply().get()) == ({"y": 1}, 8)
    call["options"].update(queue="q")
    call.update(immutable=True, mine=1)
    assert (call.options, call.immutable, call["mine"]) == ({"queue": "q"}, True, 1)
    assert json.loads(json.dumps(call))["mine"] == call.clone()["mine"] == call.pop("mine") == 1
    assert "mine" not in call
    call["options"] = {"task_id": "given", "link": [t.total.s()]}
    assert (call.id, call.links) == ("given", [t.total.s()])
    with pytest.raises(TypeError, match="always has task"):
        del call["task"]
    with pytest.raises(TypeError, match="group has no kwargs"):
        group(call)["kwargs"] = {}


def test_more_of_its_names(t: Sums) -> None:
    call: Any = t.add.s(1, 2)
    assert (call.name, call.type.name, call.reprcall(7)) == ("add", "add", "add(7, 1, 2)")
    call.set_immutable(True)
    assert call["immutable"]
    assert call.clone(countdown=3).options == {"countdown": 3}
    assert call.replace(args=(4,), options={"queue": "z"}).args == (4,)
    assert t.add.s(1, 2).freeze("mine").id == "mine"
    assert len(call.clone().link(t.add.s(1).link(t.add.s(2))).flatten_links()) == 3
    made: Any = t.add.s(1, 2)
    made |= t.add.s(3)
    assert made.apply().get() == 6
    skewed = group(t.add.s(n, n) for n in range(4)).skew(start=1, stop=10, step=2)
    assert [member.options["countdown"] for member in skewed.tasks] == [1, 3, 5, 7]
    with pytest.raises(ConfigurationError, match="headers"):
        call.stamp(tenant="a")


def test_a_call_is_made_by_its_parts(t: Sums) -> None:
    made = Signature("add", args=(1, 2), options={"queue": "q"}, countdown=4, immutable=True)
    assert dict(made)["options"] == {"queue": "q", "countdown": 4}
    assert Signature(t.add, (1, 2)).apply().get() == 3
    assert isinstance(made, cloudq.Signature)
    found: list[Any] = [group([made], app=t.app), chain(made, app=t.app), chord([made], app=t.app)]
    assert [each.app for each in found] == [t.app] * 3


def test_tilde_waits_for_the_value(t: Sums) -> None:
    with Worker(t.app):
        assert ~t.add.s(1, 2) == 3


def test_frozen_nodes_are_sent_with_their_ids(t: Sums, case: tuple[Any, Any]) -> None:
    node, value = case
    frozen = node.freeze()
    sent = node.set(queue="celery").apply_async()
    assert sent.id == frozen.id
    drain(t.app)
    assert frozen.get(timeout=1) == sent.get(timeout=1) == value


class TestOptionsOfAChain:
    def test_what_is_set_can_be_read(self, t: Sums) -> None:
        steps = t.add.s(1, 2) | t.add.s(3)
        assert steps.set(countdown=5, queue="q").options == {"countdown": 5, "queue": "q"}
        assert steps.clone(countdown=7)["options"] == {"countdown": 7, "queue": "q"}
        assert steps["options"] == {"countdown": 5, "queue": "q"}
        assert [step.options for step in steps.tasks] == [{}, {}]
        read = signature(json.loads(json.dumps(steps)))
        assert (read["options"], read.delay().id != steps.delay().id) == (steps["options"], True)

    @pytest.mark.parametrize("kind", ["chain", "group", "chord"])
    def test_what_is_put_among_them_takes_effect(self, t: Sums, kind: str) -> None:
        members = [t.add.s(1, 2), t.add.s(3, 4)]
        nodes = {"chain": members[0] | t.add.s(3), "group": group(members)}
        node: Any = {**nodes, "chord": chord(members, t.total.s())}[kind]
        node["options"].update(queue="other")
        node.delay()
        assert not drain(t.app, queues=["celery"])
        # A chord's are those of its body too.
        assert len(drain(t.app, queues=["other"])) == {"chain": 1, "group": 2, "chord": 3}[kind]
        inside: Any = chord([node, t.add.s(1, 1)], t.total.s())
        inside.delay()
        assert drain(t.app, queues=["other"])

    def test_a_signature_in_it_is_not_changed(self, t: Sums) -> None:
        same: Any = t.add.si(1, 2)
        nodes: list[Any] = [chain(same, same), group([same, same]), chord([same], same)]
        for node in nodes:
            node.set(queue="other", task_id="x").clone(countdown=5)
            assert (same.options, same.id) == ({}, None)
            started = node.delay()
            assert started.id == "x"
        nodes[0].set_immutable(True)
        assert t.add.s(1, 2).immutable is False
        assert (same.options, same.id) == ({}, None)
        same.delay()
        assert len(drain(t.app, queues=["celery"])) == 1

    def test_they_hold_wherever_it_stands(self, t: Sums) -> None:
        def routed() -> Any:
            return (t.add.si(1, 2) | t.add.si(3, 4)).set(queue="other")

        nodes: list[tuple[Any, int]] = [
            (routed() | t.add.si(1, 1), 1),
            (chain(routed(), t.add.si(1, 1)), 1),
            (group([routed(), routed()]), 2),
            (group(routed() for _ in range(2)), 2),
            (group(t.add.si(1, 1) for _ in range(3)).set(queue="other"), 3),
            (group([group([t.add.si(1, 1)] * 2).set(queue="other")]), 2),
            (chord((t.add.si(1, 1) for _ in range(3)), t.total.s()).set(queue="other"), 4),
            (group([t.add.si(1, 1)] * 2).set(queue="other") | t.total.s(), 2),
            (chord([routed()], t.total.s()), 1),
        ]
        for node, count in nodes:
            node.delay()
            assert len(drain(t.app, queues=["other"])) == count
            drain(t.app)
        for node in (t.add.si(1, 1) | group([t.add.si(1, 1)]).set(queue="other"), routed()):
            t.add.apply_async((1, 1), link=node)
            drain(t.app, queues=["celery"])
            drain(t.app, queues=["celery"])
            assert len(drain(t.app, queues=["other"])) == 1
            drain(t.app)

    def test_a_wrong_one_is_refused_before_anything_is_sent(self, t: Sums) -> None:
        steps: Any = t.add.si(1, 2) | t.add.si(3, 4)
        steps.set(nope=1)
        nodes: list[Any] = [steps, group([steps]), group([t.add.si(1, 1)]).set(nope=1)]
        for node in nodes:
            with pytest.raises((ConfigurationError, InvalidArguments), match="nope"):
                node.delay()
        assert not drain(t.app)

    def test_an_immutable_one_takes_no_value(self, t: Sums) -> None:
        steps: Any = t.add.s(1, 2) | t.add.s(3)
        for make in (lambda: steps.set_immutable(True), lambda: steps.update(immutable=True)):
            make()
            assert (steps["immutable"], steps.immutable) == (True, True)
            results = [steps.delay(9), chain(t.add.s(1, 1), steps)()]
            drain(t.app)
            assert [result.get(timeout=10) for result in results] == [6, 6]
            assert not steps.tasks[0].immutable
            steps.set_immutable(False)
            assert not steps["immutable"]
        steps.set_immutable(True)
        for read in (signature(json.loads(json.dumps(steps))), signature(steps.to_dict())):
            result = read.delay(9)
            drain(t.app)
            assert result.get(timeout=10) == 6

    def test_a_workflow_has_the_app_of_its_tasks(self, t: Sums) -> None:
        one = t.add.s(1, 2)
        nodes: list[Any] = [one | one, group(one, one), chord([one], one), chord([one | one], one)]
        for node in nodes:
            assert node.app is t.app
        empty: Any = group([])
        assert empty.app is None
        with Celery("other", broker="memory://other", set_as_current=False) as other:
            assert group([one], app=other).app is other

    def test_chunks_are_a_group(self, t: Sums) -> None:
        parts: Any = t.add.chunks([(1, 2), (3, 4), (5, 6)], 2)
        assert (len(parts.group()), type(parts.group()).__name__) == (2, "group")
        results = [parts(), parts.group()(), (parts | t.run.si("x")).tasks]
        drain(t.app)
        assert [result.get(timeout=10) for result in results[:2]] == [[[3, 7], [11]]] * 2
        assert len(results[2]) == 2
        assert pickle.loads(pickle.dumps(parts)) == parts
