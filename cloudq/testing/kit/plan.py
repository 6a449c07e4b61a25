"""A fault plan: what goes wrong, to which task, queue and call, and whether it has happened."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any, NoReturn, Self

from cloudq.amounts import counted
from cloudq.driver import Code
from cloudq.driver.ends import Died
from cloudq.errors import ConfigurationError, did_you_mean

BROKER_CALLS = ("send", "receive", "ack", "release", "extend", "dead_letter")
STORE_CALLS = ("put", "get", "update", "query", "delete")
POINTS = ("start", "end")


class Kind(StrEnum):
    """The kinds of fault."""

    TWICE = "delivered twice"
    LATE = "delivered late"
    DIES = "died"
    LOST = "response lost"
    THROTTLED = "throttled"
    DOWN = "down"


class Outage(Exception):
    """A planned failure of a service; `code` tells its kind."""

    def __init__(self, reason: str, code: Code) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Unit:
    """The queue and task of one call or one message; None where unknown."""

    queue: str | None = None
    task: str | None = None


@dataclass(slots=True, kw_only=True)
class Fault:
    """One line of a plan. It hits `times` matching units in a row from the `nth` (1 = first).

    With `chance` it hits each with that probability instead, drawn from the plan's seed.
    """

    kind: Kind
    calls: tuple[str, ...]
    queue: str | None
    task: str | None
    nth: int
    times: int
    chance: float | None
    after: bool = False
    met: int = 0
    happened: int = 0

    def __str__(self) -> str:
        where = [f"{n}={v!r}" for n, v in (("queue", self.queue), ("task", self.task)) if v]
        if self.chance is None:
            where.append(f"nth={self.nth}" + (f", times={self.times}" if self.times > 1 else ""))
        else:
            where.append(f"chance={self.chance}")
        calls = "/".join(self.calls) if len(self.calls) < len(STORE_CALLS) else "any call"
        return f"{self.kind} at {calls} ({', '.join(where)})"

    def is_about(self, unit: Unit) -> bool:
        """Tell whether the filters match the unit."""
        return self.queue in (None, unit.queue) and self.task in (None, unit.task)

    @property
    def missing(self) -> int:
        """Count the times that it has yet to happen."""
        return max(0, (self.times if self.chance is None else 1) - self.happened)


class Rules:
    """The faults to come, and what has come of them. Safe to use from many threads."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.faults: list[Fault] = []
        self.happened: list[str] = []
        """One line for each fault that has happened, in their order."""
        self._lock = threading.Lock()
        self._here = threading.local()
        self._known: dict[str, Unit] = {}

    # ---- declarations

    def deliver_twice(self, **where: Any) -> Self:
        """Deliver a message again, although it is leased or even acked."""
        return self._add(Kind.TWICE, ("receive",), where)

    def deliver_late(self, **where: Any) -> Self:
        """Deliver a message after the one behind it: out of order.

        Messages of an ordered group keep their places. Happens once there is one to be overtaken
        by.
        """
        return self._add(Kind.LATE, ("receive",), where)

    def die(self, at: str = "end", *, after: bool = False, **where: Any) -> Self:
        """Kill the worker: its lease ends in time, and the message comes back.

        `at` "start" is before the task's function, "end" is after it and before anything is
        recorded; or the name of a driver's call, before it takes effect or `after`.
        """
        self._check_call(at, (*POINTS, *BROKER_CALLS, *STORE_CALLS))
        if after and at in POINTS:
            raise ConfigurationError(f"after=True is for a driver's call, not for at={at!r}")
        return self._add(Kind.DIES, (at,), where, after=after)

    def lose_response(self, call: str, **where: Any) -> Self:
        """Let a call take effect, and fail as if it had not answered."""
        self._check_call(call, (*BROKER_CALLS, *STORE_CALLS))
        return self._add(Kind.LOST, (call,), where)

    def throttle(self, call: str, **where: Any) -> Self:
        """Refuse a call, or the matching messages or items of a batch, as too many."""
        self._check_call(call, (*BROKER_CALLS, *STORE_CALLS))
        return self._add(Kind.THROTTLED, (call,), where)

    def broker_down(self, calls: int = 1, **where: Any) -> Self:
        """Let the broker not answer for this many calls of any kind, from the `nth` on."""
        return self._add(Kind.DOWN, BROKER_CALLS, {**where, "times": calls})

    def store_down(self, calls: int = 1, **where: Any) -> Self:
        """Let the store not answer for this many calls of any kind, from the `nth` on."""
        return self._add(Kind.DOWN, STORE_CALLS, {**where, "times": calls})

    def _add(
        self, kind: Kind, calls: tuple[str, ...], where: Mapping[str, Any], *, after: bool = False
    ) -> Self:
        known = ("queue", "task", "nth", "times", "chance")
        for name in where:
            if name not in known:
                raise TypeError(f"a fault has no {name!r}; it has {', '.join(known)}")
        fault = Fault(
            kind=kind,
            calls=calls,
            queue=where.get("queue"),
            task=where.get("task"),
            nth=where.get("nth", 1),
            times=where.get("times", 1),
            chance=where.get("chance"),
            after=after,
        )
        per_message = kind in (Kind.TWICE, Kind.LATE)
        if fault.task is not None and "receive" in calls and not per_message:
            raise ConfigurationError(
                f"{fault}: who receives cannot know the task beforehand, so name the queue"
            )
        if fault.nth < 1 or fault.times < 1:
            raise ConfigurationError(f"{fault}: nth and times count from 1")
        if fault.chance is not None and not 0 < fault.chance <= 1:
            raise ConfigurationError(f"{fault}: chance is above 0 and at most 1")
        self.faults.append(fault)
        return self

    @staticmethod
    def _check_call(call: str, known: tuple[str, ...]) -> None:
        if call not in known:
            hint = did_you_mean(call, known, otherwise=f"known: {', '.join(known)}")
            raise ConfigurationError(f"there is no call {call!r}: {hint}")

    # ---- the end

    def assert_all_happened(self) -> None:
        """Raise `AssertionError` naming every fault that has not happened as often as declared."""
        missing = [fault for fault in self.faults if fault.missing]
        if missing:
            lines = "".join(f"\n  {f}: {f.happened} times, {f.met} met" for f in missing)
            raise AssertionError(f"{counted(len(missing), 'fault')} did not happen:{lines}")

    # ---- while it runs

    def hit(self, kind: Kind, call: str, units: Sequence[Unit], *, after: bool = False) -> bool:
        """Tell whether such a fault is due at this call; a call counts once, whatever its size."""
        found = False
        with self._lock:
            for fault in self._planned(kind, call, after):
                unit = next((unit for unit in units if fault.is_about(unit)), None)
                if unit is not None and self._meets(fault):
                    self._note(fault, call, unit)
                    found = True
        return found

    def hit_each(self, kind: Kind, call: str, units: Sequence[Unit]) -> set[int]:
        """The places of the messages or items of a call that such a fault is due at."""
        places: set[int] = set()
        with self._lock:
            for fault in self._planned(kind, call, False):
                for place, unit in enumerate(units):
                    if fault.is_about(unit) and self._meets(fault):
                        self._note(fault, call, unit)
                        places.add(place)
        return places

    def take_back(self, kind: Kind, unit: Unit) -> None:
        """A fault that was due at this unit did not come about: it stays due at the next one."""
        with self._lock:
            for fault in self._planned(kind, "receive", False):
                if fault.is_about(unit) and fault.happened:
                    fault.happened -= 1
                    fault.met -= 1
                    return

    def reach(self, point: str, unit: Unit) -> None:
        """Raise `Died` if the worker is to die here, or has died in the task already."""
        self.live()
        if self.hit(Kind.DIES, point, [unit]):
            self.die_here()

    def live(self) -> None:
        """Raise `Died` in a thread that has died and was not revived."""
        if getattr(self._here, "dead", False):
            raise Died

    def die_here(self) -> NoReturn:
        """Die: no call of this thread reaches a driver until it is revived."""
        self._here.dead = True
        raise Died

    def revive(self) -> None:
        """Let this thread be another worker."""
        self._here.dead = False

    def learn(self, id: str, unit: Unit) -> None:
        """Remember whose task an id is, for the calls of a store, which know only ids."""
        self._known[id] = unit

    def unit_of(self, id: str) -> Unit:
        """Return the queue and task learned for a task's id."""
        return self._known.get(id, Unit())

    def _planned(self, kind: Kind, call: str, after: bool) -> Iterator[Fault]:
        for fault in self.faults:
            if fault.kind is kind and call in fault.calls and fault.after is after:
                yield fault

    def _meets(self, fault: Fault) -> bool:
        fault.met += 1
        if fault.chance is None:
            return fault.nth <= fault.met < fault.nth + fault.times
        # By its number alone, so that threads which come in another order draw the same.
        place = self.faults.index(fault)
        return Random(f"{self.seed}/{place}/{fault.met}").random() < fault.chance

    def _note(self, fault: Fault, call: str, unit: Unit) -> None:
        fault.happened += 1
        self.happened.append(f"{call} {fault.met} of {unit.task or unit.queue or '-'}: {fault}")
