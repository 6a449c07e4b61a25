"""Calls that start calls: children, collecting, revoking, headers, and a workflow's graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from cloudq import ChordError, CloudQ, GroupResult, ResultSet, State, chord, group
from cloudq.canvas.graph import as_dot, as_mermaid, as_text, graph_of
from cloudq.cli.program import main
from cloudq.results.groups import restored
from cloudq.results.record import to_fields
from cloudq.testing import drain
from tests.support.bench import Bench
from tests.worker.flow_tasks import Tasks


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


def lines(app: Bench, id: str, **named: str) -> list[str]:
    """The graph as text, with names in place of ids."""
    found = graph_of(id, app.results)
    assert found is not None
    text = "\n".join(as_text(found))
    for name, known in named.items():
        text = text.replace(known, name)
    return text.splitlines()


def test_the_children_of_a_chain(app: Bench, t: Tasks) -> None:
    last = (t.add.s(1, 2) | t.add.s(3) | t.add.s(4)).delay()
    first = last.parent.parent
    assert first.children == []
    app.work()
    assert first.children == [last.parent]
    assert last.parent.children == [last]
    assert [value for _, value in first.collect()] == [3, 6, 10]
    assert last.as_tuple() == ((last.id, ((last.parent.id, ((first.id, None), None)), None)), None)


def test_the_children_of_a_task_are_what_it_calls_and_its_callbacks(app: Bench, t: Tasks) -> None:
    @app.task(name="calls")
    def calls() -> int:
        t.add.delay(1, 2)
        chord([t.same.s(1), t.same.s(2)], t.total.s()).delay()
        return 5

    result = calls.s().link(t.same.s()).delay()
    app.work()
    assert [child.get(timeout=0) for child in result.children] == [3, 3, 5]
    assert result.children[1].parent.get(timeout=0) == [1, 2]
    collected = [value for _, value in app.AsyncResult(result.id).collect()]
    assert collected == [5, 3, 3, 5]


def test_collecting_passes_over_what_has_not_ended_when_asked(app: Bench, t: Tasks) -> None:
    result = (t.add.s(1, 2) | t.add.s(3)).delay()
    app.step()
    assert [value for _, value in result.parent.collect(intermediate=True)] == [3]


def test_a_record_keeps_a_hundred_children(app: Bench, t: Tasks) -> None:
    @app.task(name="many")
    def many() -> None:
        group(t.same.s(n) for n in range(500)).delay()

    result = many.delay()
    app.step()
    [found] = result.children
    assert len(found) == 99  # the group's own id is the hundredth


def test_a_task_alone_records_nothing_of_workflows(app: Bench, t: Tasks) -> None:
    result = t.add.delay(1, 2)
    app.work()
    assert not {"children", "parent", "join"} & to_fields(app.record(result)).keys()


def test_revoking_a_chain_reaches_its_first_step(app: Bench, t: Tasks) -> None:
    result = (t.same.s(1) | t.same.s() | t.same.s()).delay()
    assert result.revoke()
    app.work()
    assert t.runs == []
    assert result.parent.parent.state is State.REVOKED


def test_revoking_a_chord_reaches_its_members(app: Bench, t: Tasks) -> None:
    result = (t.same.s(0) | group(t.add.s(1), t.add.s(2)) | t.total.s()).delay()
    app.step()
    result.revoke()
    app.work()
    assert t.runs == [("same", 0)]
    assert {leaf.state for leaf in result.parent.leaves()} == {State.REVOKED}
    with pytest.raises(ChordError, match="REVOKED"):
        result.get(timeout=0)


def test_revoking_a_group_reaches_what_is_before_it(app: Bench, t: Tasks) -> None:
    result = (t.same.s(0) | group(t.add.s(1), t.add.s(2))).delay()
    result.revoke()
    app.work()
    assert t.runs == []
    assert result.parent.state is State.REVOKED


def test_headers_travel_with_a_workflow(app: Bench, t: Tasks) -> None:
    first = t.look.s().set(headers={"traceparent": "00-a-b-01", "tenant": "a"})
    own = t.look.si().set(headers={"tenant": "b"})
    result = (first | group(own, t.look.si()) | t.look.si() | t.look.si()).delay()
    app.work()
    given = {"traceparent": "00-a-b-01", "tenant": "a"}
    assert result.get(timeout=0)["headers"] == result.parent.get(timeout=0)["headers"] == given
    members = result.parent.parent.get(timeout=0)
    assert [m["headers"]["tenant"] for m in members] == ["b", "a"]
    assert {m["headers"]["traceparent"] for m in members} == {"00-a-b-01"}


def test_a_workflow_that_a_task_starts_carries_on_its_trace_alone(app: Bench, t: Tasks) -> None:
    @app.task(name="starts")
    def starts() -> str:
        return (t.look.s() | t.look.si()).delay().id

    headers = {"traceparent": "00-a-b-01", "tenant": "a"}
    result = starts.apply_async(headers=headers)
    app.work()
    seen = app.AsyncResult(result.get(timeout=0)).get(timeout=0)
    assert seen["headers"] == {"traceparent": "00-a-b-01"}
    assert seen["root"] == result.id


def test_an_error_callback_that_is_a_chord(app: Bench, t: Tasks) -> None:
    failed = t.fail.s().link_error(chord([t.same.si(1), t.same.si(2)], t.total.s())).delay()
    app.work()
    assert failed.state is State.FAILURE
    assert ("total", [1, 2]) in t.runs


def test_error_callbacks_of_a_body_get_its_request(app: Bench, t: Tasks) -> None:
    result = chord([t.fail.s()], t.total.s()).link_error(t.seen.s()).delay()
    app.work()
    [(_, id, error)] = [run for run in t.runs if run[0] == "seen"]
    assert id == result.id
    assert error.startswith("cloudq.errors.ChordError: member")


def test_the_graph_of_a_chord_in_a_chain(app: Bench, t: Tasks) -> None:
    result = (t.same.s(0) | group(t.add.s(1), t.fail.s()) | t.total.s()).delay()
    header = result.parent
    first, (one, two) = header.parent, header.leaves()
    app.work()
    expected = [
        "same first SUCCESS",
        "└─ group header",
        "   ├─ add one SUCCESS",
        "   ├─ fail two FAILURE",
        "   └─ total body FAILURE",
    ]
    named = {
        "first": first.id, "header": header.id, "one": one.id, "two": two.id, "body": result.id
    }  # fmt: skip
    for id in (first.id, one.id, two.id, result.id):
        assert lines(app, id, **named) == expected


def test_the_graph_is_found_from_the_body_too(app: Bench, t: Tasks) -> None:
    result = chord([t.add.s(1, 1), t.add.s(2, 2)], t.total.s() | t.add.s(1)).delay()
    total, header = result.parent, result.parent.parent
    one, two = header.leaves()
    app.work()
    named = {"one": one.id, "two": two.id, "header": header.id, "total": total.id}
    assert lines(app, result.id, end=result.id, **named) == [
        "group header",
        "├─ add one SUCCESS",
        "├─ add two SUCCESS",
        "└─ total total SUCCESS",
        "   └─ add end SUCCESS",
    ]


def test_the_graph_of_a_running_workflow_shows_what_waits(app: Bench, t: Tasks) -> None:
    result = (t.same.s(0) | group(t.add.s(1), t.add.s(2)) | t.total.s()).delay()
    app.step()
    app.step()
    states = [line.rsplit(" ", 1)[1] for line in lines(app, result.parent.parent.id)]
    assert states[2:] == ["SUCCESS", "PENDING", "PENDING"]


def test_the_graph_of_a_saved_group_needs_no_task_to_have_run(app: Bench, t: Tasks) -> None:
    result = (t.same.s(0) | group(t.add.s(1), t.add.s(2))).delay()
    result.save()
    named = {"one": result[0].id, "two": result[1].id}  # type: ignore[union-attr]
    assert lines(app, result.id, group=result.id, first=result.parent.id, **named) == [
        "task first PENDING",
        "└─ group group",
        "   ├─ task one PENDING",
        "   └─ task two PENDING",
    ]


def test_what_is_unknown_has_no_graph(app: Bench) -> None:
    assert graph_of("nothing", app.results) is None


def test_dot_and_mermaid(app: Bench, t: Tasks) -> None:
    result = group(t.add.s(1, 1), t.add.s(2, 2)).delay()
    result.save()
    app.work()
    found = graph_of(result.id, app.results)
    assert found is not None
    one = result.leaves()[0].id
    dot = list(as_dot(found))
    assert dot[0] == "digraph workflow {"
    assert f'  "{one}" [label="add\\nSUCCESS"];' in dot
    assert f'  "{result.id}" -> "{one}";' in dot
    mermaid = list(as_mermaid(found))
    assert mermaid[0] == "flowchart TD"
    assert '  n1["add SUCCESS"]' in mermaid
    assert "  n0 --> n1" in mermaid


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/cloudq.db"
    with CloudQ("graph", broker=url) as app:
        t = Tasks(app)
        result: Any = (t.same.s(0) | group(t.add.s(1), t.add.s(2)) | t.total.s()).delay()
        drain(app)
    assert main(["-b", url, "graph", result.id]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"same {result.parent.parent.id} SUCCESS"
    assert out[-1] == f"   └─ total {result.id} SUCCESS"
    assert main(["-b", url, "graph", result.id, "--format", "mermaid"]) == 0
    assert capsys.readouterr().out.startswith("flowchart TD")
    assert main(["-b", url, "graph", "nothing"]) == 1
    assert "no record of nothing" in capsys.readouterr().err


def test_children_are_what_as_tuple_gives(app: Bench, t: Tasks) -> None:
    def starts(self: Any) -> str:
        result = (t.same.s(1) | group(t.same.s(), t.same.s()) | t.total.s()).delay()
        return orjson.dumps(result.as_tuple()).decode()

    result = app.task(name="starts", bind=True)(starts).delay()
    app.work()
    [child] = result.children
    pairs = orjson.loads(result.get(timeout=0))
    assert orjson.loads(orjson.dumps(child.as_tuple())) == pairs
    # Records of before had the pairs themselves.
    [old] = restored(orjson.dumps([pairs]).decode(), app.publisher.results.untyped)
    assert old.as_tuple() == child.as_tuple()


def test_callbacks_may_be_options_of_a_call(app: Bench, t: Tasks) -> None:
    result = t.add.apply_async((1, 2), link=t.same.s(), task_id="named")
    assert result.id == "named"
    t.fail.apply_async(link_error=[t.told.s(), t.seen.s()], task_id="failed")
    (t.same.s(1) | t.same.s()).apply_async(link=t.add.s(10))
    app.work()
    assert ("same", 3) in t.runs
    assert ("told", "failed") in t.runs
    assert ("seen", "failed", "ValueError: on purpose") in t.runs
    assert ("add", 1, 10) in t.runs


def test_an_eager_call_has_its_callbacks_too() -> None:
    with CloudQ("eager", broker="memory://eager-links", task_always_eager=True) as app:
        t = Tasks(app)
        assert t.add.apply_async((1, 2), link=t.same.s()).get() == 3
        assert ("same", 3) in t.runs


def test_sets_of_results(app: Bench, t: Tasks) -> None:
    one, two = t.same.delay(1), t.same.delay(2)
    together = ResultSet([one])
    together.add(two)
    together.add(two)
    app.work()
    assert together.join(timeout=0) == [1, 2]
    together.remove(one)
    assert together.get(timeout=0) == [2]
    with pytest.raises(KeyError):
        together.remove(one)


def test_a_restored_group_by_celerys_name(app: Bench, t: Tasks) -> None:
    result = group(t.same.s(1)).delay()
    result.save()
    assert GroupResult.restore(result.id, app) == result
