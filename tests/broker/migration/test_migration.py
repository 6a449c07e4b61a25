"""A migration moves every message once, wherever it is killed, and says what it leaves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudq.broker.migration import Journal, Options, journal_file
from cloudq.driver import Code, Failure, Limits
from cloudq.errors import BrokerError, ConfigurationError
from cloudq.results.record import DelayedMessage, Record, State
from cloudq.testing import outgoing
from tests.broker.migration.migrating import Ground, Ids, message, small
from tests.servers import unique
from tests.support.fuses import Fuse

Make = Callable[..., Ground]


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Make]:
    """Opens two brokers, by kind: memory or sqlite."""
    opened: list[Ground] = []

    def make(source: str = "memory", target: str = "memory", **named: Any) -> Ground:
        made = Ground(url(source, tmp_path), url(target, tmp_path), tmp_path, **named)
        opened.append(made.__enter__())
        return made

    yield make
    for each in opened:
        each.__exit__()


def url(kind: str, folder: Path) -> str:
    name = unique("m")
    return (
        f"sqlite:///{folder}/{name}.db?synchronous=off" if kind == "sqlite" else f"memory://{name}"
    )


def plain(limits: Limits) -> Limits:
    """Those of a queue that keeps no order and knows no duplicates."""
    return replace(small(limits), ordered=False, dedup_window=0.0)


def undelaying(limits: Limits) -> Limits:
    return replace(small(limits), max_delay=0.0)


def mixture() -> list[Any]:
    """Messages of every kind that can be moved."""
    return [
        *(message() for _ in range(6)),
        *(message(group=group) for group in "ababa"),
        message(dedup="once"),
        *(message(delay=60 + number) for number in range(5)),
        message(delay=90, group="late"),
    ]


def moved_once(ground: Ground, expected: Ids) -> None:
    assert ground.inside(1) == expected
    assert ground.inside(0) == Counter()
    assert not ground.journal.exists()


# ---- all of it


@pytest.mark.parametrize("source", ["memory", "sqlite"])
@pytest.mark.parametrize("target", ["memory", "sqlite"])
def test_everything_moves_under_its_own_id_and_body(ground: Make, source: str, target: str) -> None:
    place = ground(source, target)
    messages = mixture()
    expected = place.fill(messages)
    report = place.run()
    moved_once(place, expected)
    (queue,) = report.queues
    counts = (queue.before, queue.moved, queue.delayed, queue.left.total(), queue.repeats)
    assert counts == (18, 18, 6, 0, 0)
    assert report.complete
    target_driver: Any = place.target
    bodies = {peeked.id: peeked.body for peeked in target_driver.peek("q", count=100)}
    assert bodies == {message.id: message.body for message in messages}
    # At the times that they had.
    for waiting in target_driver.scheduled("q", count=100):
        (sent,) = [message for message in messages if message.id == waiting.id]
        assert abs(waiting.due - time.time() - sent.delay) < 2


def test_groups_keep_their_order(ground: Make) -> None:
    place = ground("sqlite", "memory")
    groups = "abcabcaabbbc"
    messages = [message(group=group) for group in groups]
    place.fill(messages)
    place.run()
    target: Any = place.target
    arrived: dict[str, list[str]] = {}
    while deliveries := target.receive("q", count=10, wait=0, lease=60):
        for delivery in deliveries:
            arrived.setdefault(delivery.group, []).append(delivery.id)
        target.ack(deliveries)
    assert arrived == {
        group: [m.id for m in messages if m.group == group] for group in sorted(set(groups))
    }


# ---- kills


def boundaries(run: Callable[[Fuse], object]) -> Iterator[Fuse]:
    """A fuse for every boundary between two calls of an undisturbed run."""
    trial = Fuse()
    run(trial)
    for at in range(len(trial.calls)):
        for after in (False, True):
            yield Fuse(at=at, after=after)


@contextmanager
def fresh(**named: Any) -> Iterator[Ground]:
    with TemporaryDirectory() as folder:
        place = Ground(f"memory://{unique()}", f"memory://{unique()}", Path(folder), **named)
        with place:
            yield place


SETUPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "the target shows messages only by leasing them": {"peeks": (True, False)},
    "the target deduplicates nothing": {"limits": (small, plain)},
    "both": {"peeks": (False, False), "limits": (small, plain)},
    "the target parks what is delayed": {
        "limits": (small, undelaying),
        "backend_url": "memory://parking",
    },
    "the source parks what is delayed": {
        "limits": (undelaying, small),
        "backend_url": "memory://parking",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("setup", list(SETUPS))
def test_killed_at_any_call_the_same_messages_are_there_in_the_end(setup: str) -> None:
    named = {**SETUPS[setup], "lease": 0.05}
    grouped = "limits" not in named

    def messages() -> list[Any]:
        return [
            *(message() for _ in range(5)),
            *(message(group="a") for _ in range(3 if grouped else 0)),
        ]

    def late() -> list[Any]:
        return [message(delay=60 + number) for number in range(5)]

    def fill(place: Ground) -> Ids:
        source = place.sides()[0]
        waiting = late()
        if source.broker.stores_delayed("q"):
            assert all(isinstance(each, str) for each in source.send("q", waiting))
        else:
            place.fill(waiting)
        return place.fill(messages()) + Counter(m.id for m in waiting)

    def trial(fuse: Fuse) -> None:
        with fresh(**named) as place:
            expected = fill(place)
            assert place.run(fuse).complete
            moved_once(place, expected)

    tried = 0
    for fuse in boundaries(trial):
        with fresh(**named) as place:
            expected = fill(place)
            assert place.killed(fuse), "the fuse did not blow"
            report = place.run()
            assert place.inside(1) == expected, f"killed {fuse}"
            assert place.inside(0) == Counter(), f"killed {fuse}"
            assert report.complete, report
            assert report.queues[0].moved in (len(expected), 0), "0: the last thing was the kill"
            assert not place.journal.exists()
            tried += 1
    assert tried > 20


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    ready=st.integers(0, 12),
    groups=st.lists(st.sampled_from("ab"), max_size=6),
    delayed=st.integers(0, 6),
    foreign=st.integers(0, 2),
    fuses=st.lists(st.tuples(st.integers(0, 25), st.booleans()), max_size=4),
    peeks=st.booleans(),
)
def test_killed_again_and_again_the_same_messages_are_there_in_the_end(
    ready: int,
    groups: list[str],
    delayed: int,
    foreign: int,
    fuses: list[tuple[int, bool]],
    peeks: bool,
) -> None:
    # A group's messages cannot all be seen by leasing them: those of a target are peeked at.
    with fresh(lease=0.05, peeks=(True, peeks or bool(groups))) as place:
        expected = place.fill(
            [
                *(message() for _ in range(ready)),
                *(message(group=group) for group in groups),
                *(message(delay=60 + number) for number in range(delayed)),
            ]
        )
        strangers = place.fill([message(body=b"hello") for _ in range(foreign)])
        for at, after in fuses:
            place.killed(Fuse(at=at, after=after))
        report = place.run()
        assert place.inside(1) == expected
        assert place.inside(0) == strangers
        assert report.queues[0].left.total() == foreign
        assert report.complete == (not foreign)


def test_killed_while_it_looks_into_the_target_it_waits_for_its_own_leases(ground: Make) -> None:
    place = ground(lease=0.5, peeks=(True, False), limits=(small, plain))
    expected = place.fill([message() for _ in range(6)])
    assert place.killed(Fuse(at=0, after=True, only=("send",)))
    # It is killed with what it has received from the target still leased.
    assert place.killed(Fuse(at=0, after=True, only=("receive",)))
    assert place.run().complete
    moved_once(place, expected)
    assert any("waits" in line and "leases" in line for line in place.said)


class OldestFirst:
    """A queue that gives out what is in it longest, also where it gave that out before.

    Extending takes time there, so that the leases of many messages cannot be kept.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._taken: list[Any] = []
        self._until: dict[str, float] = {}

    def receive(self, queue: str, *, count: int, wait: float, lease: float) -> Any:
        self._taken += self._driver.receive(queue, count=1000, wait=0, lease=600)
        now = time.monotonic()
        free = [each for each in self._taken if self._until.get(each.id, 0.0) <= now][:count]
        self._until |= {each.id: now + lease for each in free}
        return free

    def extend(self, deliveries: Any, *, lease: float) -> Any:
        time.sleep(0.01)
        now = time.monotonic()
        self._until |= {each.id: now + lease for each in deliveries}
        return ()

    def release(self, deliveries: Any, *, after: float) -> Any:
        if self._taken:
            assert not self._driver.release(self._taken, after=after)
        self._taken = []
        return ()

    def stats(self, queue: str) -> Any:
        # Pub/Sub counts nothing.
        return replace(self._driver.stats(queue), ready=None, leased=None)


