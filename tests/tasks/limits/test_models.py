"""Whatever the order of requests, crashes and lapses: no limit is passed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cloudq import BackendError
from cloudq.driver import Change, Item, Key
from cloudq.results.backend import Backend
from cloudq.tasks.limits.concurrency import NoPermit, Permit, PermitRequest, acquire, permits_key
from cloudq.tasks.limits.global_rate import GlobalRates
from cloudq.tasks.limits.rules import Rate
from cloudq.tasks.limits.worker_rate import FARTHEST
from cloudq_local.memory_backend import MemoryBackend, MemoryItems
from tests.support.bench import Clock
from tests.support.faults import FaultyStore

PICK = st.integers(0, 99)
# What happens around one request: nothing, others come first, or the asker dies before or after.
EVENTS = st.lists(
    st.sampled_from(["fine", "others first", "dies before", "dies after"]), max_size=4
)


class Died(Exception):
    """The process that made a request is no more."""


class Eventful(FaultyStore):
    """A store at whose updates things happen: `events` says what at the next ones."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(MemoryBackend(MemoryItems(clock)))
        self.events: list[str] = []
        self.others: Callable[[], object] = lambda: None

    def update(self, key: Key, change: Change) -> Item:
        event = self.events.pop(0) if self.events else "fine"
        if event == "dies before":
            raise Died
        if event == "others first":
            events, self.events = self.events, []
            self.others()
            self.events = events
        item = super().update(key, change)
        if event == "dies after":
            raise Died
        return item


