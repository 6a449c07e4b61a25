"""Whatever is composed of a few signatures, empty members among it: each place runs once."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq import Node, chain, chord, group
from tests.support.bench import Bench
from tests.worker.flow_tasks import Tasks

EXAMPLES = 2_000 if os.environ.get("CLOUDQ_DRILL") == "full" else 80

# A plan of a workflow: the number of a signature, or a kind with the plans inside.
LEAF = st.integers(0, 2)


def inside(plans: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(plans, max_size=4)
    return st.one_of(
        st.tuples(st.just("chain"), some),
        st.tuples(st.just("group"), some),
        st.tuples(st.just("chord"), some, LEAF),
        st.tuples(st.just("link"), LEAF, LEAF),
        st.tuples(st.just("long"), LEAF),
        st.tuples(st.just("json"), plans),
    )


PLANS = st.recursive(LEAF, inside, max_leaves=12)
MANY = 40


def made(app: Bench, calls: list[Node[Any]], plan: Any) -> Node[Any]:
    """Compose a workflow of the same three objects, each wherever the plan has its number."""
    if isinstance(plan, int):
        return calls[plan]
    kind, first, *more = plan
    match kind:
        case "chain":
            return chain([made(app, calls, each) for each in first])
        case "group":
            return group([made(app, calls, each) for each in first])
        case "chord":
            return chord([made(app, calls, each) for each in first], calls[more[0]])
        case "link":
            return calls[first].clone().link(calls[more[0]])
        case "long":
            return chain([calls[first]] * MANY)
        case _:
            return app.signature(made(app, calls, first).to_dict())


def expected(plan: Any) -> Counter[int]:
    """Count the places of each signature."""
    if isinstance(plan, int):
        return Counter([plan])
    kind, first, *more = plan
    match kind:
        case "chain" | "group" | "chord":
            return sum(map(expected, first), Counter(more))
        case "link":
            return Counter([first, *more])
        case "long":
            return Counter({first: MANY})
        case _:
            return expected(first)


@settings(max_examples=EXAMPLES, deadline=None)
@given(PLANS)
def test_each_place_runs_once(plan: Any) -> None:
    with Bench() as app:
        t = Tasks(app)
        calls: list[Node[Any]] = [t.same.si(number) for number in range(3)]
        before = [call.to_dict() for call in calls]
        result = made(app, calls, plan).delay()
        app.work()
        assert Counter(number for _, number in t.runs) == expected(plan)
        if result is not None:
            result.get(timeout=0)
        assert [call.to_dict() for call in calls] == before
        t.runs.clear()
        made(app, calls, plan).apply()
        assert Counter(number for _, number in t.runs) == expected(plan)
