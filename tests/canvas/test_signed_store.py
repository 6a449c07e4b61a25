"""Apps that sign their messages sign what lies in the store to be sent later, too."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from cloudq import ChordError, CloudQ, TaskFailure, chain, chord
from cloudq.canvas.slots import join_key
from cloudq.driver import Change, Key
from cloudq.testing import drain
from tests.worker.flow_tasks import Tasks

KEY = "k" * 32


def opened(name: str = "signs", **settings: Any) -> CloudQ:
    return CloudQ(name, **settings)


@pytest.fixture
def broker() -> str:
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def app(broker: str) -> Iterator[CloudQ]:
    with opened(broker=broker, signing_keys={"a": KEY}) as made:
        yield made


@pytest.fixture
def t(app: CloudQ) -> Tasks:
    return Tasks(app)


def change(app: CloudQ, key: Key, **fields: Any) -> None:
    assert app.backend is not None
    app.backend.update(key, Change(set=fields, keep_expires=True))


def fields_of(app: CloudQ, key: Key) -> dict[str, Any]:
    assert app.backend is not None
    return dict(app.backend.get([key])[key].fields)


def forge(app: CloudQ, join: str) -> str:
    """Have a join's body call another task."""
    text = orjson.loads(fields_of(app, join_key(join))["follows"])
    text["node"] = {"task": "add", "args": [6, 6], "id": text["body"], "immutable": True}
    return orjson.dumps(text).decode()


def test_a_body_that_was_changed_in_the_store_is_not_sent(app: CloudQ, t: Tasks) -> None:
    result = (chord([t.same.s(1), t.same.s(2)], t.total.s()) | t.same.s()).delay()
    join = result.parent.parent.id
    change(app, join_key(join), follows=forge(app, join))
    drain(app)
    assert t.runs == [("same", 1), ("same", 2)]
    with pytest.raises(ChordError, match="bad signature"):
        result.get(timeout=1)


def test_error_callbacks_that_were_changed_in_the_store_are_not_sent(app: CloudQ, t: Tasks) -> None:
    result = chord([t.fail.s()], t.total.s()).delay()
    join = result.parent.id
    text = orjson.loads(fields_of(app, join_key(join))["follows"])
    text["node"]["link_error"] = [{"task": "add", "args": [6, 6], "immutable": True}]
    change(app, join_key(join), follows=orjson.dumps(text).decode())
    drain(app)
    assert t.runs == []
    with pytest.raises(ChordError, match="member"):
        result.get(timeout=1)


@pytest.mark.parametrize("how", ["no seal", "another join's"])
def test_a_body_without_a_signature_of_its_own_is_not_sent(app: CloudQ, t: Tasks, how: str) -> None:
    other = chord([t.same.s(1)], t.same.si("other")).delay()
    result = chord([t.same.s(1), t.same.s(2)], t.total.s()).delay()
    key = join_key(result.parent.id)
    if how == "no seal":
        assert app.backend is not None
        app.backend.update(key, Change(remove=frozenset({"seal"}), keep_expires=True))
    else:
        theirs = fields_of(app, join_key(other.parent.id))
        change(app, key, follows=theirs["follows"], seal=theirs["seal"])
    drain(app)
    assert not any(run[0] == "total" for run in t.runs)
    assert t.runs.count(("same", "other")) <= 1  # never for this join too
    assert result.failed() or how != "no seal"


@pytest.mark.parametrize("how", ["changed", "no seal", "another chunk"])
def test_steps_that_were_changed_in_the_store_are_not_sent(app: CloudQ, t: Tasks, how: str) -> None:
    result = chain(t.same.si(n) for n in range(100)).delay()
    [delivery] = app.broker.receive("default", count=1, wait=0.0, lease=60.0)
    steps = app.broker.codec.decode(delivery.body, queue="default", limit=1 << 20).chain
    key = Key(f"steps#{steps[-1]['more']}", "0000000.000")
    assert app.backend is not None
    if how == "no seal":
        app.backend.update(key, Change(remove=frozenset({"seal"}), keep_expires=True))
    elif how == "changed":
        changed = fields_of(app, key)["steps"].replace('"same"', '"add"')
        change(app, key, steps=changed)
    else:
        next_one = fields_of(app, Key(key.partition, "0000001.000"))
        change(app, key, **{name: next_one[name] for name in ("steps", "seal")})
    app.broker.release([delivery], after=0.0)
    drain(app)
    assert t.runs == [("same", n) for n in range(25)]
    ended = result
    while ended.parent is not None and not ended.ready():
        ended = ended.parent
    with pytest.raises(Exception, match="refused"):
        ended.get(timeout=1)


def test_workflows_of_an_app_that_signs_run_as_others_do(app: CloudQ, t: Tasks) -> None:
    result = chain(
        *(t.same.si(n) for n in range(60)), chord([t.same.s(), t.same.s()], t.total.s())
    ).delay()
    drain(app)
    assert result.get(timeout=1) == 118


@pytest.mark.parametrize("trusts", [True, False])
def test_the_signature_of_another_app_counts_where_it_is_trusted(
    broker: str, t: Tasks, trusts: bool
) -> None:
    with opened("other", broker=broker, signing_keys={"a": KEY}) as other:
        theirs = Tasks(other)
        result = chord([theirs.same.s(1)], theirs.total.s()).delay()
        text = fields_of(other, join_key(result.parent.id))
        apps = ["other"] if trusts else []
        with opened("reader", broker=broker, signing_keys={"a": KEY}, signing_apps=apps) as app:
            read = app.broker.codec
            place = join_key(result.parent.id).partition
            if trusts:
                read.check_seal(text, place, text["follows"])
            else:
                with pytest.raises(Exception, match="not in signing_apps"):
                    read.check_seal(text, place, text["follows"])


def test_an_unsigned_join_is_read_where_signatures_are_not_required(broker: str) -> None:
    with opened(broker=broker) as plain:
        result = chord([Tasks(plain).same.s(1)], Tasks(plain).total.s()).delay()
        with opened(broker=broker, signing_keys={"a": KEY}, signing_required=False) as signs:
            Tasks(signs)
            drain(signs)
        assert result.get(timeout=1) == 1


def test_what_a_failed_step_raised_is_told_as_it_is(app: CloudQ, t: Tasks) -> None:
    result = chain(t.fail.s(), *(t.same.s() for _ in range(60))).delay()
    drain(app)
    with pytest.raises((ValueError, TaskFailure), match="on purpose"):
        result.get(timeout=1)
