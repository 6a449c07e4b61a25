"""The deliveries that a worker holds, and those of a bundle in place of its message."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from cloudq.driver import Delivery
from cloudq.execution.settlement import Action
from cloudq.worker.in_flight import Ends, Flight, Flights, Tray
from tests.support.bench import Bench

COUNT = 4


def bundled(app: Bench) -> Delivery:
    task = app.task(name="t")(lambda: None)
    app.publish([task.prepare() for _ in range(COUNT)], bundle=COUNT)
    return app.one()


def on_tray(app: Bench, flights: Flights) -> Tray:
    whole = bundled(app)
    [flight] = flights.add([whole], 60.0)
    [plain] = app.runner.sort([whole]).plain
    return flights.hold_plain(flight, plain)


def single(app: Bench) -> Flight:
    app.task(name="single")(lambda: None).delay()
    [flight] = Flights().add([app.one()], 60.0)
    return flight


def test_one_that_runs_again_does_so_under_its_fence(app: Bench) -> None:
    flight = single(app)
    flight.restart()
    assert (flight.restarts, flight.job) == (1, None)
    flight.job = app.job(flight.delivery)
    assert not flight.job.fenced
    flight.restart()
    assert (flight.restarts, flight.job.fenced) == (2, True)


def test_one_that_goes_back_names_its_call_where_that_is_known(app: Bench) -> None:
    flight = single(app)
    back = flight.released("the worker stops", after=3.0)
    assert (back.action, back.reason, back.after) == (Action.RELEASE, "the worker stops", 3.0)
    assert (back.task_id, back.task) == ("", "")
    flight.job = app.job(flight.delivery)
    back = flight.released("the worker stops")
    assert (back.task_id, back.task) == (flight.job.message.id, "single")
    assert back.after == 0.0


def test_the_parts_of_a_bundle_are_held_as_its_message_was(app: Bench) -> None:
    flights = Flights()
    whole = bundled(app)
    others = [replace(whole, id=str(n)) for n in range(2)]
    [flight, *rest] = flights.add([whole, *others], 60.0)
    assert [each.number for each in (flight, *rest)] == [1, 2, 3]
    flight.extended = flight.doubtful = flight.revoked = True
    parts = flights.split(flight, others)
    assert [part.number for part in parts] == [4, 5]
    assert [part.delivery for part in parts] == others
    for part in parts:
        assert (part.lease_ends, part.extended, part.doubtful) == (60.0, True, True)
        assert (part.revoked, part.lost, part.short) == (True, False, False)
    assert flights.all() == [*rest, *parts]
    flights.remove(parts)
    assert len(flights) == 2


LEASE = ("extended", "doubtful", "lost", "short", "revoked")


@pytest.mark.parametrize("known", LEASE)
def test_what_is_known_of_a_bundle_s_lease_is_known_of_each_call(app: Bench, known: str) -> None:
    flights = Flights()
    [whole, *_] = flights.add([bundled(app)], 60.0)
    tray = on_tray(app, flights)
    for flight in (whole, tray.flight):
        setattr(flight, known, True)
        flight.lined_up_at = 5.0
    part, call = flights.split(whole, [whole.delivery])[0], tray.take_out([0])[0]
    for flight in (part, call):
        assert [name for name in LEASE if getattr(flight, name)] == [known]
        assert flight.lease_ends == 60.0
    assert call.lined_up_at == 5.0


def test_the_calls_on_a_tray_count_and_are_held_by_its_message(app: Bench) -> None:
    flights = Flights()
    tray = on_tray(app, flights)
    assert (tray.first, tray.waiting, len(flights)) == (2, COUNT, COUNT)
    assert flights.all() == [tray.flight]
    assert tray.flight.whole_tray is tray
    cut = tray.cut(3, 7.0)
    assert (cut.number, cut.start, cut.stop, tray.waiting) == (2, 0, 3, 1)
    assert [cut.has(number) for number in range(1, 6)] == [False, True, True, True, False]
    [out] = cut.take_out([1])
    assert (out.number, out.given_at, out.tray, out.whole_tray) == (3, 7.0, tray, None)
    assert not cut.has(3)
    assert tray.cut(0, 8.0).number == tray.first + 3
    [last] = tray.take_waiting()
    assert (last.number, last.given_at, tray.waiting) == (5, 0.0, 0)
    assert len(flights) == COUNT
    flights.remove([out, last])
    flights.remove([out])  # it is gone
    assert (len(flights), tray.left) == (2, 2)
    flights.remove_plain(tray, 2)
    assert (len(flights), flights.all()) == (0, [])
    flights.remove_plain(on_tray(app, flights), COUNT)
    assert len(flights) == 0


def test_the_numbers_of_a_tray_s_calls_are_no_one_else_s(app: Bench) -> None:
    flights = Flights()
    tray = on_tray(app, flights)
    [after] = flights.add([tray.flight.delivery], 60.0)
    assert after.number == tray.first + COUNT


def test_calls_that_have_ended_stand_for_the_first_of_them(app: Bench) -> None:
    tray = on_tray(app, Flights())
    now = time.time()
    ends = Ends(tray=tray, ends=[(number, None, now, now, 0.0) for number in (2, 0, 3)])
    assert ends.numbers == [2, 0, 3]
    assert ends.part is tray.parcel.part(2)
    pairs = tray.pairs(ends.ends)
    assert [flight.number - tray.first for flight, _ in pairs] == [2, 0, 3]
    assert all(flight.settling for flight, _ in pairs)
    assert [(end.task_id, end.task, end.name) for _, end in pairs] == [
        (tray.calls[number].id, "t", "t") for number in (2, 0, 3)
    ]
