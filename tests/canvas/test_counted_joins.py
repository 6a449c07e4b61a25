"""A chord's body gets the values of all its members, or fails: what a shard holds is counted."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from cloudq import BackendError, ChordError, State, chord
from cloudq.canvas.joins import Joins
from cloudq.canvas.slots import join_key, shard_key
from cloudq.driver import Change, Code
from tests.support.bench import Bench
from tests.worker.flow_tasks import Tasks


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


def failed(result: Any, match: str) -> None:
    assert result.state is State.FAILURE
    with pytest.raises(ChordError, match=match):
        result.get(timeout=0)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_shard_that_is_gone_before_the_body_runs_fails_it(
    app: Bench, t: Tasks, number: int, is_stream: bool
) -> None:
    members = (t.same.s(n) for n in range(150))
    result = chord(members if is_stream else list(members), t.total.s()).delay()
    while app.left() > 1:
        app.step()
    app.step()  # the last member: the body is sent
    app.results.delete([shard_key(result.parent.id, number)])
    app.work()
    failed(result, "has 150 members, of which the store shows (50|100)")
    assert not any(run[0] == "total" for run in t.runs)


def test_a_shard_that_is_gone_before_its_members_have_ended_fails_the_body(
    app: Bench, t: Tasks
) -> None:
    result = (chord([t.same.s(n) for n in range(150)], t.total.s()) | t.add.s(1)).delay()
    app.results.delete([shard_key(result.parent.parent.id, 0)])
    app.work()
    failed(result.parent, "not in the store")
    failed(result, "not in the store")
    assert not any(run[0] == "total" for run in t.runs)


def test_an_added_member_whose_shard_is_gone_fails_the_body(app: Bench, t: Tasks) -> None:
    result = chord([t.more.s(), t.same.s(1)], t.same.s()).delay()
    while app.left() > 1:
        app.step()
    app.step()
    app.results.delete([shard_key(result.parent.id, 5_000_001)])
    app.work()
    failed(result, "has 4 members, of which the store shows 3")


def test_a_join_that_says_another_count_fails_the_body(app: Bench, t: Tasks) -> None:
    result = chord([t.same.s(1), t.same.s(2)], t.total.s()).delay()
    app.step()
    app.step()
    one_more = Change(increment={"count": 1}, keep_expires=True)
    app.results.update(join_key(result.parent.id), one_more)
    app.work()
    failed(result, "has 3 members, of which the store shows 2")


def test_a_redelivered_member_of_a_join_that_has_gone_on_changes_nothing(
    app: Bench, t: Tasks
) -> None:
    result = chord([t.same.s(1), t.same.s(2)], t.total.s()).delay()
    first = app.one()
    app.finish(first, app.settle(first))
    app.work()
    join = result.parent.id
    app.results.delete([shard_key(join, 0)])
    app.workflows.joins.abandon(join, "too late")  # type: ignore[union-attr]
    assert result.get(timeout=0) == 3


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("count", [2, 150])
def test_a_join_whose_root_is_gone_fails_its_body(
    app: Bench, t: Tasks, count: int, is_stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    members = (t.same.s(n) for n in range(count))
    result = (chord(members if is_stream else list(members), t.total.s()) | t.add.s(1)).delay()
    app.results.delete([join_key(result.parent.parent.id)])
    app.work()
    failed(result.parent, "has expired.*or it was deleted")
    failed(result, "has expired.*or it was deleted")
    assert f"its body, {result.parent.id}, fails" in caplog.text
    assert not any(run[0] == "total" for run in t.runs)


def test_a_failed_member_of_a_join_whose_root_is_gone_fails_the_body(app: Bench, t: Tasks) -> None:
    result = chord([t.fail.s(), t.same.s(1)], t.total.s()).delay()
    app.results.delete([join_key(result.parent.id)])
    app.work()
    failed(result, "has expired")


def test_a_chord_within_a_chord_whose_root_is_gone_fails_both(app: Bench, t: Tasks) -> None:
    inner = chord([t.same.s(1), t.same.s(2)], t.total.s())
    result = chord([inner, t.same.s(3)], t.total.s()).delay()
    [within] = [each for each in result.parent.results if each.parent is not None]
    app.results.delete([join_key(within.parent.id)])
    app.work()
    failed(within, "has expired")
    failed(result, "member")


def test_a_body_that_was_revoked_fails_with_its_lost_join(app: Bench, t: Tasks) -> None:
    result = chord([t.same.s(1), t.same.s(2)], t.total.s()).delay()
    assert result.revoke()
    app.results.delete([join_key(result.parent.id)])
    app.work()
    assert result.state in (State.FAILURE, State.REVOKED)


def test_an_outer_chord_hears_of_a_lost_join_though_the_store_fails_meanwhile(
    app: Bench, t: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = chord([t.same.s(1), t.same.s(2)], t.total.s())
    result = chord([inner, t.same.s(3)], t.total.s()).delay()
    [within] = [each for each in result.parent.results if each.parent is not None]
    app.results.delete([join_key(within.parent.id)])
    fail, tries = Joins._failed, list[int]()

    def unlucky(self: Joins, *args: Any) -> None:
        tries.append(1)
        if len(tries) == 2:  # the outer chord's, after the inner body's failure is recorded
            raise BackendError("down", code=Code.UNREACHABLE)
        fail(self, *args)

    monkeypatch.setattr(Joins, "_failed", unlucky)
    for _ in range(3):
        with suppress(BackendError):
            app.work()
        app.lose_leases()
    failed(within, "has expired")
    failed(result, "member")


def test_a_join_of_which_nothing_is_left_is_logged(
    app: Bench, t: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    result = chord([t.same.s(1), t.same.s(2)], t.total.s()).delay()
    join = result.parent.id
    app.results.delete([join_key(join), shard_key(join, 0)])
    app.work()
    assert result.state is State.PENDING
    assert "nothing of it tells which body waits" in caplog.text


def test_a_redelivered_member_of_a_lost_join_leaves_a_body_that_has_ended(
    app: Bench, t: Tasks
) -> None:
    result = chord([t.same.s(1), t.same.s(2)], t.total.s()).delay()
    first = app.one()
    outcome = app.settle(first)
    app.finish(first, outcome)
    app.work()
    app.results.delete([join_key(result.parent.id)])
    app.workflows.joins.leave([outcome.member_result])  # type: ignore[union-attr, list-item]
    assert result.get(timeout=0) == 3
