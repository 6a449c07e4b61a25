"""When those who wait look where nobody wakes them: soon, after what the task usually takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import pytest

from cloudq import ResultTimeout, State, group, wait_for
from cloudq.driver import Item, Key
from cloudq.messages.ids import SERIES
from cloudq.messages.message import new_id
from cloudq.results import pauses as module
from cloudq.results.pauses import FIRST, LONGEST, Pauses, Poller, UsualTimes, Waited
from cloudq.results.record import Record
from cloudq.testing.waiting import PATIENCE
from tests.support.bench import Bench


def called(ago: float, task: str = "t") -> Waited:
    """Return a call that was made so many seconds ago."""
    stamp = f"{int((time.time() - ago) * 1000):012x}"
    return Waited(f"{stamp[:8]}-{stamp[8:]}-{new_id()[14:]}", task)


def ended(call: Waited, at: float, *, ran: float | None = None) -> Record:
    started = None if ran is None else at - ran
    state = State.SUCCESS
    return Record(id=call.id, state=state, task=call.task, started_at=started, finished_at=at)


def looks(pauses: Pauses, count: int) -> list[float]:
    """Return when the looks are made, in seconds from now, were each done in no time."""
    return list(accumulate(pauses.next() for _ in range(count)))


def used(took: float, times: int = 1) -> UsualTimes:
    usual = UsualTimes()
    for _ in range(times):
        call = called(took)
        usual.learn(call, ended(call, time.time()))
    return usual


class TestPauses:
    def test_a_new_call_of_an_unknown_task_is_looked_at_ever_later(self) -> None:
        pauses = UsualTimes().pauses([called(0.0)])
        assert 0 <= pauses.next() <= FIRST
        after = [pauses.next() for _ in range(12)]
        assert after[:4] == [0.002, 0.004, 0.008, 0.016]
        assert after[-3:] == [LONGEST] * 3

    @pytest.mark.parametrize("id", ["mine", "01a228b5-e8d0-4fbf-b88b-56b84357c710", "", "é" * 36])
    def test_what_does_not_tell_its_age_is_looked_at_at_once(self, id: str) -> None:
        assert UsualTimes().pauses([Waited(id, "t")]).next() <= 0

    def test_an_old_call_is_looked_at_at_once(self) -> None:
        assert used(0.5).pauses([called(0.6)]).next() <= 0

    def test_the_first_look_is_made_when_the_task_has_usually_ended(self) -> None:
        first, second = looks(used(0.16).pauses([called(0.0)]), 2)
        assert first == pytest.approx(0.16, abs=0.05)
        assert second - first == pytest.approx(0.01, rel=0.4)

    def test_nobody_waits_longer_than_a_second_for_a_look(self) -> None:
        for ago in (-100.0, 0.0, 100.0):  # a call of the future: the clock was set back
            assert used(600.0).pauses([called(ago)]).next() <= LONGEST

    def test_of_many_calls_the_last_to_end_is_waited_for(self) -> None:
        usual = used(0.3)
        pauses = usual.pauses([called(0.0, "unknown"), called(0.0), called(0.2)])
        assert pauses.next() == pytest.approx(0.3, abs=0.06)

    def test_who_waits_for_many_looks_more_often(self) -> None:
        few, many = (UsualTimes().pauses([called(9.0)] * count) for count in (1, 100))
        assert sum(at < 1.5 for at in looks(few, 40)) < sum(at < 1.5 for at in looks(many, 40)) / 2
        assert max(many.next() for _ in range(40)) == LONGEST


class TestLearning:
    def test_a_quicker_call_counts_for_more_than_a_slower_one(self) -> None:
        usual = used(1.0)
        slow, quick = called(2.0), called(0.1)
        usual.learn(slow, ended(slow, time.time()))
        assert usual.of("t") == pytest.approx(1.1, abs=0.05)
        usual.learn(quick, ended(quick, time.time()))
        assert usual.of("t") == pytest.approx(0.6, abs=0.05)

    def test_the_queue_before_a_call_is_of_the_moment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a thousand calls that come together the last ones wait; a later one does not."""
        now, usual = time.monotonic(), UsualTimes()
        monkeypatch.setattr(module.time, "monotonic", lambda: now)
        for _ in range(100):
            behind = called(5.0)
            usual.learn(behind, ended(behind, time.time(), ran=0.2))
        assert usual.of("t") == pytest.approx(5.0, abs=0.05)
        monkeypatch.setattr(module.time, "monotonic", lambda: now + 6.0)
        assert usual.of("t") == pytest.approx(0.2, abs=0.05)
        monkeypatch.setattr(module.time, "monotonic", lambda: now)
        alone = called(0.25)
        usual.learn(alone, ended(alone, time.time(), ran=0.2))
        assert usual.of("t") == pytest.approx(0.25, abs=0.05)

    @pytest.mark.parametrize("ran", [-3600.0, 3600.0])
    def test_a_clock_that_was_set_while_the_task_ran_delays_nobody(self, ran: float) -> None:
        usual, call = UsualTimes(), called(0.2)
        usual.learn(call, ended(call, time.time(), ran=ran))
        assert 0 <= usual.of("t") <= 0.25

    @pytest.mark.parametrize("wrong", [3600.0, -3600.0])
    def test_a_worker_with_a_wrong_clock_delays_nobody(self, wrong: float) -> None:
        usual, call = UsualTimes(), called(0.2)
        usual.learn(call, ended(call, time.time() + wrong))
        assert 0 <= usual.of("t") <= 0.25

    def test_what_tells_no_time_or_no_task_teaches_nothing(self) -> None:
        usual = UsualTimes()
        for call in (Waited("mine", "t"), called(1.0, "")):
            usual.learn(call, ended(call, time.time()))
        assert usual.of("t") == usual.of("") == 0.0

    def test_no_more_tasks_are_remembered_than_a_program_has(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_TASKS", 3)
        usual = UsualTimes()
        for n in range(10):
            call = called(0.1, f"task-{n}")
            usual.learn(call, ended(call, time.time()))
        assert sum(usual.of(f"task-{n}") > 0 for n in range(10)) <= 3
        assert usual.of("task-9") > 0


class TestCost:
    def test_a_task_that_is_known_costs_a_read_or_two(
        self, app: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each call ends 30 ms after it was made; pauses take their time by the app's clock."""
        app.clock.stand_still()
        task: Any = app.task(name="t")(lambda: 42)
        due = 0.0

        def wait(poller: Poller, timeout: float) -> bool:
            app.clock.ahead += max(0.0, min(poller._pauses.next(), timeout))
            if time.time() >= due:
                app.work()
            return True

        monkeypatch.setattr(Poller, "wait", wait)
        late = list[float]()
        for n in range(30):
            if n == 10:  # it has learned
                app.store.calls.clear()
                late.clear()
            due = time.time() + 0.03
            task.delay().get(timeout=PATIENCE)
            late.append(time.time() - due)
        reads = app.store.calls["get"]
        assert reads <= 2 * 20
        assert max(late) < 0.01

    def test_of_many_that_have_not_ended_one_is_looked_at(self, app: Bench) -> None:
        task: Any = app.task(name="t")(lambda n: n)
        results = app.publish(task.prepare(n) for n in range(40))
        read = list[int]()
        inner = app.store.inner.get

        def get(keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
            if app.store.inner.get is get:
                read.append(len(keys))
            if len(read) == 5:
                app.store.inner.get = inner  # what the worker reads is its own
                app.work()
                app.store.inner.get = get
            return inner(keys, consistent=consistent)

        app.store.inner.get = get
        assert [record.value for record in wait_for(results, timeout=PATIENCE)] == [
            str(n) for n in range(40)
        ]
        assert read[:4] == [2] * 4  # its own item, and that of its series
        assert sum(read) <= 5 * 2 + 40 // SERIES + 1 + 40 + 1

    def test_what_has_probably_ended_is_read_in_one_request(
        self, app: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task: Any = app.task(name="t")(lambda n: n)
        front = app.store.limits.get
        results = app.publish(task.prepare(n) for n in range(3 * front))
        app.work()
        read, records = list[int](), app.results.records

        def counted(ids: Sequence[str], **options: bool) -> dict[str, Record]:
            read.append(len(ids))
            return records(ids, **options)

        monkeypatch.setattr(app.results, "records", counted)
        assert len(wait_for(results, timeout=PATIENCE)) == 3 * front
        assert read == [1, front - 1, front, front]

    def test_the_last_look_before_a_timeout_sees_what_was_just_written(self, app: Bench) -> None:
        asked = list[tuple[int, bool]]()
        inner = app.store.inner.get

        def get(keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
            asked.append((len(keys), consistent))
            return inner(keys, consistent=consistent)

        app.store.inner.get = get
        task: Any = app.task(name="t")(lambda n: n)
        results = app.publish(task.prepare(n) for n in range(4))
        with pytest.raises(ResultTimeout, match="4 of 4"):
            wait_for(results, timeout=0.05)
        assert asked[-2:] == [(2 + 1, True), (2, True)]  # the first two were no followers
        assert set(asked[:-2]) == {(2, False)}

    @pytest.mark.parametrize("patience", [{"timeout": 0.05}, {"timeout": 0.3, "interval": 0.01}])
    def test_a_task_that_takes_long_does_not_lengthen_a_timeout_or_an_interval(
        self, app: Bench, monkeypatch: pytest.MonkeyPatch, patience: dict[str, float]
    ) -> None:
        task: Any = app.task(name="t")(lambda: 42)
        slow = called(60.0)
        app.results.usual.learn(slow, ended(slow, time.time()))
        waits = list[float]()
        wait = Poller.wait

        def noted(poller: Poller, timeout: float) -> bool:
            waits.append(timeout)
            return wait(poller, timeout)

        monkeypatch.setattr(Poller, "wait", noted)
        with pytest.raises(ResultTimeout):
            task.delay().get(**patience)
        assert waits
        assert max(waits) <= patience.get("interval", patience["timeout"])

    def test_all_that_is_waited_for_may_never_start(self, app: Bench) -> None:
        @app.task(name="fails")
        def fails() -> None:
            raise ValueError("on purpose")

        task: Any = app.task(name="t")(lambda value: value)
        result: Any = (fails.s() | group(task.s(), task.s())).delay()
        app.work()
        for member in result.results:
            member.forget()  # the end of the first step alone is recorded so far
        with pytest.raises(ValueError, match="on purpose"):
            result.get(timeout=PATIENCE)
