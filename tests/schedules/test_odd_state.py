"""Items of the beat that another program wrote: no schedule stops, and what is odd is mended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cloudq import BackendError, every
from cloudq.driver import Item, Key, Value
from cloudq.schedules.state import leader_key
from cloudq.testing import in_memory, worker
from tests.schedules.test_beat import Shop

ODD: Mapping[str, Value] = {
    "text": "soon",
    "infinite": float("inf"),
    "no number": float("nan"),
    "before time": -1e30,
    "after time": 1e30,
    "bytes": b"x",
    "nothing": None,
    "yes": True,
}


def runs_after(put: Key, fields: Mapping[str, Value]) -> tuple[float, Any]:
    """Write fields of an item under a beat; return its later runs, and the schedules."""
    shop = Shop()
    with in_memory(shop.app, clock=shop.clock), worker(shop.app, threads=2):
        shop.app.periodic(every(60), name="odd")(shop.note)
        shop.app.periodic(every(60), name="other")(shop.note)
        beating = shop.beat(lease=30.0)
        beating.tick()
        backend = shop.app.backend
        assert backend is not None
        stored = backend.get([put])[put].fields
        backend.put([Item(key=put, fields={**stored, **fields})])
        for _ in range(220):
            try:
                wait = beating.tick()
            except BackendError:
                wait = 0.5
            shop.clock.advance(max(wait, 0.5))
        return len(shop.ran), shop.app.schedules.all()


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
@pytest.mark.parametrize("field", ["owner", "beats"])
def test_an_odd_lease_is_written_anew(field: str, value: Value) -> None:
    """With a lead that is lost for a lease no run of a minute is."""
    runs, _ = runs_after(leader_key("shop"), {field: value})
    assert runs > 15


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
@pytest.mark.parametrize("field", ["last", "runs", "spec", "paused", "entry"])
def test_an_odd_state_stops_no_schedule(field: str, value: Value) -> None:
    runs, schedules = runs_after(Key("beat#shop", "entry#odd"), {field: value})
    assert runs > 5  # those of the other schedule
    state = schedules["odd"].state
    if field in ("last", "runs"):
        assert runs > 15
        assert state.last is not None
        if field == "last" or not isinstance(value, int | float) or value is True:
            assert state.runs > 3