class VirtualTime(RuleBasedStateMachine):
    """A store, a clock that only the rules move, and a way to die at a request."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.real = time.time
        time.time = lambda: self.now
        clock = Clock()
        clock.__class__ = type("Fixed", (Clock,), {"__call__": lambda _: self.now})
        self.store = Eventful(clock)
        self.backend = Backend(self.store, url="eventful://")

    def teardown(self) -> None:
        time.time = self.real

    def survives(self, events: list[str], work: Callable[[], object]) -> bool:
        """Do something while things happen; False when whoever did it died."""
        self.store.events = list(events)
        try:
            work()
        except (Died, BackendError):
            return False
        finally:
            self.store.events = []
        return True


class Tokens(VirtualTime):
    """Workers that take tokens of one bucket, some of them with an old view of it."""

    RATE = Rate(count=120, seconds=60)  # 2/s: a burst of 2

    def __init__(self) -> None:
        super().__init__()
        self.workers = [GlobalRates() for _ in range(3)]
        self.turns: list[float] = []
        self.store.others = lambda: self.take(self.workers[2])

    def take(self, bucket: GlobalRates) -> None:
        turn = bucket.take(self.backend, "t", self.RATE)
        if turn is not None:
            assert turn >= self.now - 1e-3
            self.turns.append(turn)

    @rule(pick=st.integers(0, 2), events=EVENTS)
    def asks(self, pick: int, events: list[str]) -> None:
        if not self.survives(events, lambda: self.take(self.workers[pick])):
            self.workers[pick] = GlobalRates()  # a new process has seen nothing

    @rule(seconds=st.sampled_from([0.1, 0.5, 3.0, 100.0, 5000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def after_a_pause_there_is_a_token_at_once(self) -> None:
        self.now += FARTHEST * 2
        before = len(self.turns)
        self.take(self.workers[0])
        assert [round(turn, 3) for turn in self.turns[before:]] == [round(self.now, 3)]

    @invariant()
    def no_window_has_more_than_the_rate(self) -> None:
        turns = sorted(self.turns)
        for place, start in enumerate(turns):
            ahead = place + self.RATE.burst
            if ahead < len(turns):
                # One more than a burst takes as long as one step, two more two, and so on.
                assert turns[ahead] - start >= self.RATE.every - 1e-3
            far = place + self.RATE.burst + 9
            if far < len(turns):
                assert turns[far] - start >= 10 * self.RATE.every - 1e-3


@dataclass(eq=False)
class Run:
    """One delivery of a task that runs, as far as anyone can know: until when, and its permit."""

    task: int
    fence: int
    name: str
    permit: Permit
    until: float


class Permits(VirtualTime):
    """Workers that hold permits of one key, lose them, die, and are delivered again."""

    MOST, LEASE = 2, 60.0

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []
        self.fences: dict[int, int] = {}
        self.others = 100
        self.store.others = self.another

    def another(self) -> None:
        self.others += 1
        self.enter(self.others, "same")

    def enter(self, task: int, delivery: str, *, later: bool = False) -> None:
        fence = self.fences.setdefault(task, 1)
        if later:
            fence = self.fences[task] = fence + 1
        request = PermitRequest(
            owner=f"id {task}", fence=fence, delivery=f"{task} {fence} {delivery}"
        )
        # The same delivery comes again only when the process that had it is dead.
        self.runs = [run for run in self.runs if run.name != request.delivery]
        key = permits_key("t", "k")
        permit = acquire(self.backend, key, self.MOST, request, self.LEASE, again=fence > 1)
        if isinstance(permit, NoPermit):
            return
        # A later delivery of the same task takes over the permit of the earlier one.
        self.runs = [run for run in self.runs if run.task != task or run.fence >= fence]
        self.runs.append(Run(task, fence, request.delivery, permit, self.now + self.LEASE))

    @rule(task=st.integers(0, 4), events=EVENTS, copy=st.booleans())
    def delivered(self, task: int, events: list[str], copy: bool) -> None:
        delivery = "another copy" if copy else "same"
        self.survives(events, lambda: self.enter(task, delivery))

    @rule(task=st.integers(0, 4), events=EVENTS)
    def delivered_again(self, task: int, events: list[str]) -> None:
        self.survives(events, lambda: self.enter(task, "same", later=True))

    @precondition(lambda self: self.runs)
    @rule(pick=PICK, events=EVENTS)
    def ends(self, pick: int, events: list[str]) -> None:
        run = self.runs.pop(pick % len(self.runs))
        self.survives(events, run.permit.release)

    @precondition(lambda self: self.runs)
    @rule(pick=PICK, events=EVENTS)
    def is_renewed(self, pick: int, events: list[str]) -> None:
        run = self.runs[pick % len(self.runs)]
        renewed: list[bool] = []
        if not self.survives(events, lambda: renewed.append(run.permit.renew())):
            self.forget(run)  # dead, and nothing is known of its permit
        elif renewed[0]:
            run.until = self.now + self.LEASE
        else:
            # A later delivery may have taken the permit and died of that.
            taken = self.fences[run.task] > run.fence
            assert taken or run.until <= self.now or run not in self.runs
            self.forget(run)

    def forget(self, run: Run) -> None:
        self.runs = [each for each in self.runs if each is not run]

    @precondition(lambda self: self.runs)
    @rule(pick=PICK)
    def dies(self, pick: int) -> None:
        self.runs.pop(pick % len(self.runs))

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def whoever_comes_when_all_leases_have_ended_gets_a_permit(self) -> None:
        self.now += self.LEASE + 1
        before = list(self.runs)
        self.enter(91, "fine")
        assert self.runs[-1].task == 91
        assert self.runs[-1] not in before
        self.runs.pop().permit.release()

    @invariant()
    def no_more_run_than_may(self) -> None:
        running = [run for run in self.runs if run.until > self.now]
        assert len(running) <= self.MOST


SETTINGS = settings(
    max_examples=60,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_a_bucket_is_a_bucket_whatever_happens() -> None:
    run_state_machine_as_test(Tokens, settings=SETTINGS)  # pyright: ignore[reportUnknownMemberType]


def test_a_key_has_so_many_permits_whatever_happens() -> None:
    run_state_machine_as_test(Permits, settings=SETTINGS)  # pyright: ignore[reportUnknownMemberType]
