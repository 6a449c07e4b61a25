"""Single calls made shortly after each other: their ends lie together, and are read as any."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq import State, wait_for
from cloudq.driver import Code, ConditionFailed, Delivery, Item, Key, StoreAdmin
from cloudq.driver.loader import open_backend
from cloudq.driver.store import StoreLimits
from cloudq.errors import BackendError
from cloudq.execution.commit import commit, dispose
from cloudq.execution.settlement import Action, Batch, Settlement
from cloudq.messages.ids import (
    SERIES,
    SeriesIds,
    bundled_id,
    new_bundle,
    new_series,
    place_in_series,
    place_of,
)
from cloudq.messages.message import new_id
from cloudq.results.backend import Backend
from cloudq.results.pauses import Waited
from cloudq.results.record import Record
from cloudq.results.series import series_key
from tests.results.test_bundle_item import url_of
from tests.support.bench import Bench
from tests.support.forking import run_forking

CALLS = 2 * SERIES
SERIES_DEEDS = ["commit", "advance", "revoke", "forget", "large", "fail", "start", "again"]


def series_of(calls: int) -> list[str]:
    """Return ids in one row: those of whole series, and of one that is begun."""
    names = [new_series() for _ in range(0, calls, SERIES)]
    return [bundled_id(names[n // SERIES], n % SERIES) for n in range(calls)]


def end(id: str, value: str = "1", **fields: Any) -> Record:
    given: dict[str, Any] = {"state": State.SUCCESS, "task": "t", "finished_at": 1.5, **fields}
    return Record(id=id, value=value, **given)


def record(backend: Backend, ends: Sequence[Record]) -> Batch:
    """Record ends as one commit does."""
    pairs = [
        (
            Delivery(queue="q", id=one.id, body=b"", receipt="r", attempts=1, lease=60.0),
            Settlement(action=Action.ACK, task_id=one.id, record=one),
        )
        for one in ends
    ]
    return commit(pairs, None, backend)  # nothing is sent


# ---- ids


def test_calls_made_shortly_after_each_other_are_of_one_series() -> None:
    numbers = SeriesIds()
    first, second, *ids = [numbers.next() for _ in range(2 + CALLS)]
    assert {place_in_series(first), place_in_series(second)} == {None}
    places = [place_in_series(id) for id in ids]
    assert [place.number for place in places if place] == [*range(SERIES), *range(SERIES)]
    assert len({place.bundle for place in places if place}) == 2
    assert {place_of(id) for id in ids} == {None}
    assert place_in_series(bundled_id(new_bundle(), 1)) is None
    assert len(set(ids)) == CALLS


def test_a_call_after_a_look_or_a_pause_follows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = SeriesIds()
    assert place_in_series(numbers.next()) is None
    numbers.until = 0.0
    assert place_in_series(numbers.next()) is None
    assert place_in_series(numbers.next()) is None
    assert place_in_series(numbers.next()) is not None
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3601)
    assert place_in_series(numbers.next()) is None


def test_a_forked_process_gives_no_id_of_its_parent() -> None:
    ids = run_forking(
        """
from cloudq.messages.ids import SeriesIds
numbers = SeriesIds()
numbers.next(), numbers.next(), numbers.next()
def show():
    for _ in range(4):
        print(numbers.next())
