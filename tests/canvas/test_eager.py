"""Workflows that run at their call come to what they come to on workers."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudq import (
    ChordError,
    CloudQ,
    GroupResult,
    Ignore,
    Node,
    Reject,
    State,
    TaskRevoked,
    chain,
    chord,
    group,
)
from cloudq.tasks.steps import COLLECT
from cloudq.testing import drain
from tests.canvas.workflow_cases import CASES
from tests.worker.flow_tasks import Tasks


class Both:
    """An app whose workflows are run both ways, with tasks that say what ran."""

    def __init__(self) -> None:
        self.app = CloudQ("both", broker=f"memory://{uuid.uuid4().hex}")
        self.ran: list[Any] = []
        ran = self.ran

        @self.app.task(name="ok")
        def ok(*values: Any) -> Any:
            ran.append(("ok", values))
            return values[-1]

        @self.app.task(name="fails", max_retries=0)
        def fails(*values: Any) -> None:
            ran.append(("fails", values))
            raise ValueError("no", values[-1])

        @self.app.task(name="ignores")
        def ignores(*values: Any) -> None:
            ran.append(("ignores", values))
            raise Ignore

        @self.app.task(name="rejects")
        def rejects(*values: Any) -> None:
            ran.append(("rejects", values))
            raise Reject("not this")

        @self.app.task(name="told")
        def told(id: str) -> None:
            ran.append(("told",))

        @self.app.task(name="tell")
        def tell(request: dict[str, Any], error: str, traceback: str | None) -> None:
            kept = {name: request.get(name) for name in ("task", "args", "kwargs", "queue")}
            # The values of a header are no part of a body's message: a worker reads them.
            kept["args"] = kept["args"] and kept["args"][-1:]
            own = bool(request.get("root_id"))
            ran.append(("tell", kept, own, without_ids(error), traceback is not None))

        self.calls = {"ok": ok, "fails": fails, "ignores": ignores, "rejects": rejects}
        self.told, self.tell = told, tell

    def on_worker(self, node: Node[Any]) -> tuple[Any, list[str]]:
        self.ran.clear()
        result = node.delay()
        drain(self.app)
        return shown(result), sorted(map(repr, self.ran))

    def eagerly(self, node: Node[Any]) -> tuple[Any, list[str]]:
        self.ran.clear()
        result = node.apply()
        return shown(result), sorted(map(repr, self.ran))


def without_ids(text: str) -> str:
    """A text without what differs by ids, and by which of several members ended first."""
    return re.sub(r"member .*", "member", text)


def shown(result: Any) -> Any:
    """States and values of a workflow, and of what was before it."""
    before = None if result.parent is None else shown(result.parent)
    if isinstance(result, GroupResult):
        return "group", [shown(each) for each in result.results], before
    if result.ignored or result.state == State.PENDING:
        return "never", before
    value = result.result
    if isinstance(value, BaseException):
        value = type(value).__name__, without_ids(str(value))
    task = "" if result.task == COLLECT else result.task  # no result of a worker names it
    return task, str(result.state), value, before


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    made = Both()
    with made.app:
        yield made


# A node as plain values, of which an app makes a node: (kind, parts, callbacks, error callbacks).
KINDS = st.sampled_from(["ok", "ok", "ok", "ok", "fails", "ignores", "rejects"])
CALLS = st.tuples(KINDS, st.integers(0, 9), st.integers(0, 2), st.integers(0, 3))
ERRBACKS = st.integers(0, 3)


def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    parts = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(st.just("chain"), parts, st.integers(0, 2), ERRBACKS),
        st.tuples(st.just("group"), parts, st.integers(0, 2), ERRBACKS),
        st.tuples(st.just("chord"), st.tuples(parts, inner), st.integers(0, 2), ERRBACKS),
    )


TREES = st.recursive(CALLS, deeper, max_leaves=8)


def made_of(both: Both, tree: Any) -> Node[Any]:
    kind, inside, links, errors = tree
    node: Node[Any]
    if kind == "chain":
        node = chain([made_of(both, part) for part in inside])
    elif kind == "group":
        node = group([made_of(both, part) for part in inside])
    elif kind == "chord":
        header, body = inside
        node = chord([made_of(both, part) for part in header], made_of(both, body))
    else:
        node = both.calls[kind].s(inside)
    if links:
        after = both.calls["ok"].s("called")
        node.link(after if links == 1 else chain(after, both.calls["ok"].s("again")))
    if errors:
        told, tell = both.told.s(), both.tell.s()
        node.on_error({1: told, 2: tell, 3: group(tell, tell)}[errors])
    return node


@given(tree=TREES)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_a_workflow_ends_eagerly_as_it_does_on_workers(both: Both, tree: Any) -> None:
    sent, here = both.on_worker(made_of(both, tree)), both.eagerly(made_of(both, tree))
    assert here == sent


ENDS: dict[str, Any] = {
    "an errback of several parameters": lambda b, c: c["fails"].s(1).on_error(b.tell.s()),
    "of a body": lambda b, c: chord([c["fails"].s(1)], c["ok"].s()).on_error(b.tell.s()),
    "both kinds": lambda b, c: c["fails"].s(1).on_error(b.tell.s()).on_error(b.told.s()),
    "a group of one kind": lambda b, c: c["fails"].s(1).on_error(group(b.tell.s(), b.tell.s())),
    "ignored step": lambda b, c: chain(c["ignores"].s(1).link(c["ok"].s()), c["ok"].s()),
    "ignored member": lambda b, c: chord([c["ignores"].s(1), c["ok"].s(2)], c["ok"].s()),
    "ignored in a group": lambda b, c: group(chain(c["ignores"].s(1), c["ok"].s()), c["ok"].s(2)),
    "rejected step": lambda b, c: chain(c["rejects"].s(1).on_error(b.tell.s()), c["ok"].s()),
    "rejected member": lambda b, c: chord([c["rejects"].s(1)], c["ok"].s()).on_error(b.tell.s()),
    "body that is a group": lambda b, c: chord([c["fails"].s(1)], group(c["ok"].s(), c["ok"].s())),
    "body that ends in a group": lambda b, c: chord(
        [c["fails"].s(1)], chain(c["ok"].s(), group(c["ok"].s(), c["ok"].s()))
    ),
    "chain that ends in a group": lambda b, c: chain(c["fails"].s(1), group([c["ok"].s()] * 2)),
    "two chords with an errback": lambda b, c: chain(
        chord([c["fails"].s(1)], c["ok"].s()), chord([c["ok"].s()], c["ok"].s())
    ).on_error(b.told.s()),
    "a group in a header": lambda b, c: chord(
        [chain(c["ok"].s(1), group(c["ok"].s(), c["fails"].s()))], c["ok"].s()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_an_end_that_is_no_success_is_the_same_eagerly(both: Both, name: str) -> None:
    make = ENDS[name]
    here = both.eagerly(make(both, both.calls))
    assert here == both.on_worker(make(both, both.calls))


def test_an_eager_errback_gets_the_request_the_error_and_the_traceback(both: Both) -> None:
    both.ran.clear()
    both.calls["fails"].s(1).on_error(both.tell.s()).apply()
    request = {"task": "fails", "args": [1], "kwargs": {}, "queue": "default"}
    assert both.ran[1:] == [("tell", request, True, "ValueError: ('no', 1)", True)]


def test_what_follows_an_ignored_call_does_not_run_eagerly(both: Both) -> None:
    ok, ignores = both.calls["ok"], both.calls["ignores"]
    both.ran.clear()
    result = chain(ignores.s(1).link(ok.s("called")).on_error(both.told.s()), ok.s()).apply()
    assert both.ran == [("ignores", (1,))]
    assert result.state is State.FAILURE
    with pytest.raises(Ignore, match="ignored by the task"):
        result.get()
    with pytest.raises(ChordError, match=r"member \S+ \(ignores\) failed: .*ignored by the task"):
        chord([ignores.s(1), ok.s(2)], ok.s()).apply().get()


def test_an_eager_rejected_call_is_raised_as_from_a_worker(both: Both) -> None:
    for node in (
        chain(both.calls["rejects"].s(1), both.calls["ok"].s()),
        both.calls["rejects"].s(1),
    ):
        result = node.apply()
        assert result.state is State.REJECTED
        with pytest.raises(TaskRevoked, match="not this"):
            result.get()


def test_each_member_of_a_body_that_never_runs_has_failed(both: Both) -> None:
    ok, fails = both.calls["ok"], both.calls["fails"]
    result = chord([fails.s(1)], group(ok.s(), ok.s())).apply()
    assert isinstance(result, GroupResult)
    assert [leaf.state for leaf in result.leaves()] == [State.FAILURE] * 2
    assert {type(error) for error in result.get(propagate=False)} == {ChordError}
    assert result.parent is not None
    assert result.parent.failed()


@pytest.mark.parametrize("start", ["delay", "apply"])
@pytest.mark.parametrize("name", ["chain", "chord", "task | group | task"])
def test_a_call_that_is_replaced_keeps_its_id(name: str, start: str) -> None:
    with CloudQ("replaced", broker=f"memory://{uuid.uuid4().hex}") as app:
        t = Tasks(app)

        @app.task(name="becomes", bind=True)
        def becomes(self: Any) -> None:
            self.replace(CASES[name][0](t))

        result = getattr(becomes.s().set(task_id="R"), start)()
        drain(app)
        assert result.id == "R"
        assert result.get(timeout=0) == CASES[name][1]
