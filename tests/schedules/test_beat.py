"""The beat in virtual time: what it sends and when, who leads, and what becomes of missed runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from cloudq import BackendError, BrokerError, CloudQ, ConfigurationError, at, crontab, every
from cloudq.driver import Change, Key
from cloudq.schedules.beat import Beat
from cloudq.schedules.leader import LeaderLease
from cloudq.schedules.run_id import time_text
from cloudq.testing import FaultPlan, VirtualClock, beat, in_memory, run_until_idle, worker

START = datetime(2026, 3, 2, tzinfo=UTC).timestamp()  # a Monday


class Shop:
    """An app whose task notes when its runs were due, and when they ran."""

    def __init__(self) -> None:
        self.clock = VirtualClock(START)
        self.app = CloudQ("shop", broker="memory://shop", timezone="UTC")
        self.ran: list[tuple[str, float]] = []

        @self.app.task(name="note", bind=True)
        def note(self_: Any, tag: str = "") -> None:
            self.ran.append(
                (self_.request.headers["cloudq-slot"], self.app.runtime.clock() - START)
            )

        self.note = note

    def seconds(self) -> list[float]:
        """When runs took place, in seconds from the start."""
        return [when for _, when in self.ran]

    def beat(self, **more: Any) -> Beat:
        return Beat(self.app.schedules, monotonic=self.app.runtime.clock, **more)


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    with in_memory(shop.app, clock=shop.clock), worker(shop.app, threads=2):
        yield shop


@pytest.fixture
def faults() -> FaultPlan:
    return FaultPlan()


@pytest.fixture
def failing(faults: FaultPlan) -> Iterator[Shop]:
    shop = Shop()
    with in_memory(shop.app, clock=shop.clock, faults=faults), worker(shop.app, threads=2):
        yield shop


def test_runs_come_when_they_are_due(shop: Shop) -> None:
    shop.app.periodic(every(30), name="often")(shop.note)
    shop.app.periodic(crontab(minute=1), name="hourly", kwargs={"tag": "h"})(shop.note)
    with beat(shop.app):
        shop.clock.advance(100)
    assert sorted(shop.seconds()) == [30, 60, 60, 90]
    assert shop.ran[0][0] == "2026-03-02T00:00:30Z"
    found = shop.app.schedules.all()
    assert {name: one.state.runs for name, one in found.items()} == {"often": 3, "hourly": 1}


def test_a_year_goes_by_in_a_moment(shop: Shop) -> None:
    shop.app.periodic(crontab("0 3 1 * *"), timezone="Europe/Vienna")(shop.note)
    with beat(shop.app):
        shop.clock.advance(366 * 86_400)
    assert len(shop.ran) == 12
    assert shop.ran[0][0] == "2026-04-01T01:00:00Z"
    assert shop.ran[-1][0] == "2027-03-01T02:00:00Z"


def test_a_run_has_its_name_its_options_and_its_end(shop: Shop) -> None:
    shop.app.periodic(every(60), expires=20, options={"shadow": "x", "headers": {"a": "b"}})(
        shop.note
    )
    slot = datetime.fromtimestamp(START + 60, UTC)
    [entry] = shop.app.schedules.declared().values()
    call = shop.app.schedules.call(entry, slot)
    assert call.options.task_id == call.options.idempotency_key == f"note@{time_text(slot)}"
    assert call.options.expires == slot + timedelta(seconds=20)
    assert call.options.headers == {
        "a": "b",
        "cloudq-schedule": "note",
        "cloudq-slot": time_text(slot),
    }
    shop.app.periodic(every(60), name="spread", jitter=10)(shop.note)
    spread = shop.app.schedules.declared()["spread"]
    delays = {spread.delay(slot + timedelta(minutes=n)) for n in range(100)}
    assert len(delays) > 90
    assert 0 <= min(delays) < 1 < 9 < max(delays) < 10
    due = shop.app.schedules.call(spread, slot).options.eta
    assert due == slot + timedelta(seconds=spread.delay(slot))


def test_a_run_that_is_sent_twice_is_one(shop: Shop) -> None:
    shop.app.periodic(every(60))(shop.note)
    [entry] = shop.app.schedules.declared().values()
    slot = datetime.fromtimestamp(START + 60, UTC)
    with beat(shop.app):
        for _ in range(3):
            shop.app.publish([shop.app.schedules.call(entry, slot)] * 2)
        shop.clock.advance(200)
    assert [text for text, _ in shop.ran].count(time_text(slot)) == 1
    assert len(shop.ran) == 3


def test_start_end_and_enabled(shop: Shop) -> None:
    start = datetime.fromtimestamp(START + 100, UTC)
    more = {"start": start, "end": start + timedelta(seconds=90)}
    shop.app.periodic(every(30), name="some", **more)(shop.note)  # type: ignore[arg-type]
    shop.app.periodic(every(30), name="none", enabled=False)(shop.note)
    shop.app.periodic(at(start), name="once")(shop.note)
    with beat(shop.app):
        shop.clock.advance(500)
    assert sorted(shop.seconds()) == [100, 100, 130, 160]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("skip", []), ("last", [3540.0]), ("all", [60.0 * n for n in range(2, 60)])],
)
def test_runs_that_no_beat_was_there_for(shop: Shop, policy: Any, expected: list[float]) -> None:
    shop.app.periodic(every(60), catch_up=policy)(shop.note)
    with beat(shop.app):
        shop.clock.advance(90)
    shop.clock.advance(3590 - 90)
    with beat(shop.app):
        shop.clock.advance(0)
        slots = sorted(text for text, _ in shop.ran[1:])  # two threads run them
        late = [datetime.fromisoformat(text).timestamp() - START for text in slots]
        in_time = [due for due in late if due > 3590 - 60]
        assert in_time == [3540.0], "what is no later than a minute is not missed"
        missed = [due for due in late if due <= 3590 - 60]
        assert missed == [due for due in expected if due <= 3590 - 60]
        shop.clock.advance(20)
    assert shop.seconds()[-1] == 3600


@pytest.mark.parametrize(("policy", "runs"), [("skip", 0), ("last", 1), ("all", 2)])
def test_a_daily_run_that_was_missed(shop: Shop, policy: Any, runs: int) -> None:
    shop.app.periodic(crontab("0 7 * * *"), catch_up=policy)(shop.note)
    with beat(shop.app):
        shop.clock.advance(60)
    shop.clock.advance(2 * 86_400)
    with beat(shop.app):
        shop.clock.advance(0)
        assert len(shop.ran) == runs
        shop.clock.advance(86_400)
    assert len(shop.ran) == runs + 1


def test_a_schedule_whose_times_change_has_missed_nothing(shop: Shop) -> None:
    shop.app.periodic(crontab("0 7 * * *"))(shop.note)
    with beat(shop.app):
        shop.clock.advance(12 * 3600)
    shop.app.schedules._declared.clear()  # another version of the code
    shop.app.periodic(crontab("0 10 * * *"))(shop.note)
    with beat(shop.app):
        shop.clock.advance(3600)
        assert len(shop.ran) == 1
        shop.clock.advance(86_400)
    assert shop.ran[-1][0] == "2026-03-03T10:00:00Z"


def test_a_time_that_is_past_is_said_once(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.app.periodic(at(datetime(2026, 3, 1, tzinfo=UTC)), name="past")(shop.note)
    shop.app.periodic(at(datetime.fromtimestamp(START + 100, UTC)), name="coming")(shop.note)
    with beat(shop.app):
        shop.clock.advance(500)
    with beat(shop.app):
        shop.clock.advance(500)
    said = [record.getMessage() for record in caplog.records if "never runs" in record.getMessage()]
    assert said == ["schedule past never runs: its time, 2026-03-01 00:00:00 UTC, is past"]
    assert shop.seconds() == [100]


def test_a_clock_that_goes_back_neither_stops_nor_doubles(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.app.periodic(every(60))(shop.note)
    with beat(shop.app):
        shop.clock.advance(600)
        assert len(shop.ran) == 10
        shop.clock._set(START + 60)  # pyright: ignore[reportPrivateUsage]
    with beat(shop.app):
        shop.clock.advance(600)
    assert "the clock has gone back" in caplog.text
    # Those that it comes by again have run; the 11th is new.
    assert len(shop.ran) == len({text for text, _ in shop.ran}) == 11


def test_a_clock_that_jumps_ahead_is_a_beat_that_was_away(shop: Shop) -> None:
    shop.app.periodic(crontab("0 * * * *"), catch_up="last")(shop.note)
    with beat(shop.app) as running:
        shop.clock.advance(60)
        shop.clock._set(START + 5 * 3600 + 1800)  # pyright: ignore[reportPrivateUsage]
        running.tick()
        shop.clock.advance(0)
    assert [text for text, _ in shop.ran] == ["2026-03-02T05:00:00Z"]


class TestAtRunTime:
    def test_schedules_are_added_paused_resumed_and_deleted(self, shop: Shop) -> None:
        with beat(shop.app):
            shop.app.schedules.add("often", shop.note, every(30), args=("x",))
            shop.clock.advance(61)
            assert shop.seconds() == [30, 60]
            shop.app.schedules.pause("often")
            shop.clock.advance(120)
            paused = len(shop.ran)
            assert paused == 2
            shop.app.schedules.resume("often")
            shop.clock.advance(60)
            assert len(shop.ran) == paused + 2, "a pause is not caught up with"
            shop.app.schedules.delete("often")
            shop.clock.advance(120)
            assert len(shop.ran) == paused + 2
        assert shop.app.schedules.all() == {}

    def test_what_is_in_the_code_is_paused_but_not_deleted(self, shop: Shop) -> None:
        shop.app.periodic(every(30))(shop.note)
        shop.app.schedules.pause("note")
        with beat(shop.app):
            shop.clock.advance(100)
        assert shop.ran == []
        with pytest.raises(ConfigurationError, match="delete it there, or pause it"):
            shop.app.schedules.delete("note")
        with pytest.raises(ConfigurationError, match="is in the code: change it there"):
            shop.app.schedules.add("note", "note", every(5))

    def test_bad_ones_are_refused(self, shop: Shop) -> None:
        add = shop.app.schedules.add
        with pytest.raises(ConfigurationError, match="has no run from now on"):
            add("x", "note", at(datetime(2020, 1, 1, tzinfo=UTC)))
        with pytest.raises(ConfigurationError, match="did you mean note"):
            add("x", "notes", every(5))
        add("x", "note", every(5))
        with pytest.raises(ConfigurationError, match="already: delete it, or replace it"):
            add("x", "note", every(6))
        add("x", "note", every(6), replace=True)
        assert shop.app.schedules.entry("x").when == every(6)
        with pytest.raises(ConfigurationError, match="no schedule 'xx': `cloudq schedules list`"):
            shop.app.schedules.pause("xx")
        add("nightly", "note", every(6))
        with pytest.raises(ConfigurationError, match="no schedule 'nightyl': did you mean nightly"):
            shop.app.schedules.pause("nightyl")

    def test_one_that_cannot_be_read_stops_no_other(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.app.schedules.add("good", "note", every(30))
        shop.app.schedules.add("gone", "note", every(30))
        key = Key("beat#shop", "entry#gone")
        assert shop.app.backend is not None
        [item] = shop.app.backend.get([key]).values()
        text = str(item.fields["entry"]).replace('"note"', '"forgotten"')
        shop.app.backend.put([replace(item, fields={**item.fields, "entry": text})])
        with beat(shop.app):
            shop.clock.advance(61)
        assert len(shop.ran) == 2
        assert caplog.text.count("'forgotten' is not registered") == 1

    def test_run_now_is_beside_its_runs(self, shop: Shop) -> None:
        shop.app.periodic(every(30), options={"shadow": "s"})(shop.note)
        result = shop.app.schedules.run_now("note")
        with beat(shop.app):
            shop.clock.advance(31)
        assert shop.seconds() == [0, 30]
        assert result.get(timeout=0) is None


class TestTheLead:
    def test_one_of_several_sends(self, shop: Shop) -> None:
        shop.app.periodic(every(30))(shop.note)
        beats = [shop.beat(hostname=name, lease=30.0) for name in "abc"]
        for _ in range(300):
            for each in beats:
                each.tick()
            assert sum(each.leads for each in beats) == 1
            shop.clock.advance(1)
        assert len(shop.ran) == 9
        assert shop.app.schedules.all()["note"].state.runs == len(shop.ran)

    def test_another_takes_over_within_the_lease_and_misses_nothing(self, shop: Shop) -> None:
        shop.app.periodic(every(7), catch_up="skip")(shop.note)
        first, second = (shop.beat(hostname=name, lease=30.0) for name in "ab")
        for _ in range(40):
            first.tick()
            second.tick()
            shop.clock.advance(1)
        assert first.leads
        died = shop.app.runtime.clock()
        while not second.leads:
            shop.clock.advance(0.5)
            second.tick()
        assert shop.app.runtime.clock() - died <= 30
        for _ in range(20):
            second.tick()
            shop.clock.advance(1)
        slots = sorted(datetime.fromisoformat(text).timestamp() for text, _ in shop.ran)
        assert [b - a for a, b in pairwise(slots)] == [7.0] * (len(slots) - 1)

    def test_the_old_leader_stops_before_the_new_one_begins(self, shop: Shop) -> None:
        first, second = (shop.beat(hostname=name, lease=30.0) for name in "ab")
        first.tick()
        while not second.leads:
            second.tick()
            assert not (first.leads and second.leads)
            shop.clock.advance(0.25)
        first.tick()
        assert second.leads
        assert not first.leads, "it finds that another leads"

    def test_a_lead_that_is_given_up_is_taken_at_once(self, shop: Shop) -> None:
        first, second = (shop.beat(hostname=name, lease=30.0) for name in "ab")
        first.tick()
        second.tick()
        first.stop()
        shop.clock.advance(6)
        second.tick()
        assert second.leads

    def test_clocks_that_differ_do_no_harm(self, shop: Shop) -> None:
        backend = shop.app.backend
        assert backend is not None
        key = Key("lead", "x")
        ahead = {"a": 0.0, "b": 1e9}
        a, b = (
            LeaderLease(
                backend, key, name, 30.0, lambda name=name: shop.app.runtime.clock() + ahead[name]
            )
            for name in "ab"
        )
        for _ in range(60):
            a.look()
            b.look()
            assert (a.held, b.held) == (True, False)
            shop.clock.advance(5)

    def test_a_beat_needs_a_store(self) -> None:
        app = CloudQ("bare", broker="memory://bare", backend="none")
        with pytest.raises(ConfigurationError, match="the app has none: set CloudQ"):
            Beat(app.schedules)


class TestFailures:
    def test_what_was_sent_and_not_answered_is_sent_again_as_the_same_run(
        self, failing: Shop, faults: FaultPlan
    ) -> None:
        faults.lose_response("send", times=4)
        failing.app.periodic(every(30))(failing.note)
        beating = failing.beat()
        beating.tick()
        failing.clock.advance(30)
        with pytest.raises(BrokerError):
            beating.tick()
        beating.tick()
        failing.clock.advance(1)
        faults.assert_all_happened()
        assert [text for text, _ in failing.ran] == ["2026-03-02T00:00:30Z"]
        assert failing.app.schedules.all()["note"].state.runs == 1

    def test_what_a_busy_broker_refuses_is_still_due(
        self, failing: Shop, faults: FaultPlan
    ) -> None:
        failing.app.periodic(every(30))(failing.note)
        beating = failing.beat()
        beating.tick()
        faults.throttle("send", times=5)
        failing.clock.advance(30)
        with pytest.raises(BrokerError):
            beating.tick()
        failing.clock.advance(1)
        assert failing.ran == []
        beating.tick()
        failing.clock.advance(0)
        assert [text for text, _ in failing.ran] == ["2026-03-02T00:00:30Z"]

    def test_a_broker_that_is_away_gets_it_later(self, faults: FaultPlan) -> None:
        shop = Shop()
        with in_memory(shop.app, clock=shop.clock, faults=faults):
            shop.app.periodic(every(30))(shop.note)
            beating = shop.beat()
            beating.tick()
            shop.clock.advance(30)
            faults.broker_down(calls=4)
            with pytest.raises(BrokerError):
                beating.tick()
            beating.tick()
            run_until_idle(shop.app)
        assert [text for text, _ in shop.ran] == ["2026-03-02T00:00:30Z"]

    def test_a_unique_task_waits_for_the_store_of_its_claim(self, faults: FaultPlan) -> None:
        shop = Shop()
        slots: list[str] = []

        @shop.app.periodic(every(1))
        @shop.app.task(name="alone", bind=True, unique=True)
        def alone(self_: Any) -> None:
            slots.append(self_.request.headers["cloudq-slot"])

        with in_memory(shop.app, clock=shop.clock, faults=faults):
            beating = shop.beat()
            beating.tick()
            shop.clock.advance(1)
            faults.store_down(calls=1)
            with pytest.raises(BackendError):
                beating.tick()
            beating.tick()
            run_until_idle(shop.app)
        assert alone
        assert slots == ["2026-03-02T00:00:01Z"]

    def test_a_note_that_is_lost_repeats_nothing(self, failing: Shop, faults: FaultPlan) -> None:
        failing.app.periodic(every(30))(failing.note)
        first = failing.beat(lease=30.0)
        first.tick()
        failing.clock.advance(3)
        first.tick()
        failing.clock.advance(27)
        first.tick()
        failing.clock.advance(5)
        assert len(failing.ran) == 1
        # As if it had died before its note.
        assert failing.app.backend is not None
        change = Change(set={"last": START}, keep_expires=True)
        failing.app.backend.update(Key("beat#shop", "entry#note"), change)
        second = failing.beat(lease=30.0)
        while not second.leads:
            failing.clock.advance(1)
            second.tick()
        failing.clock.advance(1)
        second.tick()
        failing.clock.advance(1)
        slots = [text for text, _ in failing.ran]
        assert len(slots) == len(set(slots)) == 2

    def test_a_store_that_is_away_ends_the_lead(self, failing: Shop, faults: FaultPlan) -> None:
        failing.app.periodic(every(3600))(failing.note)
        beating = failing.beat(lease=30.0)
        beating.tick()
        assert beating.leads
        faults.store_down(calls=10_000)
        for _ in range(21):
            failing.clock._set(failing.app.runtime.clock() + 1)  # pyright: ignore[reportPrivateUsage]
            with suppress(BackendError):
                beating.tick()
        assert not beating.leads

    def test_one_that_can_never_be_sent_stops_no_other(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.app.periodic(every(30), name="good")(shop.note)
        shop.app.periodic(every(30), name="bad", options={"priority": 9})(shop.note)
        with beat(shop.app):
            shop.clock.advance(61)
        assert len(shop.ran) == 2
        assert "a run of schedule bad is not sent" in caplog.text
