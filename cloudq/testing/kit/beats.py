"""A beat in the test's process, which goes by the test's clock."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from cloudq.app import CloudQ
from cloudq.schedules.beat import Beat
from cloudq.testing.kit.in_memory import in_memory_services


class _Paced:
    """Tells a virtual clock when a beat has something to send."""

    def __init__(self, beat: Beat) -> None:
        self._beat = beat

    def keep_time(self, clock: Callable[[], float]) -> None:
        """The beat asks its app for the time."""

    def next_due(self) -> float:
        return self._beat.next_due()


@contextmanager
def beat(app: CloudQ) -> Generator[Beat]:
    """Send the app's periodic tasks for a block, when the virtual clock comes to their times.

    The app is in memory with a clock: `in_memory(app, clock=clock)`, or `worker(app, clock=clock)`.
    Runs count from the block's beginning. `clock.advance` sends each run at its moment, and lets
    workers do it; `advance_to_end` has no end, since there is always a next run.
    """
    inside = in_memory_services(app)
    if inside is None or inside.time is None:
        raise ValueError("the beat goes by a virtual clock: with in_memory(app, clock=clock): ...")
    clock = inside.time
    made = Beat(app.schedules, hostname="test", refresh=0.0, monotonic=app.runtime.clock)
    paced = _Paced(made)
    made.tick()
    clock.drive(paced)
    clock.join(made.tick, first=True)
    try:
        yield made
    finally:
        clock.part(made.tick)
        clock.leave(paced)
        made.stop()