@pytest.mark.slow
def test_a_target_too_full_to_be_seen_within_a_lease_is_seen_to_its_end(ground: Make) -> None:
    place = ground(lease=0.05, peeks=(True, False), limits=(small, plain))
    slow = OldestFirst(place.target)
    names = ("receive", "extend", "release", "stats")
    place.instead = ({}, {name: getattr(slow, name) for name in names})
    full = [message() for _ in range(200)]
    assert not place.target.send("q", full)
    expected = place.fill([message() for _ in range(6)]) + Counter(each.id for each in full)
    assert place.killed(Fuse(at=1, after=True, only=("send",)))
    assert place.run().complete
    moved_once(place, expected)


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_killed_while_it_extends_many_it_waits_for_all_of_them(ground: Make, at: int) -> None:
    place = ground(lease=0.2, peeks=(True, False), limits=(small, plain))

    def extend(deliveries: Any, *, lease: float) -> Any:
        time.sleep(0.02)
        return place.target.extend(deliveries, lease=lease)

    place.instead = ({}, {"extend": extend})
    full = [message() for _ in range(160)]
    assert not place.target.send("q", full)
    expected = place.fill([message() for _ in range(3)]) + Counter(each.id for each in full)
    assert place.killed(Fuse(at=0, after=True, only=("send",)))
    place.killed(Fuse(at=at, after=True, only=("extend",)))
    place.instead = ({}, {})
    assert place.run().complete
    moved_once(place, expected)


