"""The log of ends: when it is written, and that it is read whole and in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudq.driver import Item, Key, Page
from cloudq.results.ends import ends
from cloudq.results.ends_log import DAY, EndsLog
from cloudq.results.record import Record, State

NOW = 20_000.5 * DAY


class Clock:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Shelf:
    """The items of a store, read by partition as a query does."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.reads = 0

    def put(self, item: Item | None) -> None:
        """Keep an item, if there is one."""
        if item is not None:
            self.items.append(item)

    def query(self, partition: str, after: str | None, limit: int) -> Page:
        """Return a page in the order of sort keys."""
        self.reads += 1
        keys = sorted(i.key.sort for i in self.items if i.key.partition == partition)
        left = [sort for sort in keys if sort > (after or "")]
        found = {i.key.sort: i for i in self.items if i.key.partition == partition}
        page = [found[sort] for sort in left[:limit]]
        return Page(items=page, next=left[limit - 1] if len(left) > limit else None)


def ended(id: str, at: float, task: str = "t", queue: str = "q") -> Record:
    return Record(
        id=id,
        state=State.SUCCESS,
        task=task,
        queue=queue,
        worker="w",
        started_at=at - 0.25,
        finished_at=at,
    )


def test_ends_wait_for_others_half_a_second_or_a_thousand() -> None:
    clock = Clock()
    log = EndsLog(clock, 100.0)
    assert log.take() is None
    assert log.add([ended("a", NOW)]) is None
    assert log.take(due=True) is None
    clock.now += 0.6
    item = log.take(due=True)
    assert item is not None
    assert item.expires == clock.now + 100.0
    assert log.take() is None
    assert log.add([ended(f"n{n}", NOW) for n in range(999)]) is None
    assert log.add([ended("last", NOW)]) is not None


@given(
    st.lists(
        st.tuples(
            st.floats(0, 2.5 * DAY),
            st.lists(st.tuples(st.floats(0, 3), st.sampled_from("xyz")), min_size=1, max_size=6),
        ),
        max_size=12,
    )
)
def test_all_ends_are_read_newest_first(
    commits: list[tuple[float, list[tuple[float, str]]]],
) -> None:
    clock, shelf, expected = Clock(), Shelf(), dict[str, float]()
    for number, (moment, rows) in enumerate(commits):
        clock.now = NOW + moment
        log = EndsLog(clock, 100.0)
        records = [
            ended(f"{number}-{place}", clock.now - ago, task, f"of {task}")
            for place, (ago, task) in enumerate(rows)
        ]
        shelf.put(log.add(records))
        shelf.put(log.take())
        expected |= {record.id: record.finished_at or 0.0 for record in records}
    found = list(ends(shelf.query, now=NOW + 3 * DAY))
    assert {event.id for event in found} == expected.keys()
    times = [event.at for event in found]
    assert times == sorted(times, reverse=True)
    for event in found:
        assert abs(event.at - expected[event.id]) < 0.01
        assert event.took is not None
        assert abs(event.took - 0.25) < 0.01
        assert event.queue == f"of {event.task}"
    half = NOW + DAY
    since = [event.id for event in ends(shelf.query, now=NOW + 3 * DAY, since=half)]
    assert since == [event.id for event in found if event.at >= half]
    until = [event.id for event in ends(shelf.query, now=NOW + 3 * DAY, until=half)]
    assert until == [event.id for event in found if event.at <= half]


def test_an_end_that_was_written_twice_is_one() -> None:
    clock, shelf = Clock(), Shelf()
    for _ in range(2):
        log = EndsLog(clock, 100.0)
        log.add([ended("a b", NOW), ended("c", NOW)])
        shelf.put(log.take())
        clock.now += 1.0
    assert sorted(event.id for event in ends(shelf.query, now=clock.now)) == ["a b", "c"]


def test_what_another_program_wrote_is_left_out() -> None:
    clock, shelf = Clock(), Shelf()
    log = EndsLog(clock, 100.0)
    log.add([ended("a", NOW)])
    shelf.put(log.take())
    for fields in ({}, {"rows": "no json"}, {"rows": "[1]"}, {"rows": '[{"task": "t"}]'}):
        key = Key(shelf.items[0].key.partition, f"{len(shelf.items)}#odd")
        shelf.items.append(Item(key=key, fields=fields, expires=None))
    assert [event.id for event in ends(shelf.query, now=clock.now)] == ["a"]


def test_a_long_log_is_not_read_to_its_end_for_a_few() -> None:
    clock, shelf = Clock(), Shelf()
    for number in range(50):
        log = EndsLog(clock, 100.0)
        log.add([ended(f"{number}-{n}", clock.now) for n in range(500)])
        shelf.put(log.take())
        clock.now += 1.0
    found = ends(shelf.query, now=clock.now)
    assert [next(found).id.partition("-")[0] for _ in range(100)] == ["49"] * 100
    assert shelf.reads <= 2
