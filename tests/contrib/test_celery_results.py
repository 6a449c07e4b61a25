"""Results under Celery's names. What each comes to was tried with Celery 5.7."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudq.contrib.celery import Celery, chain, chord, group
from cloudq.contrib.celery import exceptions as errors
from cloudq.contrib.celery.result import (
    AsyncResult,
    EagerResult,
    GroupResult,
    ResultSet,
    allow_join_result,
    result_from_tuple,
)
from cloudq.testing import drain, eventually


class Shop:
    """An app with a few tasks, whose calls `run` runs."""

    def __init__(self) -> None:
        self.app = Celery("shop", broker="memory://results")
        app = self.app

        @app.task(name="add")
        def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="fail")
        def fail(*args: Any) -> None:
            raise KeyError("b")

        @app.task(name="total")
        def total(values: list[int]) -> int:
            return sum(values)

        @app.task(name="silent", ignore_result=True)
        def silent() -> int:
            return 1

        @app.task(name="starts")
        def starts() -> Any:
            return add.delay(2, 2)

        @app.task(name="starts_many")
        def starts_many() -> Any:
            return group(add.si(2, 2), add.si(1, 1))()

        self.add, self.fail, self.total, self.silent = add, fail, total, silent
        self.starts, self.starts_many = starts, starts_many

    def run(self, result: Any) -> Any:
        drain(self.app)
        return result


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    with made.app:
        yield made


def done(shop: Shop) -> Any:
    return shop.run(shop.add.delay(1, 2))


def pair(shop: Shop) -> Any:
    return shop.run(group(shop.add.s(1, 1), shop.add.s(2, 2))())


def in_chain(shop: Shop) -> Any:
    return shop.run(chain(shop.add.s(1, 1), shop.add.s(1))())


def noting() -> tuple[Callable[[str, Any], None], list[tuple[str, Any]]]:
    """Give a callback for `get`, and the list of what it has been told."""
    told: list[tuple[str, Any]] = []

    def callback(id: str, value: Any) -> None:
        told.append((id, value))

    return callback, told


def test_a_result_is_its_id(shop: Shop) -> None:
    result = done(shop)
    assert str(result) == f"{result}" == result.id == result.task_id
    assert result == result.id
    assert result != "another"
    assert result == AsyncResult(result.id)
    assert {result.id: 1}[result] == 1
    many = pair(shop)
    assert str(many) == many.id
    assert many == GroupResult(many.id, many.results)
    assert many == many.id


def test_what_is_known_of_a_call(shop: Shop) -> None:
    result = done(shop)
    assert (result.name, result.queue, result.args, result.kwargs) == ("add", "celery", None, None)
    assert result.worker
    assert result.exists()
    assert not AsyncResult("none").exists()
    assert AsyncResult("none").name is None
    assert result.app is shop.app
    assert result.supports_native_join
    assert in_chain(shop).as_list()[0] != in_chain(shop).id
    assert len(in_chain(shop).as_list()) == 2


def test_what_get_takes(shop: Shop) -> None:
    result = done(shop)
    assert result.wait(timeout=1) == result.get_leaf() == 3
    assert result.get(1, True, 0.1, True, True, None, None, None, False) == 3
    callback, told = noting()
    assert (result.get(callback=callback), told) == (3, [(result.id, 3)])
    said: list[Any] = []
    result.get(on_message=said.append, follow_parents=False)
    assert [(m["task_id"], m["status"], m["result"]) for m in said] == [(result.id, "SUCCESS", 3)]
    waits, ticks = shop.add.delay(1, 1), list[int]()
    with pytest.raises(errors.TimeoutError):
        waits.get(timeout=0.1, interval=0.02, on_interval=lambda: ticks.append(1))
    assert len(ticks) > 1


def test_maybe_throw_never_waits(shop: Shop) -> None:
    assert shop.add.delay(1, 1).maybe_throw() is None
    assert done(shop).maybe_throw() == 3
    failed = shop.run(shop.fail.delay())
    with pytest.raises(KeyError):
        failed.maybe_throw()
    assert isinstance(failed.maybe_throw(propagate=False), KeyError)
    with pytest.raises(KeyError):
        shop.run(group(shop.fail.s(), shop.fail.s())()).maybe_throw()


def test_then_is_called_once_the_end_is_seen(shop: Shop) -> None:
    result, told = shop.add.delay(1, 2), list[Any]()
    result.then(lambda ended: told.append(ended.get()))
    assert told == []
    shop.run(result).get()
    assert told == [3]
    result.then(told.append)
    assert told == [3, result]
    many = group(shop.add.s(1, 1), shop.add.s(2, 2))()
    many.then(lambda ended: told.append(len(ended)))
    shop.run(many).get()
    assert told[2:] == [2]


def test_an_error_of_what_then_calls_goes_to_on_error(shop: Shop) -> None:
    told: list[Any] = []

    def wrong(_: Any) -> None:
        raise LookupError

    done(shop).then(wrong, told.append)
    assert [type(error) for error in told] == [LookupError]
    with pytest.raises(LookupError):
        done(shop).then(wrong)


@pytest.mark.parametrize("make", [done, pair, in_chain])
def test_a_result_can_be_pickled(shop: Shop, make: Any) -> None:
    result = make(shop)
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    assert again.get(timeout=1) == result.get(timeout=1)
    if result.parent is not None:
        assert again.parent.get(timeout=1) == 2
    eager = shop.add.apply((1, 2))
    assert pickle.loads(pickle.dumps(eager)).get() == 3


def test_classes_of_results(shop: Shop) -> None:
    one, many, eager = done(shop), pair(shop), shop.add.apply((1, 2))
    assert isinstance(one, AsyncResult)
    assert isinstance(many, GroupResult)
    assert isinstance(many, ResultSet)
    assert not isinstance(one, GroupResult | ResultSet | EagerResult)
    assert isinstance(eager, EagerResult)
    assert isinstance(eager, AsyncResult)
    made: Any = EagerResult
    assert made("id", 5, "SUCCESS").get() == 5
    assert made("id", KeyError("x"), "FAILURE", traceback="t").state == "FAILURE"


def test_sets_of_results(shop: Shop) -> None:
    one, two, many = done(shop), in_chain(shop), pair(shop)
    results: Any = shop.app.ResultSet([])
    results.update([one, two])
    results.update([one])
    assert results.get(timeout=1) == [3, 3]
    results.discard(two)
    results.discard(two)
    results.remove(one.id)
    assert len(results) == 0
    results.update([one, two])
    results.clear()
    assert len(results) == 0
    with pytest.raises(KeyError):
        results.remove("none")
    assert many.join_native(timeout=1) == many.join(timeout=1) == [2, 4]
    assert [value["result"] for _, value in many.iter_native()] == [2, 4]
    callback, told = noting()
    assert (many.join(callback=callback), [value for _, value in told]) == ([], [2, 4])


def test_groups_are_made_saved_and_deleted(shop: Shop) -> None:
    many = pair(shop)
    many.save()
    assert shop.app.GroupResult(many.id, many.results).get(timeout=1) == [2, 4]
    found: list[Any] = [shop.app.GroupResult.restore(many.id), GroupResult.restore(many.id)]
    assert [each.get(timeout=1) for each in found] == [[2, 4]] * 2
    many.delete()
    assert GroupResult.restore(many.id) is None


@pytest.mark.parametrize("make", [done, pair, in_chain])
def test_a_result_from_its_ids(shop: Shop, make: Any) -> None:
    result = make(shop)
    for ids in (result.as_tuple(), json.loads(json.dumps(result.as_tuple())), result):
        again: Any = result_from_tuple(ids)
        assert again == result
        assert again.get(timeout=1) == result.get(timeout=1)


def test_what_is_ignored_is_none_at_once(shop: Shop) -> None:
    ignored = shop.silent.delay()
    assert ignored.ignored
    assert ignored.get(timeout=1) is None
    assert shop.add.apply_async((1, 1), ignore_result=True).get(timeout=1) is None
    assert ignored.state == "PENDING"
    many = group(shop.silent.si(), shop.add.si(1, 1))()
    assert shop.run(many).get(timeout=1) == [None, 2]


def test_a_failed_chord_raises_what_its_member_raised(shop: Shop) -> None:
    failed = shop.run(chord([shop.add.si(1, 1), shop.fail.si()], shop.total.s())())
    with pytest.raises(KeyError):
        failed.get(timeout=1)
    assert isinstance(failed.get(timeout=1, propagate=False), errors.ChordError)
    with pytest.raises(errors.ChordError):
        failed.get(timeout=1, follow_parents=False)
    with pytest.raises(errors.ChordError):  # nothing is known of the members
        AsyncResult(failed.id).get(timeout=1)


def test_a_task_that_gives_a_result_gives_its_ids(shop: Shop) -> None:
    one: Any = shop.run(shop.starts.delay())
    assert result_from_tuple(one.get(timeout=1)).get(timeout=1) == 4
    assert [child.get(timeout=1) for child in one.children] == [4]
    assert one.get_leaf() == 4
    many: Any = shop.run(shop.starts_many.delay())
    assert result_from_tuple(many.get(timeout=1)).get(timeout=1) == [4, 2]


def test_no_task_waits_for_another(shop: Shop) -> None:
    @shop.app.task(name="waits")
    def waits() -> str:
        with allow_join_result():
            pass
        try:
            shop.add.delay(1, 1).get(timeout=1)
        except RuntimeError as error:
            return str(error)
        return ""

    assert "must not be called within a task" in shop.run(waits.delay()).get(timeout=1)


def test_what_results_do_not_have_says_why(shop: Shop) -> None:
    with pytest.raises(AttributeError, match="cloudq graph"):
        _ = done(shop).graph


class TestEndsAsInCelery:
    def test_a_rejected_call_has_failed(self, shop: Shop) -> None:
        @shop.app.task
        def rejects() -> None:
            raise errors.Reject("broken", False)

        result = shop.run(rejects.delay())
        assert (result.state, result.failed(), result.ready()) == ("FAILURE", True, True)
        assert isinstance(result.result, errors.Reject)
        with pytest.raises(errors.Reject, match="broken"):
            result.get()
        last = shop.run(chain(rejects.si(), shop.add.si(1, 1))())
        assert (last.parent.state, last.state) == ("FAILURE", "FAILURE")
        members = shop.run(group(rejects.si(), shop.add.si(1, 1))())
        assert members.failed()

    def test_a_result_without_an_id_is_a_value_error(self, shop: Shop) -> None:
        makers: list[Any] = [AsyncResult, shop.app.AsyncResult, shop.add.AsyncResult]
        for make in makers:
            with pytest.raises(ValueError, match="id"):
                make(None)

    @pytest.mark.parametrize("tracked", [False, True])
    def test_the_error_of_a_try_is_seen_before_the_next(self, shop: Shop, tracked: bool) -> None:
        @shop.app.task(bind=True, track_started=tracked, max_retries=1)
        def later(self: Any) -> int:
            if self.request.retries:
                return 5
            raise self.retry(countdown=0.3, exc=KeyError("x"))

        result = later.delay()
        drain(shop.app)
        assert (result.state, result.ready(), result.successful()) == ("RETRY", False, False)
        assert (repr(result.result), repr(result.info)) == ("KeyError('x')", "KeyError('x')")
        assert "KeyError" in (result.traceback or "")
        assert eventually(lambda: shop.run(result).successful())
        assert (result.state, result.result, result.traceback) == ("SUCCESS", 5, None)

    def test_no_try_is_recorded_where_nothing_is_or_where_none_should_be(self, shop: Shop) -> None:
        @shop.app.task(bind=True, max_retries=1)
        def later(self: Any) -> None:
            raise self.retry(countdown=0.2, exc=KeyError("x"))

        ignored = later.apply_async(ignore_result=True)
        drain(shop.app)
        assert shop.app.AsyncResult(ignored.id).state == "PENDING"
        shop.app.conf.task_track_retries = False
        result = later.delay()
        drain(shop.app)
        assert result.state == "PENDING"