def test_a_target_that_is_worked_on_is_said_to_be_uncertain(ground: Make) -> None:
    place = ground(limits=(small, plain))
    place.fill([message() for _ in range(4)])
    assert place.killed(Fuse(at=0, after=True, only=("send",)))
    assert place.target.receive("q", count=2, wait=0, lease=60)
    report = place.run()
    assert report.queues[0].uncertain == 2
    assert any("being worked on" in line for line in place.said)


# ---- what comes again, and what only looks like it


def test_what_is_delivered_again_after_its_ack_is_dropped(ground: Make) -> None:
    forgetful = [True]
    place = ground(lease=0.1)

    def ack(deliveries: Any) -> Any:
        # The service says that it is done, and it was not.
        if forgetful[0]:
            forgetful[0] = False
            return ()
        return place.source.ack(deliveries)

    place.instead = ({"ack": ack}, {})

    def receive(queue: str, *, count: int, wait: float, lease: float) -> Any:
        found = place.source.receive(queue, count=count, wait=wait, lease=lease)
        # The queue ends when the first messages have come again.
        return found or place.source.receive(queue, count=count, wait=0.3, lease=lease)

    place.instead[0]["receive"] = receive
    expected = place.fill([message() for _ in range(6)])
    report = place.run()
    moved_once(place, expected)
    assert report.queues[0].repeats == 4


