"""Hands jobs to children: to the least busy one, an ordered group's one by one, a suspect alone."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from cloudq.broker.broker import Broker
from cloudq.execution.bundles import is_revoked
from cloudq.execution.executor import Executor
from cloudq.execution.settlement import Action, Settlement
from cloudq.worker.in_flight import Begun, Cut, Ends, Flight, Tray
from cloudq.worker.pool.child_handle import Child
from cloudq.worker.pool.pipe import PackedEnds
from cloudq.worker.pool.suspects import Suspects
from cloudq.worker.settler import Settler
from cloudq.worker.shares import ReadyLine, calls_of, singly


class Dispatcher:
    """Stands between the pollers and the children. Safe to use from many threads.

    A child that was given `max_tasks_per_child` jobs retires, one that was given a suspect at once.
    """

    def __init__(
        self,
        *,
        executor: Executor,
        broker: Broker,
        settler: Settler,
        max_tasks_per_child: int | None,
        weights: Mapping[str, int] | None = None,
    ) -> None:
        self._executor = executor
        self._broker = broker
        self._settler = settler
        self._max_tasks = max_tasks_per_child
        self._lock = threading.Lock()
        self._children: list[Child] = []
        self._lone_children: list[Child] = []
        self._ready = ReadyLine(weights or {})
        self._short: list[Flight] = []  # until their leases are extended
        self._suspects = Suspects()
        # The later messages of each ordered group of which one is at work, by queue and group.
        self._lanes: dict[tuple[str, str], deque[Flight]] = {}
        self._closed = False
        self.timed = 0  # jobs at work with a hard limit: with none, nobody looks for overdue ones

    @property
    def suspects(self) -> int:
        """The number of calls that wait for a child of their own."""
        return len(self._suspects.waiting)

    def hard_limit(self, flight: Flight) -> float | None:
        """Return the seconds that the task may run; None without a limit."""
        return self._executor.limits(flight.job.message)[1] if flight.job else None

    def add_child(self, child: Child) -> None:
        """Give jobs to this child too."""
        with self._lock:
            (self._lone_children if child.alone else self._children).append(child)
        self.pump()

    def remove_child(self, child: Child) -> list[Flight]:
        """Forget a dead child, and return the flights it still had."""
        with self._lock:
            for children in (self._children, self._lone_children):
                if child in children:
                    children.remove(child)
            child.take_apart()
            left = list(child.flights.values())
            child.flights.clear()
            for flight in left:
                self._untime(flight)
            return left

    def submit(self, flights: Iterable[Flight]) -> None:
        """Run these as soon as a child has room; once closed, release them."""
        flights = list(flights)
        with self._lock:
            closed = self._closed
            if closed or self._max_tasks is not None:
                flights = singly(flights)
            for flight in () if closed else flights:
                lane = self._lane(flight)
                if lane is None:
                    self._line_up(flight)
                elif lane in self._lanes:
                    self._lanes[lane].append(flight)
                else:
                    self._lanes[lane] = deque()
                    self._line_up(flight)
        if closed:
            self._settler.release(flights, "the worker stops")
        self.pump()

    def again(self, flights: Iterable[Flight]) -> None:
        """Run these again, first of all: their child died, and not because of them."""
        flights = list(flights)
        with self._lock:
            closed = self._closed
            if not closed:
                self._ready.put_first(flights)
        if closed:
            self._settler.release(flights, "the worker stops")
        self.pump()

    def suspect(self, flights: Sequence[Flight]) -> None:
        """Run each of these alone: their child died, maybe because of one of them."""
        with self._lock:
            closed = self._closed
            if not closed:
                self._suspects.add(flights)
        if closed:
            self._settler.release(flights, "the worker stops")
        self.pump()

    def convict(self, culprit: Flight) -> None:
        """Run a call alone from now on: it ended its process. Those that it clears go free."""
        with self._lock:
            cleared = self._suspects.convict(culprit)
        self.again(cleared)

    def finished(self, child: Child | None, done: Sequence[tuple[Flight, Settlement]]) -> None:
        """Free the child's places and open the lanes of ordered groups."""
        back: list[Flight] = []
        with self._lock:
            for flight, settlement in done:
                if child is not None:
                    child.flights.pop(flight.number, None)
                self._untime(flight)
                back += self._open_lane(flight, settlement)
        if back:
            self._settler.release(back, "an earlier message of its group is to be retried")
        self.pump()

    def ended(
        self, child: Child, batch: Sequence[PackedEnds]
    ) -> tuple[list[Ends], list[tuple[Flight, Settlement]]]:
        """Free the child's places of plain calls that have succeeded.

        Those that have flights of their own by now are returned apart, and keep their places.
        """
        plain: list[Ends] = []
        single: list[tuple[Flight, Settlement]] = []
        with self._lock:
            for packed in batch:
                kept, apart = child.ended(packed)
                if kept is not None:
                    plain.append(kept)
                single += apart
        return plain, single

    def flight(self, child: Child, number: int) -> Flight | None:
        """Return the flight of this number that a child was given; from here on it has one."""
        with self._lock:
            return child.flight(number)

    def take_apart(self) -> None:
        """Hold each call that was not begun, or has not ended, as a flight of its own."""
        with self._lock:
            self._ready.take_apart()
            self._short = singly(self._short)
            for child in (*self._children, *self._lone_children):
                child.take_apart()

    def pump(self) -> None:
        """Give the children as much as they have room for."""
        orders: dict[Child, list[Flight | Cut]] = {}
        lost: list[Flight] = []
        vain: list[tuple[Flight, str]] = []
        with self._lock:
            if self._short:
                self._line_up_extended()
            if not self._closed:
                self._hand_out(self._ready, self._children, orders, lost, vain)
                self._hand_out(self._suspects, self._lone_children, orders, lost, vain)
        for child, given in orders.items():
            child.send(given)
        if lost:
            self._settler.release(lost, "its lease was lost before it was started")
        if vain:
            self._end(vain)

    def give_back(self, keep: int, before: float) -> None:
        """Release what the children have no room for, but for the first `keep` in hand.

        Only of queues whose first message waits since that time, in monotonic seconds: what runs
        takes long, and another worker may be idle.
        """
        with self._lock:
            if not self._children or _roomiest(self._children) is not None:
                return
            held = len(self._ready) + sum(child.busy for child in self._children)
            back = self._ready.give_up(held - keep, before)
        if back:
            self._settler.release(back, "other tasks take long in this worker")

    def retire_idle(self) -> None:
        """Retire the children that wait for a suspect when there is none."""
        with self._lock:
            for child in () if self._suspects.waiting else self._lone_children:
                child.retiring = True

    def _hand_out(
        self,
        line: ReadyLine | Suspects,
        children: Sequence[Child],
        orders: dict[Child, list[Flight | Cut]],
        lost: list[Flight],
        vain: list[tuple[Flight, str]],
    ) -> None:
        """Give the flights of a line to children with room; put aside those not to start."""
        if not line:
            return
        room = {child: child.free for child in children}
        while line:
            flight = line.first
            tray = flight.whole_tray
            if tray is not None and self._is_mixed(tray):
                self._ready.take_apart()
                continue
            if tray is None and self._is_vain(flight, lost, vain):
                line.popleft()
                continue
            child = max(room, key=room.__getitem__, default=None)
            if child is None or room[child] <= 0:
                return
            if tray is not None:
                cut = self._ready.cut(tray, min(room[child], tray.waiting), time.time())
                child.take_cut(cut)
                orders.setdefault(child, []).append(cut)
                room[child] -= len(cut.left)
                continue
            line.popleft()
            self._time(flight)
            child.take(flight)
            orders.setdefault(child, []).append(flight)
            room[child] -= 1
            if child.alone or (self._max_tasks is not None and child.given >= self._max_tasks):
                child.retiring = True
                room[child] = 0

    def _is_mixed(self, tray: Tray) -> bool:
        """Tell whether something concerns some calls of a tray, or each of them alone, by now."""
        return (
            tray.flight.lost
            or bool(tray.parcel.revoked)
            or self._executor.limits(tray.message)[1] is not None
        )

    def _is_vain(self, flight: Flight, lost: list[Flight], vain: list[tuple[Flight, str]]) -> bool:
        """Tell whether a flight is not to start, and put it where those are that are not."""
        if flight.revoked or is_revoked(flight.delivery):
            vain.append((flight, "revoked"))
        elif flight.lost:  # another worker has the message by now
            lost += [flight, *self._close_lane(flight)]
        elif self._has_expired(flight):
            vain.append((flight, "expired"))
        else:
            return False
        return True

    def _has_expired(self, flight: Flight) -> bool:
        expires = flight.job.message.expires if flight.job is not None else None
        return expires is not None and expires <= self._executor.clock()

    def _line_up(self, flight: Flight) -> None:
        """Let a flight wait for a child: for one of its own, if it has ended its process before."""
        flight.lined_up_at = time.monotonic()
        tray = flight.whole_tray
        if tray is not None and self._suspects.knows_one_of(tray):
            for each in tray.take_waiting():
                self._line_up(each)
        elif flight.short:
            self._short.append(flight)
        else:
            (self._suspects.waiting if self._suspects.knows(flight) else self._ready).append(flight)

    def _line_up_extended(self) -> None:
        """Line up again what waited for its lease; what has still a short one waits on."""
        waiting, self._short = self._short, []
        for flight in waiting:
            self._line_up(flight)

    def _end(self, flights: Sequence[tuple[Flight, str]]) -> None:
        """Settle what was revoked, or has expired, before its start."""
        done = [(f, self._executor.revoked(f.job, why)) for f, why in flights if f.job]
        self._settler.settle(done)
        self.finished(None, done)

    def running(self) -> list[tuple[Child, Flight]]:
        """Return what the children have been given, with the child of each, and no trays."""
        self.take_apart()
        with self._lock:
            children = [*self._children, *self._lone_children]
            return [(child, f) for child in children for f in child.flights.values()]

    def at_work(self) -> tuple[int, list[Begun]]:
        """Count the calls that the children run, and return those that run for longest."""
        with self._lock:
            children = [*self._children, *self._lone_children]
            running = [begun for child in children for begun in child.at_work()]
        running.sort(key=attrgetter("given_at"))
        return sum(begun.count for begun in running), running

    @property
    def waiting(self) -> int:
        """The number of calls that no child has been given."""
        with self._lock:
            held = (self._short, self._suspects.waiting, *self._lanes.values())
            return len(self._ready) + sum(map(calls_of, held))

    def overdue(self, now: float) -> list[tuple[Child, Flight]]:
        """Return the flights past their hard limit, with the children that run them."""
        if not self.timed:
            return []
        with self._lock:
            return [
                (child, flight)
                for child in [*self._children, *self._lone_children]
                for flight in child.flights.values()
                if flight.stop_at is not None and flight.stop_at <= now
            ]

    def close(self) -> None:
        """Release everything that has not started, and start nothing more."""
        with self._lock:
            self._closed = True
            held = (self._ready, self._short, self._suspects.waiting, *self._lanes.values())
            waiting = singly(flight for line in held for flight in line)
            self._ready.clear()
            self._short.clear()
            self._suspects.waiting.clear()
            self._lanes.clear()
        if waiting:
            self._settler.release(waiting, "the worker stops")

    def _lane(self, flight: Flight) -> tuple[str, str] | None:
        delivery = flight.delivery
        if delivery.group is None or not self._broker.limits(delivery.queue).ordered:
            return None
        return delivery.queue, delivery.group

    def _open_lane(self, flight: Flight, settlement: Settlement) -> list[Flight]:
        """Start the next of a group, or give the rest back when this one has not ended."""
        lane = self._lane(flight)
        if lane is None or lane not in self._lanes:
            return []
        if settlement.action in (Action.ACK, Action.DEAD_LETTER):
            if self._lanes[lane]:
                self._line_up(self._lanes[lane].popleft())
            else:
                del self._lanes[lane]
            return []
        return self._close_lane(flight)

    def _close_lane(self, flight: Flight) -> list[Flight]:
        lane = self._lane(flight)
        return list(self._lanes.pop(lane, ())) if lane is not None else []

    def _time(self, flight: Flight) -> None:
        limit = self.hard_limit(flight)
        if limit is not None:
            flight.stop_at = time.monotonic() + limit
            self.timed += 1

    def _untime(self, flight: Flight) -> None:
        if flight.stop_at is not None:
            flight.stop_at = None
            self.timed -= 1


def _roomiest(children: Sequence[Child]) -> Child | None:
    """Return the child that can take the most jobs now; None if none can take one."""
    roomiest, most = None, 0
    for child in children:
        free = child.free
        if free > most:
            roomiest, most = child, free
    return roomiest
