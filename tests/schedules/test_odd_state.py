"""Items of the beat that another program wrote: no schedule stops, and what is odd is mended."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cloudq import BackendError, CloudQ, ConfigurationError, every
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


def test_a_schedule_that_is_sealed_says_with_which_key_and_shows_no_secret(
    tmp_path: Path,
) -> None:
    pytest.importorskip("cryptography")
    url = f"sqlite:///{tmp_path}/sealed.db"
    keys = {name: base64.b64encode(name.encode() * 32).decode() for name in "ab"}

    def shop(**settings: Any) -> CloudQ:
        app = CloudQ("shop", broker=url, backend=url, **settings)

        @app.task(name="pay", secret=["card"])
        def pay(card: str) -> None: ...

        return app

    with shop(encryption_keys=keys) as app:
        app.schedules.add("sealed", "pay", every(60), args=("4111-canary",))
        assert "4111" not in repr(app.schedules.all())
        assert app.schedules.entry("sealed").args == ("4111-canary",)
    for settings, why in (
        ({}, "sealed with key 'a', which is not among encryption_keys"),
        ({"encryption_keys": {"b": keys["b"]}}, "sealed with key 'a', which is not among"),
    ):
        with shop(**settings) as app, pytest.raises(ConfigurationError, match=why):
            app.schedules.entry("sealed")
    with shop() as app:
        app.schedules.add("plain", "pay", every(60), args=("4111-canary",))
        assert "4111" not in repr(app.schedules.all())
    with (
        shop(encryption_keys=keys) as app,
        pytest.raises(ConfigurationError, match="not encrypted: this app sends only what"),
    ):
        app.schedules.entry("plain")