def test_the_same_id_in_another_call_is_another_message(ground: Make) -> None:
    place = ground()
    place.fill([message(id="daily"), message(id="daily")])
    place.run(limit=1)
    assert place.journal.exists()
    place.fill([message(id="daily")])
    place.run()
    moved_once(place, Counter({"daily": 3}))


@pytest.mark.parametrize("delay", [0.0, 60.0])
def test_what_was_moved_back_is_moved_again(ground: Make, delay: float) -> None:
    place = ground("sqlite", "memory")
    messages = [message(delay=delay, dedup=f"key {n}" if not delay else None) for n in range(3)]
    expected = place.fill(messages)
    place.fill([message(body=b"so that it is not complete")])
    stop = Event()
    # The journal of an interrupted run knows the messages; they come back unchanged.
    place.run(stop=stop, told=lambda moved: stop.set() if moved.moved == 3 else None)
    assert place.journal.exists()
    back = Ground(place.target_url, place.source_url, place.folder / "back")
    back.folder.mkdir()
    with back:
        assert back.run().complete
    report = place.run()
    assert place.inside(1) == expected
    assert report.queues[0].left.total() == 1


# ---- what stays


def test_what_the_target_cannot_honour_stays_with_its_reason(ground: Make) -> None:
    limits = lambda found: replace(plain(found), max_delay=0.0, body=2000)  # noqa: E731
    place = ground(limits=(small, limits))
    moved = place.fill([message(), message()])
    stays = place.fill(
        [
            message(group="a"),
            message(group="a"),
            message(dedup="b"),
            message(delay=60),
            message(size=4000),
            message(body=b"no task"),
        ]
    )
    migration = place.migration()
    (seen,) = migration.preview({"q": "q"}, look=False)
    report = place.run()
    assert place.inside(1) == moved
    assert place.inside(0) == stays
    left = report.queues[0].left
    for reason in ("group_key", "dedup_key", "cannot delay", "larger than", "no task message"):
        assert sum(n for text, n in left.items() if reason in text) == 1, (reason, left)
        assert sum(n for text, n in seen.stays.items() if reason in text) in (1, 2)
    # The second of the group could not even be received.
    assert left.total() == 6
    assert not report.complete
    assert report.queues[0].finished


def test_raw_moves_what_is_no_task_message(ground: Make) -> None:
    place = ground()
    expected = place.fill([message(body=b"hello"), message(body=b"\xff\xfe"), message()])
    report = place.run(raw=True)
    assert list(report.queues[0].left) == ["no text, and some brokers take nothing else"]
    assert place.inside(1).total() == 2
    assert place.inside(0) + place.inside(1) == expected


def test_a_refused_message_stays_and_holds_its_group_back(ground: Make) -> None:
    place = ground()
    good = [message(), message(group="b")]
    bad = message(group="a")
    expected = place.fill(good)
    stays = place.fill([bad, message(group="a")])

    def send(queue: str, messages: Any) -> Any:
        refused = [
            Failure(index=at, code=Code.INVALID, reason="so it is")
            for at, each in enumerate(messages)
            if each.id == bad.id
        ]
        place.target.send(queue, [each for each in messages if each.id != bad.id])
        return refused

    place.instead = ({}, {"send": send})
    report = place.run()
    assert place.inside(1) == expected
    assert place.inside(0) == stays
    assert report.queues[0].left["refused: so it is"] == 1


class Lost(Exception):
    pass


def test_a_target_that_does_not_answer_ends_the_run_and_the_next_finds_out(ground: Make) -> None:
    place = ground(limits=(small, plain))
    expected = place.fill([message() for _ in range(9)])
    calls = [0]

    def send(queue: str, messages: Any) -> Any:
        calls[0] += 1
        answer = place.target.send(queue, messages)
        if calls[0] == 2:
            raise Lost("the answer was lost on its way")
        return answer

    place.instead = ({}, {"send": send})
    with pytest.raises(BrokerError, match="lost on its way"):
        place.run()
    # What it held can be received at once.
    assert not place.source.stats("q").leased  # type: ignore[attr-defined]
    place.run()
    moved_once(place, expected)


