"""`app.schedules`: the schedules of an app, those of its code and those made at run time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar, Unpack

from cloudq.amounts import count as whole
from cloudq.errors import ConfigurationError, InvalidArguments, did_you_mean
from cloudq.messages.sealed_text import is_sealed, why_sealed
from cloudq.publishing.publisher import Publisher
from cloudq.results.result import AsyncResult
from cloudq.runtime import Runtime
from cloudq.schedules.entry import (
    Entry,
    EntryOptions,
    RunOptions,
    check_cloud_name,
    check_name,
    entry_of,
    loads,
    of_beat_schedule,
    utc,
)
from cloudq.schedules.run_id import SCHEDULE, SLOT, id_of_run, time_text
from cloudq.schedules.state import ScheduleState, ScheduleStates
from cloudq.tasks.call_options import Options
from cloudq.tasks.task import Prepared, Task

# More are a slip of the keyboard, and take minutes to find.
_MOST_RUNS = 100_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule: its entry and stored state, or the `error` of an entry that is unreadable."""

    name: str
    entry: Entry | None
    state: ScheduleState
    error: str = ""

    @property
    def active(self) -> bool:
        """Tell whether it is enabled and not paused."""
        return self.entry is not None and self.entry.enabled and not self.state.paused


class Schedules:
    """The schedules of one app. Those in the code are checked when they are declared.

    `tasks` may grow. `options` checks and translates the options of a call. Methods that use the
    store raise `BackendError`, and `ConfigurationError` without a store.
    """

    def __init__(
        self,
        runtime: Runtime,
        tasks: Mapping[str, Task[..., Any]],
        publisher: Publisher,
        options: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        self.runtime = runtime
        self.publisher = publisher
        self._tasks = tasks
        self._options = options
        self._declared: dict[str, tuple[str, object, dict[str, Any]]] = {}

    # ---- the code's

    def declare(self, task: str, when: object, given: EntryOptions, *, cloud: bool = True) -> str:
        """Add a schedule for a task; returns its name. Raises `ConfigurationError`."""
        name = given.get("name") or task
        rest = {key: value for key, value in given.items() if key != "name"}
        if self._declared.get(name, (task, when, rest)) != (task, when, rest):  # else a reload
            raise ConfigurationError(
                f"two schedules are named {name!r}: give one of them another name="
            )
        if cloud:
            check_cloud_name(name)
        self._entry(name, task, when, rest)
        self._declared[name] = task, when, rest
        return name

    def declared(self, *, check: bool = True) -> dict[str, Entry]:
        """The schedules of the code and of the setting `beat_schedule`, by name.

        Raises `ConfigurationError`; with `check`, also for a task that is not registered or does
        not take the arguments.
        """
        # Made again each time, since their default, the app's time zone, may have changed.
        found = {
            name: self._entry(name, task, when, given)
            for name, (task, when, given) in self._declared.items()
        }
        conf = self.runtime.conf
        for entry in of_beat_schedule(
            conf.beat_schedule, timezone=conf.timezone, options=self._options
        ):
            if entry.name in found:
                raise ConfigurationError(
                    f"two schedules are named {entry.name!r}: one in beat_schedule, one in the code"
                )
            found[entry.name] = entry
        for entry in found.values() if check else ():
            self._check_task(entry)
        return found

    def _entry(self, name: str, task: str, when: object, given: Mapping[str, Any]) -> Entry:
        zone = self.runtime.conf.timezone
        return entry_of(name, task, when, given, timezone=zone, options=self._options)

    def _check_task(self, entry: Entry) -> None:
        task = self._tasks.get(entry.task)
        if task is None:
            hint = did_you_mean(
                entry.task, self._tasks, otherwise="is its module in the app's include?"
            )
            raise ConfigurationError(
                f"schedule {entry.name!r}: task {entry.task!r} is not registered: {hint}"
            )
        try:
            task.arguments.check(entry.args, entry.kwargs)
        except InvalidArguments as error:
            raise ConfigurationError(f"schedule {entry.name!r}: {error}") from error

    # ---- the store's

    @property
    def states(self) -> ScheduleStates:
        """The stored states of schedules. Raises `ConfigurationError` without a store."""
        backend = self.runtime.backend
        if backend is None:
            raise ConfigurationError(
                "the last runs of schedules, their pauses and the beats' lease are kept in the "
                "result backend, and the app has none: set CloudQ(backend=...) or CLOUDQ_BACKEND"
            )
        return ScheduleStates(backend, self.runtime.name)

    def all(self, declared: Mapping[str, Entry] | None = None) -> dict[str, Schedule]:
        """Every schedule by name, with one query. An unreadable one has its `error` set.

        Without a result backend these are only the schedules in the code.
        """
        code = self.declared() if declared is None else declared
        kept = {} if self.runtime.backend is None else self.states.all()
        found = {
            name: Schedule(name=name, entry=entry, state=kept.get(name, ScheduleState()))
            for name, entry in code.items()
        }
        for name, state in kept.items():
            if name not in found and state.text is not None:
                found[name] = self._read(name, state)
        return found

    def _read(self, name: str, state: ScheduleState) -> Schedule:
        text = state.text or ""
        if is_sealed(text):
            why = f"schedule {name!r} in the store cannot be read: {why_sealed(text)}"
            return Schedule(name=name, entry=None, state=state, error=why)
        try:
            entry = loads(name, text)
            self._check_task(entry)
        except ConfigurationError as error:
            return Schedule(name=name, entry=None, state=state, error=str(error))
        return Schedule(name=name, entry=entry, state=state)

    def get(self, name: str) -> Schedule:
        """The schedule of this name. Raises `ConfigurationError` if there is none."""
        check_name(name)
        code = self.declared()
        state = self.states.one(name) if self.runtime.backend is not None else None
        if name in code:
            return Schedule(name=name, entry=code[name], state=state or ScheduleState())
        if state is not None and state.text is not None:
            return self._read(name, state)
        hint = did_you_mean(name, self.all(code), otherwise="`cloudq schedules list` shows all")
        raise ConfigurationError(f"there is no schedule {name!r}: {hint}")

    def entry(self, name: str) -> Entry:
        """The entry of this name. Raises `ConfigurationError`, also for one that is unreadable."""
        found = self.get(name)
        if found.entry is None:
            raise ConfigurationError(found.error)
        return found.entry

    def add(
        self,
        name: str,
        task: str | Task[..., Any],
        when: object,
        *,
        replace: bool = False,
        **given: Unpack[RunOptions],
    ) -> Entry:
        """Store a schedule; beats read it within seconds. `replace` overwrites an existing one.

        Raises `ConfigurationError`, `EncodeError`.
        """
        check_cloud_name(name)
        named = task if isinstance(task, str) else getattr(task, "name", None)
        if not isinstance(named, str):
            raise ConfigurationError(
                f"schedule {name!r}: its task is {task!r}: give a task, or the name of one"
            )
        if name in self.declared():
            raise ConfigurationError(f"schedule {name!r} is in the code: change it there")
        zone = self.runtime.conf.timezone
        entry = entry_of(
            name, named, when, given, timezone=zone, options=self._options, stored=True
        )
        self._check_task(entry)
        now = self.runtime.clock()
        if next(entry.runs(utc(now)), None) is None:
            raise ConfigurationError(f"schedule {name!r}: {entry.when} has no run from now on")
        self.states.add(entry, now, replace=replace)
        return entry

    def delete(self, name: str) -> None:
        """Delete a schedule that was made at run time. Raises `ConfigurationError` for others."""
        check_name(name)
        if name in self.declared():
            raise ConfigurationError(
                f"schedule {name!r} is in the code: delete it there, or pause it"
            )
        self.get(name)
        self.states.forget(name)

    def pause(self, name: str) -> None:
        """Stop its runs until `resume`, in every beat."""
        self.states.pause(self.entry(name))

    def resume(self, name: str) -> None:
        """Start its runs again; those missed in the pause are not sent."""
        self.states.resume(self.entry(name), self.runtime.clock())

    # ---- runs

    def next(self, name: str, count: int = 1) -> list[datetime]:
        """Its next due times, in its own time zone, even if it is paused."""
        entry = self.entry(name)
        count = whole(count, "count", ConfigurationError, most=_MOST_RUNS)
        moments = islice(entry.runs(utc(self.runtime.clock())), count)
        return [moment.astimezone(entry.zone) for moment in moments]

    def run_now(self, name: str) -> AsyncResult[Any]:
        """Send its call now, in addition to its runs. Raises as `task.delay`."""
        entry = self.entry(name)
        now = utc(self.runtime.clock())
        headers = {**entry.options.get("headers", {}), SCHEDULE: name, SLOT: time_text(now)}
        call: dict[str, Any] = {**entry.options, "headers": headers, "expires": entry.expires}
        [result] = self.publisher.send_many([self.prepared(entry, Options(**call))])
        return result

    def call(self, entry: Entry, run_time: datetime) -> Prepared[Any]:
        """The call of one run; its id is the same each time the run is sent."""
        text = time_text(run_time)
        id = id_of_run(entry.name, text)
        headers = {**entry.options.get("headers", {}), SCHEDULE: entry.name, SLOT: text}
        made: dict[str, Any] = {**entry.options, "headers": headers}
        delay = entry.delay(run_time)
        if entry.expires is not None:
            made["expires"] = utc(run_time.timestamp() + delay + entry.expires)
        if delay:
            made["eta"] = utc(run_time.timestamp() + delay)
        return self.prepared(entry, Options(**made, task_id=id, idempotency_key=id))

    def prepared(self, entry: Entry, options: Options) -> Prepared[Any]:
        """The entry's call, with these options."""
        task = self._tasks[entry.task]
        return Prepared(task=task, options=options, args=entry.args, kwargs=entry.kwargs)


def local(moment: datetime, entry: Entry) -> str:
    """A moment in the entry's time zone, as people read it."""
    return moment.astimezone(entry.zone).strftime("%a %Y-%m-%d %H:%M:%S %Z")
