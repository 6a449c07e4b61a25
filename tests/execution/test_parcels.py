"""The message of a bundle as its calls end: what is held back, what goes back, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from cloudq import AsyncResult
from cloudq.driver import Code, Delivery, Limits, Outgoing
from cloudq.execution import bundles
from cloudq.execution.bundles import (
    LONGEST_HOLD,
    Held,
    Parcel,
    Part,
    alone,
    dispose_parts,
    in_order,
    is_revoked,
    whole_of,
    wholes,
)
from cloudq.execution.commit import dispose
from cloudq.execution.settlement import Action, Settled, Settlement
from cloudq.messages.bundle import Bundle, Unread
from cloudq.messages.ids import bundled_id, new_bundle
from tests.support.bench import Bench

ACK = Settlement(action=Action.ACK)


def received(app: Bench, count: int = 3) -> tuple[Parcel, list[AsyncResult[None]]]:
    task = app.task(name="t")(lambda: None)
    results = app.publish([task.prepare() for _ in range(count)], bundle=count)
    return parcel_of(app, app.one()), results


def parcel_of(app: Bench, whole: Delivery) -> Parcel:
    bundle = app.runtime.codec.read(whole.body, queue=whole.queue, limit=1 << 20)
    assert isinstance(bundle, Bundle)
    return Parcel(whole, bundle)


def back(after: float = 0.0, reason: str = "later") -> Settlement:
    return Settlement(action=Action.RELEASE, after=after, reason=reason)


def disposed(app: Bench, *settled: Settled) -> tuple[list[Settled], list[tuple[Delivery, Code]]]:
    done = dispose_parts(settled, app.broker, app.clock())
    return done.wholes, [(refused.delivery, refused.code) for refused in done.refused]


def ids(deliveries: Sequence[Delivery], app: Bench) -> list[str]:
    return [job.message.id for job in app.runner.open(deliveries)[0]]


def test_what_goes_back_later_is_not_due_before(app: Bench) -> None:
    parcel, results = received(app)
    first, second, third = parcel.parts
    [(whole, end)], refused = disposed(app, (first, ACK), (second, back(30.0)), (third, back()))
    assert (whole, end.action, refused) == (parcel.whole, Action.ACK, [])
    assert ids(app.receive(), app) == [results[2].id]
    app.clock.ahead += 29.0
    assert not app.receive()
    app.clock.ahead += 2.0
    assert ids(app.receive(), app) == [results[1].id]


def test_what_cannot_go_back_yet_is_told_and_tried_again(app: Bench) -> None:
    parcel, results = received(app)
    first, second, third = parcel.parts
    app.wire.down = {"send"}
    done = dispose_parts([(first, ACK), (second, ACK), (third, back())], app.broker, app.clock())
    assert done.wholes == []
    [refused] = done.refused
    assert (refused.delivery, refused.code) == (third, Code.UNREACHABLE)
    assert "the broker is down" in refused.reason
    app.wire.down = set()
    [(whole, end)], refusals = disposed(app, (third, back()))
    assert (whole, end.action, refusals) == (parcel.whole, Action.ACK, [])
    assert ids(app.receive(), app) == [results[2].id]


def too_small(limits: Limits) -> Limits:
    return replace(limits, body=10)


def refused(message: Outgoing) -> Code:
    return Code.TOO_LARGE


@pytest.mark.parametrize("why", [too_small, refused])
def test_where_the_rest_can_never_be_sent_the_whole_bundle_goes_back(
    app: Bench, why: Callable[..., object]
) -> None:
    parcel, results = received(app)
    setattr(app.wire, "change_limits" if why is too_small else "refuse", why)
    first, second, third = parcel.parts
    [(whole, end)], refusals = disposed(
        app, (first, ACK), (second, back()), (third, back(9.0, "busy"))
    )
    assert (whole, end.action, end.after, refusals) == (parcel.whole, Action.RELEASE, 9.0, [])
    assert end.reason == "later"
    assert dispose([(whole, end)], app.broker) == []
    app.lose_leases()
    assert ids(app.receive(), app) == [result.id for result in results]


def test_what_went_back_is_not_sent_again_with_what_did_not(app: Bench) -> None:
    parcel, results = received(app)
    first, second, third = parcel.parts
    app.wire.refuse = lambda message: Code.THROTTLED if message.delay else None
    done = dispose_parts(
        [(first, ACK), (second, back()), (third, back(30.0))], app.broker, app.clock()
    )
    assert [(each.delivery, each.code) for each in done.refused] == [(third, Code.THROTTLED)]
    app.wire.refuse = lambda message: None
    app.wire.down = {"ack"}
    again: Settled = (third, back(30.0))
    assert [each.delivery for each in dispose([again], app.broker)] == [third]
    app.wire.down = set()
    assert dispose([again], app.broker) == []
    assert app.left() == 2
    assert ids(app.receive(), app) == [results[1].id]
    app.clock.ahead += 31.0
    assert ids(app.receive(), app) == [results[2].id]


def test_what_goes_back_does_so_to_the_queue_that_it_came_from(app: Bench) -> None:
    parcel, results = received(app)
    app.wire.send("other", [Outgoing(id="moved", body=parcel.whole.body)])
    first, second, third = parcel_of(app, app.one(queue="other")).parts
    [(_, end)], refusals = disposed(app, (first, ACK), (second, ACK), (third, back()))
    assert (end.action, refusals) == (Action.ACK, [])
    assert ids(app.receive(queue="other")[-1:], app) == [results[2].id]


def test_a_bundle_that_cannot_be_settled_is_told_by_its_last_call(app: Bench) -> None:
    parcel, _ = received(app)
    first, second, third = parcel.parts
    app.wire.down = {"ack"}
    [told] = dispose([(first, ACK), (second, ACK), (third, ACK)], app.broker)
    assert (told.delivery, told.code) == (third, Code.UNREACHABLE)
    app.wire.down = set()
    assert dispose([(third, ACK)], app.broker) == []
    assert app.left() == 0


def test_a_bundle_stays_while_one_of_its_calls_cannot_be_buried(app: Bench) -> None:
    parcel, results = received(app)
    first, second, third = parcel.parts
    dead = Settlement(action=Action.DEAD_LETTER, reason="it is broken")
    app.wire.down = {"send"}
    done, refusals = disposed(app, (first, ACK), (second, dead), (third, ACK))
    assert (done, refusals) == ([], [(second, Code.UNREACHABLE)])
    app.wire.down = set()
    [(whole, end)], refusals = disposed(app, (second, dead))
    assert (whole, end.action, refusals) == (parcel.whole, Action.ACK, [])
    [buried] = app.dead()
    assert (buried.id, buried.reason) == (results[1].id, "it is broken")


def test_a_bundle_stands_in_place_of_its_calls_once_all_are_settled(app: Bench) -> None:
    parcel, _ = received(app)
    app.task(name="single")(lambda: None).delay()
    single: Settled = (app.one(), ACK)
    first, second, third = parcel.parts
    assert wholes([single], app.broker) == ([single], [])
    assert wholes([(first, ACK), single, (second, ACK)], app.broker) == ([single], [])
    assert wholes([(third, ACK), single], app.broker) == ([single, (parcel.whole, ACK)], [])


def test_outcomes_are_held_for_a_second_at_most(
    app: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel, _ = received(app)
    now = 50.0
    monkeypatch.setattr(bundles.time, "monotonic", lambda: now)
    assert parcel.hold([0], ["a"]) == []
    now += LONGEST_HOLD / 2
    assert parcel.hold([1], ["b"]) == []
    assert parcel.overdue(now) == []
    now += LONGEST_HOLD / 2
    assert parcel.overdue(now) == ["a", "b"]
    assert not parcel.holds


def test_what_is_still_held_at_the_end_is_handed_out(app: Bench) -> None:
    (parcel, _), (other, _) = received(app), received(app)
    held: Held[Delivery] = Held(lambda delivery: delivery)
    assert held.ready([parcel.part(0), other.part(1), parcel.part(2)]) == []
    assert held.overdue() == []
    assert len(held) == 2
    assert held.left() == [parcel.part(0), parcel.part(2), other.part(1)]
    assert len(held) == 0
    assert held.left() == []


def test_the_lease_of_a_call_is_that_of_its_message(app: Bench) -> None:
    parcel, _ = received(app)
    assert whole_of(parcel.part(1)) is parcel.whole
    assert whole_of(parcel.whole) is parcel.whole


def test_a_call_is_revoked_by_its_place(app: Bench) -> None:
    parcel, _ = received(app)
    assert not is_revoked(parcel.part(1))
    parcel.revoked = {1, 7}
    assert [is_revoked(part) for part in parcel.parts] == [False, True, False]
    assert not is_revoked(parcel.whole)
    assert not is_revoked(Part(parcel, Unread(body=b"{}", reason="it is broken"), 1))


def test_a_call_that_goes_on_alone_says_why_and_counts_its_deliveries(app: Bench) -> None:
    parcel, _ = received(app)
    [job, *_], _ = app.runner.open([replace(parcel.whole, attempts=2)])
    assert isinstance(job.delivery, Part)
    on = alone(job.delivery, job.message)
    assert (on.action, on.record) == (Action.ACK, None)
    assert on.reason == "its bundle was delivered 2 times: it goes on alone"
    assert on.resend is not None
    assert (on.resend.id, on.resend.waits) == (job.message.id, job.message.waits + 1)


def test_no_call_is_equal_to_another_of_its_message(app: Bench) -> None:
    parcel, _ = received(app)
    first, second, third = parcel.parts
    assert first == parcel.part(0)
    assert first != second
    assert [second, third].index(third) == 1
    assert len({first, second, third, parcel.part(0)}) == 3


@pytest.mark.parametrize("whose", ["own", "another bundle's", "a stranger's", "none"])
def test_a_call_that_cannot_be_read_tells_no_id_but_its_own(app: Bench, whose: str) -> None:
    parcel, _ = received(app)
    name = parcel.name if whose == "own" else new_bundle()
    fields = {"id": "x" if whose == "a stranger's" else bundled_id(name, 1), "v": 1}
    body = b"[1]" if whose == "none" else json.dumps(fields).encode()
    call = Unread(body=body, reason="it is broken")
    error = parcel.part(1).unread(call)
    assert str(error) == "it is broken"
    assert error.fields == (fields if whose == "own" else None)
    assert Part(parcel, call, 1).name == f"{parcel.whole.id}.1"


def test_what_is_of_no_bundle_is_not_held_back(app: Bench) -> None:
    parcel, _ = received(app)
    app.task(name="single")(lambda: None).delay()
    single = app.one()
    held: Held[Delivery] = Held(lambda delivery: delivery)
    first, second, third = parcel.parts
    assert held.ready([first, single, second]) == [single]
    assert len(held) == 1
    assert held.ready([third]) == [first, second, third]
    assert len(held) == 0


def test_the_calls_of_a_bundle_are_put_in_its_order(app: Bench) -> None:
    parcel, _ = received(app)
    app.task(name="single")(lambda: None).delay()
    first, second, third = parcel.parts
    pairs: list[tuple[Delivery, int]] = [(third, 3), (first, 1), (second, 2)]
    assert [number for _, number in in_order(pairs)] == [1, 2, 3]
    single = (app.one(), 0)
    assert in_order([single]) == [single]
    assert [n for _, n in in_order([single, *pairs])] == [0, 1, 2, 3]
    assert [n for _, n in in_order([(first, 1), single, (second, 2)])] == [1, 0, 2]
    assert isinstance(first, Part)