def test_a_busy_target_is_asked_again(ground: Make) -> None:
    place = ground()
    expected = place.fill([message() for _ in range(4)])
    asked: list[int] = []

    def send(queue: str, messages: Any) -> Any:
        asked.append(len(messages))
        place.target.send(queue, messages[1:] if len(asked) == 1 else messages)
        return [Failure(index=0, code=Code.THROTTLED, reason="slow")] if len(asked) == 1 else []

    place.instead = ({}, {"send": send})
    place.run()
    assert asked == [4, 1]
    moved_once(place, expected)


@pytest.mark.slow
def test_what_stays_is_held_until_the_end_however_long_that_takes(ground: Make) -> None:
    place = ground(lease=0.9)

    def send(queue: str, messages: Any) -> Any:
        time.sleep(0.45)
        return place.target.send(queue, messages)

    place.instead = ({}, {"send": send})
    stays = place.fill([message(body=b"hello")])
    place.fill([message() for _ in range(30)])
    assert place.run().queues[0].moved == 30
    # It was received once by the migration, and not again and again.
    (delivery,) = place.source.receive("q", count=10, wait=1, lease=60)
    assert (Counter([delivery.id]), delivery.attempts) == (stays, 2)


# ---- delays


def test_a_source_that_shows_no_delays_says_how_many_stay_or_waits(ground: Make) -> None:
    hidden = ("schedule", "unschedule", "scheduled")
    place = ground(without=(hidden, ()))
    moved = place.fill([message()])
    stays = place.fill([message(delay=1.0), message(delay=1.2)])
    report = place.run()
    (reason,) = report.queues[0].left
    assert "--wait" in reason
    assert report.queues[0].left[reason] == 2
    assert place.inside(1) == moved
    assert place.run(wait=True).complete
    assert place.inside(1) == moved + stays


def test_a_delay_longer_than_the_target_can_is_made_of_hops(ground: Make) -> None:
    limits = lambda found: replace(small(found), max_delay=30.0)  # noqa: E731
    place = ground(limits=(small, limits))
    hops = place.fill([message(delay=90)])
    stays = place.fill([replace(message(body=b"raw"), delay=90.0)])
    report = place.run(raw=True)
    target: Any = place.target
    (waiting,) = target.scheduled("q", count=10)
    assert Counter([waiting.id]) == hops
    assert 25 < waiting.due - time.time() <= 30
    assert place.inside(0) == stays
    assert "longer than the 30 s" in next(iter(report.queues[0].left))


def test_what_is_due_meanwhile_moves_all_the_same(ground: Make) -> None:
    place = ground()
    expected = place.fill([message(delay=0.3 + number / 10) for number in range(8)])
    assert place.run().complete
    moved_once(place, expected)


def test_a_backend_that_both_park_in_keeps_what_it_has(ground: Make) -> None:
    place = ground(limits=(undelaying, undelaying), backend_url=f"memory://{unique()}")
    source, target = place.sides()
    waiting = [message(delay=60), message(delay=70)]
    assert all(source.send("q", waiting))
    report = place.run()
    assert report.complete
    assert {each.id for each in target.delayed("q")} == {each.id for each in waiting}


def waits_in(queue: str, handle: str) -> DelayedMessage:
    return DelayedMessage(queue=queue, handle=handle)


def test_a_record_names_the_new_place_of_a_delayed_task(ground: Make) -> None:
    place = ground("sqlite", "memory", backend_url=f"memory://{unique()}")
    place.fill([message(delay=90), message(delay=95, id="other")])
    source: Any = place.source
    first, second = source.scheduled("q", count=2)
    assert place.backend is not None
    place.backend.store(
        [
            Record(id=first.id, state=State.PENDING, scheduled=waits_in("q", first.handle)),
            # Someone else's choice of words: not to be touched.
            Record(id=second.id, state=State.PENDING, scheduled=waits_in("elsewhere", "7")),
        ]
    )
    place.run()
    target: Any = place.target
    handles = {each.id: each.handle for each in target.scheduled("q", count=2)}
    record = place.backend.record(first.id)
    assert record is not None
    assert record.scheduled == waits_in("q", handles[first.id])
    untouched = place.backend.record(second.id)
    assert untouched is not None
    assert untouched.scheduled == waits_in("elsewhere", "7")


