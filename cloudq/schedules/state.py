"""Stores the state of schedules: last runs, pauses, and the entries made at run time.

Each app has one partition, read with one query: `leader` holds the lease of the beats, `entry#NAME`
the state of a schedule. Nothing in it expires.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from cloudq.driver import Change, Check, Code, ConditionFailed, Item, Key, Op, Value
from cloudq.errors import BackendError, ConfigurationError, EncodeError
from cloudq.messages.payload_places import NotStored
from cloudq.results.backend import Backend
from cloudq.schedules.entry import Entry, dumps

_ENTRY = "entry#"
_LEADER = "leader"
_PAGE = 200
# A schedule that has no end counts on from its last run: Python's datetime ends with the year 9999.
_LATEST = 253_402_300_799 - 366 * 86_400


def partition(app: str) -> str:
    """The partition of an app's schedules."""
    return f"beat#{app}"


def leader_key(app: str) -> Key:
    """The key of the lease of an app's beats."""
    return Key(partition(app), _LEADER)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleState:
    """The state of one schedule. `last`: epoch time up to which its runs have been handled.

    That is also set where a schedule begins and where it is resumed; `sent` is the time of the last
    run that was sent. `spec` is the fingerprint of the entry that `last` belongs to, `text` the
    entry itself as JSON if it was made at run time.
    """

    last: float | None = None
    sent: float | None = None
    spec: str = ""
    paused: bool = False
    runs: int = 0
    text: str | None = field(default=None, repr=False)


class ScheduleStates:
    """The schedules of one app in its store. Every method makes one request, or one for each page.

    All raise `BackendError`.
    """

    def __init__(self, backend: Backend, app: str) -> None:
        self._backend = backend
        self._app = app

    def all(self) -> dict[str, ScheduleState]:
        """Every stored schedule, by name."""
        found: dict[str, ScheduleState] = {}
        after: str | None = None
        while True:
            page = self._backend.query(partition(self._app), after=after, limit=_PAGE)
            for item in page.items:
                if item.key.sort.startswith(_ENTRY):
                    found[item.key.sort.removeprefix(_ENTRY)] = _state_of(item)
            after = page.next
            if after is None:
                return found

    def one(self, name: str) -> ScheduleState | None:
        """One schedule, None if it is not stored."""
        key = self._key(name)
        item = self._backend.get([key]).get(key)
        return _state_of(item) if item else None

    def leader(self) -> str | None:
        """The leading beat's name in the store; None if no beat leads."""
        key = leader_key(self._app)
        item = self._backend.get([key]).get(key)
        owner = item.fields.get("owner") if item else None
        return owner if isinstance(owner, str) else None

    def begin(self, entry: Entry, last: float) -> None:
        """Start counting the runs of a new or changed entry from `last`."""
        self._change(entry, {"last": last, "spec": entry.fingerprint})

    def ran(self, entry: Entry, last: float, runs: int) -> None:
        """Record that its runs up to `last` are handled, and that `runs` of them were sent."""
        increment = {"runs": runs} if runs else {}
        changed: dict[str, Value] = {"last": last, "spec": entry.fingerprint}
        if runs:
            changed["sent"] = last
        # Two beats may record this; the later time is kept.
        later = Check(field="last", op=Op.LT, value=last, or_absent=True)
        try:
            self._change(entry, changed, increment=increment, when=(later,))
        except BackendError as error:
            if error.code is not Code.INVALID:
                raise
            # What another program has written can neither be compared nor counted on.
            self._change(entry, {**changed, "runs": runs})

    def pause(self, entry: Entry) -> None:
        """Stop its runs until `resume`."""
        self._change(entry, {"paused": True})

    def resume(self, entry: Entry, now: float) -> None:
        """Start its runs again from now; those missed in the pause are not sent."""
        changed = {"last": now, "spec": entry.fingerprint}
        self._change(entry, changed, remove=frozenset({"paused"}))

    def add(self, entry: Entry, now: float, *, replace: bool) -> None:
        """Store an entry made at run time. Raises `ConfigurationError` for a name that is taken."""
        try:
            text = dumps(entry)
        except NotStored as error:
            raise EncodeError(
                f"schedule {entry.name!r}: a File cannot be an argument of a stored schedule, for "
                "files are deleted in time: give a name or a key that the task finds it by"
            ) from error
        fields: dict[str, Value] = {"entry": text, "last": now, "spec": entry.fingerprint}
        absent = () if replace else (Check(field="entry", op=Op.ABSENT),)
        change = Change(set=fields, keep_expires=True, when=absent)
        try:
            self._backend.update(self._key(entry.name), change)
        except ConditionFailed as error:
            if error.current and fields.items() <= error.current.fields.items():
                return  # the answer to the first try was lost
            raise ConfigurationError(
                f"schedule {entry.name!r} exists already: delete it, or replace it "
                "(replace=True, --replace)"
            ) from error

    def forget(self, name: str) -> None:
        """Delete the state of a schedule."""
        self._backend.delete([self._key(name)])

    def _change(
        self,
        entry: Entry,
        fields: Mapping[str, Value],
        *,
        increment: Mapping[str, int] | None = None,
        remove: frozenset[str] = frozenset(),
        when: tuple[Check, ...] = (),
    ) -> None:
        if entry.stored:  # do not recreate one that was deleted meanwhile
            when = (*when, Check(field="entry", op=Op.EXISTS))
        change = Change(
            set=fields, increment=increment or {}, remove=remove, keep_expires=True, when=when
        )
        try:
            self._backend.update(self._key(entry.name), change)
        except ConditionFailed:
            return  # the stored time is later, or the entry was deleted

    def _key(self, name: str) -> Key:
        return Key(partition(self._app), f"{_ENTRY}{name}")


def _state_of(item: Item) -> ScheduleState:
    fields = item.fields
    runs, text = fields.get("runs"), fields.get("entry")
    return ScheduleState(
        last=_moment(fields.get("last")),
        sent=_moment(fields.get("sent")),
        spec=str(fields.get("spec", "")),
        paused=bool(fields.get("paused")),
        runs=int(_number(runs) or 0),
        text=text if isinstance(text, str) else None,
    )


def _moment(value: Value) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number < _LATEST else None


def _number(value: Value) -> float | None:
    """Return a number that can be counted on; None for what another program has written."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