assert forked(show) == 0
show()
""",
        "memory://",
        "memory://",
        "default",
    ).split()
    assert len(set(ids)) == 8


@given(text=st.text(min_size=36, max_size=36))
def test_the_id_of_a_stranger_has_no_place(text: str) -> None:
    place = place_in_series(text)
    assert place is None or bundled_id(place.bundle, place.number) == text


# ---- the item


@pytest.fixture(params=["dynamodb", "firestore", "aztables", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    url = url_of(request, tmp_path)
    driver = open_backend(url)
    driver.limits = replace(driver.limits, bills_kilobytes=True)
    made = Backend(driver, url=url)
    if isinstance(made.driver, StoreAdmin):
        made.driver.create_store()
    yield made
    made.close()


def test_ends_of_a_series_are_found_however_they_came(backend: Backend) -> None:
    whole, part = series_of(CALLS)[:SERIES], series_of(SERIES)
    large = end(part[6], value=f'"{"x" * 500}"')
    assert not record(backend, [end(id) for id in whole]).failed
    assert not record(backend, [end(id) for id in part[:3]]).failed
    assert not record(backend, [end(id) for id in part[3:5]]).failed
    assert not record(backend, [end(part[5])]).failed
    assert not record(backend, [large, end(part[7], state=State.FAILURE, value=None)]).failed
    for own in (True, False):
        fresh = Backend(backend.driver, url=backend.url)
        found = fresh.records([*whole, *part, "a stranger"], own=own)
        assert found.keys() == {*whole, *part}
        assert found[part[0]] == end(part[0])
        assert found[part[6]] == large
        assert found[part[7]].state is State.FAILURE
    assert fresh.record(whole[3]) == end(whole[3])


def test_an_end_is_taken_out_and_others_stay(backend: Backend) -> None:
    ids = series_of(SERIES)
    record(backend, [end(id) for id in ids[:4]])
    record(backend, [end(id) for id in ids[4:6]])
    for number in (0, 4, 5, 7):
        backend.forget(ids[number])
    assert backend.records(ids).keys() == {ids[1], ids[2], ids[3]}
    record(backend, [end(id, value="2", finished_at=2.5) for id in ids])
    assert {one.value for one in backend.records(ids, own=True).values()} == {"2"}


def test_what_has_ended_with_others_is_not_revoked_or_ended_again(backend: Backend) -> None:
    ids = series_of(3)
    record(backend, [end(id) for id in ids[:2]])
    assert backend.revoke(ids[0]) is None
    assert backend.advance(end(ids[0], value="2", fence=2)) == end(ids[0])
    assert backend.record(ids[0]) == end(ids[0])
    revoked = backend.revoke(ids[2])
    assert revoked is not None
    assert revoked.revoked
    assert backend.revoke_together(ids) == {}


def test_a_later_call_of_an_id_has_its_own_record(backend: Backend) -> None:
    ids = series_of(4)
    record(backend, [end(id) for id in ids])
    assert backend.records(ids)
    record(backend, [end(id, value="9", call="later") for id in ids[:2]])
    for own in (True, False):
        found = backend.records(ids, own=own)
        assert [found[id].value for id in ids] == ["9", "9", "1", "1"]


def test_its_own_state_is_no_word_of_the_first_to_who_knows_it(backend: Backend) -> None:
    ids = series_of(4)
    record(backend, [end(id) for id in ids])
    assert backend.records(ids)
    started = Record(id=ids[0], state=State.STARTED, call="later")
    assert backend.advance(started) is None
    assert backend.records(ids, own=True)[ids[0]] == started
    assert backend.records(ids)[ids[0]].value == "1"
    backend.store([end(ids[1], value="9", call="later")])
    assert backend.records(ids)[ids[1]].value == "9"


# ---- the calls


@pytest.fixture
def app() -> Iterator[Bench]:
    with Bench() as app:
        yield app


def run(app: Bench, count: int = 100) -> None:
    """Run all that is there, and record it as one commit does."""
    deliveries = app.receive(count)
    jobs, _ = app.runner.open(deliveries)
    pairs = [(job.delivery, app.runner.run(job)) for job in jobs]
    batch = commit(pairs, app.broker, app.backend)
    assert not batch.failed
    assert dispose(batch.ready, app.broker) == []


def test_calls_of_one_moment_are_recorded_and_read_in_few_requests(app: Bench) -> None:
    task: Any = app.task(lambda n: n)
    results = [task.delay(n) for n in range(2 + CALLS)]
    app.store.calls.clear()
    run(app)
    # One put of four items: those of the first two calls, and of two series.
    assert app.store.calls["put"] == 1
    assert app.store.calls["update"] == 0
    app.store.calls.clear()
    assert [one.value for one in wait_for(results)] == [str(n) for n in range(2 + CALLS)]
    assert app.store.calls["get"] <= 2


def test_results_fetched_one_by_one_are_read_once_for_a_series(app: Bench) -> None:
    task: Any = app.task(lambda n: n)
    results = [task.delay(n) for n in range(2 + CALLS)]
    run(app)
    app.store.calls.clear()
    assert [result.get() for result in results] == [*range(2 + CALLS)]
    assert app.store.calls["get"] == 2 + 2


def test_who_calls_and_waits_pays_for_one_item(app: Bench) -> None:
    task: Any = app.task(lambda n: n)
    for n in range(3):
        result = task.delay(n)
        run(app)
        assert result.get() == n
        assert place_in_series(result.id) is None


def test_a_redelivery_finds_the_end_that_lies_with_others(app: Bench) -> None:
    runs = list[int]()
    task: Any = app.task(runs.append)
    for n in range(5):
        task.delay(n)
    deliveries = app.receive()
    jobs, _ = app.runner.open(deliveries)
    pairs = [(job.delivery, app.runner.run(job)) for job in jobs]
    record(app.results, [settlement.record for _, settlement in pairs if settlement.record])
    app.lose_leases()  # the worker died before it had acknowledged them
    app.work()
    assert (sorted(runs), app.left()) == ([0, 1, 2, 3, 4], 0)


def test_a_store_that_is_down_for_one_series_keeps_its_outcomes(app: Bench) -> None:
    ids = series_of(SERIES)
    app.store.down.add("update")
    batch = record(app.results, [end(ids[0]), end(ids[1]), end(new_id())])
    assert [settlement.task_id for _, settlement in batch.failed] == ids[:2]
    assert len(batch.ready) == 1
    assert isinstance(batch.error, BackendError)
    app.store.down.clear()
    app.store.refuse = lambda item: Code.THROTTLED if "series" in str(item.key) else None
    batch = record(app.results, [*map(end, ids), end(new_id())])
    assert sorted(settlement.task_id for _, settlement in batch.failed) == ids
    assert len(batch.ready) == 1


def test_a_call_with_the_id_of_one_that_ended_with_others_is_run_and_read(app: Bench) -> None:
    task: Any = app.task(lambda n: n)
    results = [task.delay(n) for n in range(5)]
    run(app)
    again = task.apply_async(args=[99], task_id=results[3].id)
    run(app)
    assert again.get(timeout=0) == 99
    revoked = task.apply_async(args=[100], task_id=results[4].id)
    assert revoked.revoke()
    app.work()
    assert app.state(revoked) is State.REVOKED


def test_results_that_are_kept_for_longer_are_not_cut_short(app: Bench) -> None:
    ids = series_of(4)
    other = Backend(app.store, url="faulty://", expires=60.0)
    record(app.results, [end(id) for id in ids[:2]])
    record(other, [end(id) for id in ids[2:]])
    app.clock.ahead += 61.0
    assert app.results.records(ids).keys() == {*ids}


def test_workers_that_add_to_one_item_at_about_the_same_time_refuse_each_other_nothing(
    app: Bench,
) -> None:
    ids = series_of(4)
    app.clock.stand_still()
    step = app.results.expires / 1_000
    app.clock.ahead += step / 2 - (app.clock() + app.results.expires) % step
    record(app.results, [end(id) for id in ids[:2]])
    app.clock.ahead -= step / 3  # it began before the other
    app.store.calls.clear()
    record(app.results, [end(id) for id in ids[2:]])
    assert app.store.calls["update"] == 1
    assert app.results.records(ids).keys() == {*ids}


@pytest.mark.parametrize("until", ["text", None])
def test_a_part_is_added_though_strangers_have_changed_the_time(app: Bench, until: Any) -> None:
    ids = series_of(4)
    place = place_in_series(ids[0])
    assert place is not None
    record(app.results, [end(id) for id in ids[:2]])
    item = app.results.get([series_key(place.bundle)])[series_key(place.bundle)]
    fields = {**item.fields, "until": until}
    app.results.put([replace(item, fields={k: v for k, v in fields.items() if v is not None})])
    record(app.results, [end(id) for id in ids[2:]])
    assert app.results.records(ids).keys() == {*ids}


def test_a_part_that_is_added_as_the_item_expires_will_expire_itself(app: Bench) -> None:
    ids = series_of(4)
    place = place_in_series(ids[0])
    assert place is not None
    shared = series_key(place.bundle)
    record(Backend(app.store, url="faulty://", expires=9e4), [end(id) for id in ids[:2]])
    inner, gone = app.store.inner.update, list[Key]()

    def update(key: Key, change: Any) -> Item:
        try:
            return inner(key, change)
        except ConditionFailed:
            app.store.inner.delete([shared])
            gone.append(key)
            raise

    app.store.inner.update = update
    record(app.results, [end(id) for id in ids[2:]])
    item = app.results.get([shared])[shared]
    assert item.expires is not None
    assert gone == [shared]
    assert app.results.records(ids).keys() == {*ids[2:]}


def test_who_waits_learns_how_long_a_call_of_a_series_takes() -> None:
    waited = Waited(series_of(1)[0], "t")
    assert waited.called_at == pytest.approx(time.time(), abs=60.0)
    assert Waited(bundled_id(new_bundle(), 0), "t").called_at is None


def test_an_end_that_came_with_others_between_look_and_claim_counts(app: Bench) -> None:
    runs = list[int]()
    task: Any = app.task(runs.append)
    for n in range(5):
        task.delay(n)
    jobs, _ = app.runner.open(app.receive())
    ends = [app.runner.run(job).record for job in jobs]
    app.lose_leases()
    inner, looks = app.store.inner.get, list[int]()

    def get(keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
        found = inner(keys, consistent=consistent)
        if not looks:  # the first worker's commit, after this look
            looks.append(len(keys))
            record(app.results, [one for one in ends if one is not None])
        return found

    app.store.inner.get = get
    again, settled = app.runner.open(app.receive())
    assert ([job.message.args for job in again], len(settled)) == ([], 5)


def test_what_strangers_wrote_into_the_item_of_a_series_is_passed_over(app: Bench) -> None:
    ids = series_of(3)
    place = place_in_series(ids[0])
    assert place is not None
    record(app.results, [end(id) for id in ids[:2]])
    item = app.results.get([series_key(place.bundle)])[series_key(place.bundle)]
    odd: dict[str, Any] = {
        "p": b"",
        "p1": b"x" * 9,
        "px": "text",
        "q": b"1",
        "forgotten": "never",
        "pp": 7,
    }
    odd["pz"] = zlib.compress(b'{"all":{},"calls":[[0,{"state":"SUCCESS","finished_at":"x"}]]}')
    app.results.put([replace(item, fields={**item.fields, **odd})])
    assert app.results.records(ids).keys() == {*ids[:2]}
    app.results.forget(ids[0])
    assert app.results.records(ids).keys() == {ids[1]}


_DEEDS = st.sampled_from(
    ["commit", "advance", "revoke", "forget", "large", "fail", "start", "retry", "again"]
)


@settings(max_examples=60, deadline=None)
@given(deeds=st.lists(st.tuples(_DEEDS, st.sets(st.integers(0, 9), min_size=1)), max_size=12))
def test_records_in_series_are_as_those_of_their_own(
    deeds: Sequence[tuple[str, set[int]]],
) -> None:
    """The same deeds are done to calls with places in series and without."""
    with Bench() as app:
        app.store.limits = StoreLimits(put=25, get=100, item=400_000, bills_kilobytes=True)
        rows = [series_of(10), [new_id() for _ in range(10)]]
        for step, (deed, numbers) in enumerate(deeds):
            for ids in rows:
                _do(app.results, deed, [ids[number] for number in sorted(numbers)], step)
            for own in (True, False):
                one, other = (_shown(app.results, ids, own=own) for ids in rows)
                assert one == other


def _do(backend: Backend, deed: str, ids: Sequence[str], step: int) -> None:
    finished = 10.0 + step
    if deed in ("commit", "large", "fail"):  # nobody runs a call again that has ended
        found = backend.records(ids, own=True)
        ids = [id for id in ids if not (id in found and found[id].terminal)]
    match deed:
        case "commit":
            record(backend, [end(id, value=str(step), finished_at=finished) for id in ids])
        case "large":
            record(backend, [end(id, value="x" * 300, finished_at=finished) for id in ids])
        case "fail":
            failed = end("", state=State.FAILURE, error="no", finished_at=finished)
            record(backend, [replace(failed, id=id, value=None) for id in ids])
        case "advance":
            for id in ids:
                backend.advance(end(id, value="late", fence=3, finished_at=finished))
        case "start":
            for id in ids:
                backend.advance(Record(id=id, state=State.STARTED, task="t", fence=2))
        case "retry":
            for id in ids:
                again = Record(id=id, state=State.RETRY, task="t", fence=2, retries=1)
                record(backend, [again])
        case "again":
            record(backend, [end(id, value="again", call=f"{step:03}") for id in ids])
        case "revoke":
            for id in ids:
                backend.revoke(id)
        case _:
            for id in ids:
                backend.forget(id)


def _shown(backend: Backend, ids: Sequence[str], *, own: bool) -> list[Record | None]:
    backend.series.seen.forget()
    found = backend.records(ids, own=own)
    return [replace(one, id="") if (one := found.get(id)) else None for id in ids]