# ---- interruption


def test_a_stop_ends_after_the_batch_at_hand_and_holds_nothing(ground: Make) -> None:
    place = ground()
    expected = place.fill([message() for _ in range(20)])
    stop = Event()
    report = place.run(stop=stop, told=lambda moved: stop.set() if moved.moved >= 8 else None)
    assert report.interrupted
    assert not report.complete
    assert report.queues[0].moved == 8
    source: Any = place.source
    assert source.stats("q").leased == 0
    assert place.inside(0) + place.inside(1) == expected
    report = place.run()
    assert (report.queues[0].earlier, report.queues[0].moved) == (8, 20)
    assert report.queues[0].before == 20
    moved_once(place, expected)


def test_a_limit_is_kept_over_all_queues(ground: Make) -> None:
    place = ground()
    first = place.fill([message() for _ in range(5)], "q")
    second = place.fill([message() for _ in range(5)], "r")
    report = place.run(limit=7, queues=("q", "r"))
    assert [each.moved for each in report.queues] == [5, 2]
    assert not report.complete
    report = place.run(queues=("q", "r"), limit=3)
    assert report.complete
    assert place.inside(1, "q") == first
    assert place.inside(1, "r") == second
    assert not place.journal.exists()


# ---- wrong use


def test_a_queue_cannot_move_to_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    one, same = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/sub/../a.db?synchronous=off"
    with Ground(one, same, tmp_path) as place:
        with pytest.raises(ConfigurationError, match="where it is"):
            place.migration().pairs()
        assert place.migration(names={"q": "r"}).pairs() == {"q": "r"}


def test_all_queues_are_moved_when_none_is_named(ground: Make) -> None:
    place = ground()
    place.fill([message()], "q")
    place.fill([message()], "r")
    assert place.migration(queues=(), names={"r": "s"}).pairs() == {"q": "q", "r": "s"}
    with pytest.raises(ConfigurationError, match="--map x="):
        place.migration(queues=(), names={"x": "s"}).pairs()


def test_a_journal_belongs_to_its_brokers_its_names_and_one_process(ground: Make) -> None:
    place = ground()
    place.fill([message() for _ in range(5)])
    place.run(limit=1)
    with pytest.raises(ConfigurationError, match="between other brokers"):
        Journal(place.journal, source="a://", target="b://")
    with pytest.raises(ConfigurationError, match="same --map"):
        place.run(names={"q": "r"})
    held = Journal(place.journal, source=place.source_url, target=place.target_url)
    with pytest.raises(ConfigurationError, match="another migration"):
        place.run()
    held.close()
    assert place.run().complete


def test_a_journal_has_a_name_for_each_way() -> None:
    names = {
        journal_file(*way).name
        for way in [("a", "b", "q"), ("b", "a", "q"), ("a", "b", "r"), ("a", "bq", "")]
    }
    assert len(names) == 4
    assert Options().journal is None


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("my notes, which are longer than a header of SQLite's" * 50)
    with pytest.raises(ConfigurationError, match="cannot use the journal"):
        Journal(tmp_path / "journal", source="a://", target="b://")
    assert (tmp_path / "journal").read_text().startswith("my notes")


def test_a_stranger_under_an_id_of_its_own_moves_raw(ground: Make) -> None:
    place = ground()
    stranger = outgoing(body=b"<xml/>")
    place.fill([stranger])
    place.run(raw=True)
    assert place.inside(1) == Counter([stranger.id])
