"""The message of a bundle as its calls end: what is held back, what goes back, what is refused."""

from __future__ import annotations

from collections.abc import Sequence

from cloudq import AsyncResult
from cloudq.driver import Code, Delivery
from cloudq.execution.bundles import Held, Parcel, Part, dispose_parts, in_order
from cloudq.execution.settlement import Action, Settled, Settlement
from cloudq.messages.bundle import Bundle
from tests.support.bench import Bench

ACK = Settlement(action=Action.ACK)


def received(app: Bench, count: int = 3) -> tuple[Parcel, list[AsyncResult[None]]]:
    task = app.task(name="t")(lambda: None)
    results = app.publish([task.prepare() for _ in range(count)], bundle=count)
    whole = app.one()
    bundle = app.runtime.codec.read(whole.body, queue="default", limit=1 << 20)
    assert isinstance(bundle, Bundle)
    return Parcel(whole, bundle), results


def back(after: float = 0.0) -> Settlement:
    return Settlement(action=Action.RELEASE, after=after, reason="later")


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
    assert isinstance(first, Part)
