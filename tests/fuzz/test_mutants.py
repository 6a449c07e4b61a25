"""Mutants of valid bodies, for all that reads bodies: none is handled wrongly, slowly or dearly."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from tests.fuzz.campaign import PEAK, Campaign, resident, silent

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
COUNT = int(os.environ.get("CLOUDQ_FUZZ", "1_000_000" if FULL else "6_000"))
SEED = int(os.environ.get("CLOUDQ_FUZZ_SEED", "12"))
_MEMORY = 300.0  # MB that the process may grow by, whatever the number of bodies
# Threads of a process that has run tasks.
_STAY = frozenset({"MainThread", "alarms", "leases of calls", "asyncio"})


@pytest.fixture
def campaign() -> Iterator[Campaign]:
    with silent():
        made = Campaign(SEED)
        yield made
        made.close()


@pytest.mark.drill
@pytest.mark.timeout(0 if FULL else 900)
def test_no_mutant_of_a_body_is_handled_wrongly(campaign: Campaign) -> None:
    before, known = resident(), {thread.name for thread in threading.enumerate()}
    campaign.run(COUNT)
    figures = campaign.figures()
    print({"seed": SEED, **figures})
    wrong = [f"{f.target}: {f.what} {f.where}: {f.body[:2000]!r}" for f in campaign.found.values()]
    assert not wrong, "\n".join(wrong[:5])
    assert resident() - before < _MEMORY
    assert campaign.peak < PEAK
    campaign.close()
    assert {thread.name for thread in threading.enumerate()} <= _STAY | known
    assert campaign.left()[1] <= 0, "descriptors are left open"
    ends = {corpus.target.name: set(corpus.ends) for corpus in campaign.corpora}
    for name, good in _GOOD.items():
        assert good in ends[name], f"no mutant for {name} was taken: {ends[name]}"


_GOOD = {
    "messages": "read",
    "bundles": "bundle of 4",
    "celery": "read",
    "values": "read",
    "payloads": "refused",
    "executor": "kept",
    "functions": "answered",
    "stored": "read",
}
