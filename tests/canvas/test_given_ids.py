"""Ids that callers give to workflows, and results of which nothing is ever recorded."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, InvalidArguments, chain, chord, group
from cloudq.testing import drain
from tests.support.bench import Bench
from tests.worker.flow_tasks import Tasks


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


@pytest.fixture(params=[False, True], ids=["sent", "eager"])
def either(request: pytest.FixtureRequest) -> Iterator[CloudQ]:
    url = f"memory://{uuid.uuid4().hex}"
    with CloudQ("ids", broker=url, task_always_eager=request.param) as made:
        yield made


# A workflow and its value. Celery 5 gives the id to the same part of each.
NAMED: dict[str, tuple[Callable[[Tasks], Any], Any]] = {
    "chain": (lambda t: chain(t.same.s(1), t.add.s(2)), 3),
    "chain of chains": (lambda t: chain(t.same.s(1), chain(t.add.s(2)).link(t.same.s())), 3),
    "chain by |": (lambda t: t.same.s(1) | t.add.s(2) | t.add.s(3), 6),
    "chain of one": (lambda t: chain(t.same.s(1)), 1),
    "chord": (lambda t: chord([t.same.s(1), t.same.s(2)], t.total.s()), 3),
    "chord of a generator": (lambda t: chord((t.same.s(n) for n in range(3)), t.total.s()), 3),
    "chord whose body is a chain": (lambda t: chord([t.same.s(1)], t.total.s() | t.add.s(1)), 2),
    "group": (lambda t: group(t.same.s(1), t.same.s(2)), [1, 2]),
    "group of one": (lambda t: group(t.same.s(1)), [1]),
    "group of a generator": (lambda t: group(t.same.s(n) for n in range(3)), [0, 1, 2]),
    "chain that ends in a group": (lambda t: t.same.s(1) | group(t.same.s(), t.add.s(1)), [1, 2]),
    "chord whose body is a group": (lambda t: chord([t.same.s(1)], group(t.total.s())), [1]),
    "chunks": (lambda t: t.add.chunks([(1, 2), (3, 4)], 1), [[3], [7]]),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_the_task_id_of_a_workflow_is_that_of_its_result(either: CloudQ, name: str) -> None:
    make, value = NAMED[name]
    t = Tasks(either)
    result = make(t).apply_async(task_id="C")
    drain(either)
    assert result.id == "C"
    assert result.get(timeout=0) == value
    assert make(t).set(task_id="S").delay().id == "S"


def test_the_last_task_of_a_workflow_runs_under_its_task_id(either: CloudQ) -> None:
    t = Tasks(either)
    result = chain(t.same.s(1), t.look.s()).apply_async(task_id="C", countdown=0)
    header = chord([t.same.s(1)], t.look.s()).apply_async(task_id="D")
    members = group(t.look.s(), t.look.s()).apply_async(task_id="G")
    drain(either)
    assert result.get(timeout=0)["id"] == "C"
    assert header.get(timeout=0)["id"] == "D"
    ids = [seen["id"] for seen in members.get(timeout=0)]
    assert ids == [leaf.id for leaf in members.leaves()]
    assert "G" not in ids


def test_a_callback_that_is_a_workflow_has_its_task_id(either: CloudQ) -> None:
    seen: list[str] = []

    @either.task(name="notes", bind=True)
    def notes(self: Any, *_: Any) -> None:
        seen.append(self.request.id)

    t = Tasks(either)
    t.same.s(1).link(chain(t.same.s(), notes.s()).set(task_id="L")).delay()
    drain(either)
    assert seen == ["L"]


def test_a_group_that_was_given_an_id_is_saved_under_it(app: Bench, t: Tasks) -> None:
    result = group(t.same.s(1), t.same.s(2)).apply_async(task_id="G")
    result.save()
    app.work()
    found = app.restore_group("G")
    assert found is not None
    assert found.get(timeout=0) == [1, 2]


@pytest.mark.parametrize("odd", ["", 5, b"G"])
def test_an_id_that_is_none_is_refused(t: Tasks, odd: Any) -> None:
    for node in (group(t.same.s(1)), chain(t.same.s(1), group(t.same.s()))):
        with pytest.raises(InvalidArguments, match="task_id is "):
            node.apply_async(task_id=odd)
    assert group(t.same.s(1)).apply_async(task_id=None).id


# A workflow, and the result in it of a call of which nothing is recorded.
UNRECORDED: dict[str, Callable[[Tasks, Any], Any]] = {
    "first step": lambda t, s: chain(s, t.same.s()).delay().parent,
    "middle step": lambda t, s: chain(t.same.s(0), s, t.same.s(), t.same.s()).delay().parent.parent,
    "last step": lambda t, s: chain(t.same.s(0), s).delay(),
    "step before a group": lambda t, s: chain(s, group(t.same.s(), t.same.s())).delay().parent,
    "step of a member": lambda t, s: group(chain(s, t.same.s()), t.same.s(0)).delay()[0].parent,
    "body": lambda t, s: chain(chord([t.same.s(0)], s), t.same.s()).delay().parent,
    "body of a generator": lambda t, s: chord((t.same.s(n) for n in range(2)), s).delay(),
}


@pytest.mark.parametrize("name", UNRECORDED)
def test_what_is_not_recorded_is_not_waited_for(app: Bench, t: Tasks, name: str) -> None:
    result = UNRECORDED[name](t, t.same.si(1).set(ignore_result=True))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="is not recorded, since same was called"):
            result.get(timeout=0.5)
        app.work()


def test_the_members_of_a_header_answer_also_where_results_are_ignored(
    app: Bench, t: Tasks
) -> None:
    one = t.same.si(1).set(ignore_result=True)
    result = chain(chord([one, chain(one, one)], t.total.s()), t.same.s()).delay()
    streamed = chord((one for _ in range(2)), t.total.s()).delay()
    app.work()
    assert result.parent.parent.get(timeout=0) == streamed.parent.get(timeout=0)
    assert result.parent.parent[1].parent.get(timeout=0) == 1
    assert result.get(timeout=0) == 2
