"""Schedule entries: a task, its times, arguments and options, checked on creation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta, tzinfo
from typing import Any, Literal, TypedDict, cast
from zoneinfo import ZoneInfo

from cloudq.amounts import seconds
from cloudq.errors import ConfigurationError
from cloudq.messages.values import from_wire, to_wire
from cloudq.schedules import next_run as engine
from cloudq.schedules import when as times
from cloudq.schedules.when import When, at, crontab, every, read_crontab, solar, when_of
from cloudq.tasks.call_arguments import call_arguments
from cloudq.tasks.signature import Signature

CatchUp = Literal["skip", "last", "all"]
CATCH_UPS: tuple[CatchUp, ...] = ("skip", "last", "all")

# EventBridge Scheduler's limit. Cloud Scheduler takes 500; a task id, of name and time, 255.
CLOUD_NAME = 64
_LONGEST_NAME = 200
_CLOUD_NAME = re.compile(r"[0-9A-Za-z_.-]{1,64}")
# Options that the time of the run decides.
_TAKEN = frozenset({"task_id", "eta", "countdown", "idempotency_key", "unique_key"})
_LINKS = frozenset({"link", "link_error"})


class RunOptions(TypedDict, total=False):
    """Options of a schedule's runs. Times are in seconds.

    `options` are those of the call, as for `apply_async`. `expires`: a run that has not started
    this long after its time is dropped. `jitter`: each run is delayed by up to this much, by an
    amount fixed for that run. `catch_up`: of the runs that were due while no beat was running,
    `skip` drops all, `last` runs the latest, `all` runs each. `start`, `end`: no runs before
    `start`, nor from `end` on.
    """

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    timezone: str
    queue: str
    options: Mapping[str, Any]
    expires: float | None
    jitter: float
    catch_up: CatchUp
    start: datetime
    end: datetime
    enabled: bool


class EntryOptions(RunOptions, total=False):
    """Options of `@app.periodic(...)`; `name` is by default the task's."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A task and its schedule. Times are in seconds.

    `stored` marks an entry that was added at run time and is not in the code.
    """

    name: str
    task: str
    when: When
    args: tuple[Any, ...] = field(default=(), repr=False)  # some of them may be secret
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    timezone: str = "UTC"
    expires: float | None = None
    jitter: float = 0.0
    catch_up: CatchUp = "last"
    start: datetime | None = None
    end: datetime | None = None
    enabled: bool = True
    stored: bool = False

    def __post_init__(self) -> None:
        _check(self)

    @property
    def zone(self) -> tzinfo:
        """The time zone of the entry."""
        return ZoneInfo(self.timezone)

    @property
    def fingerprint(self) -> str:
        """A short hash of all that its times depend on; it changes when they do."""
        when = json.dumps(_written(self.when), sort_keys=True)
        text = f"{when} {self.timezone} {self.start} {self.end}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def bound(self, time: datetime | None) -> datetime | None:
        """The moment of `start` or `end`, in UTC."""
        return None if time is None else engine.moment_of(time, self.zone)

    def runs(self, after: datetime) -> Iterator[datetime]:
        """The moments it is due at after this one, in UTC and in order."""
        start, end = self.bound(self.start), self.bound(self.end)
        if start is not None:
            # A run at the start itself is one.
            after = max(after, start - timedelta(milliseconds=1))
        for moment in engine.runs(self.when, after, self.zone, start=start):
            if end is not None and moment >= end:
                return
            yield moment

    def over(self, now: datetime) -> str:
        """Why it has no runs from now on; "" where it has some."""
        if next(self.runs(now), None) is not None:
            return ""
        end = self.bound(self.end)
        if end is not None and end <= now:
            return f"it ended at {end:%Y-%m-%d %H:%M:%S} UTC"
        time = self.bound(self.when.time) if isinstance(self.when, at) else None
        if time is not None and time <= now:
            return f"its time, {time:%Y-%m-%d %H:%M:%S} UTC, is past"
        return "no time fits both it and its start and end"

    def last_run(self, until: datetime) -> datetime | None:
        """The latest moment it was due at, not after `until`; None for none."""
        start, end = self.bound(self.start), self.bound(self.end)
        if end is not None and until >= end:
            until = end - timedelta(milliseconds=1)
        found = engine.last_run(self.when, until, self.zone, start=start)
        return None if found is None or (start is not None and found < start) else found

    def delay(self, run_time: datetime) -> float:
        """Seconds of jitter of one run: the same whoever asks."""
        if not self.jitter:
            return 0.0
        seed = hashlib.sha256(f"{self.name} {run_time.isoformat()}".encode()).digest()
        return round(int.from_bytes(seed[:6]) / 2**48 * self.jitter, 3)


def entry_of(
    name: str,
    task: str,
    when: object,
    given: Mapping[str, Any],
    *,
    timezone: str,
    options: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    stored: bool = False,
) -> Entry:
    """Make an entry from `EntryOptions`. `options` checks and translates a call's options.

    Raises `ConfigurationError`, naming the entry.
    """
    unknown = given.keys() - EntryOptions.__annotations__.keys()
    if unknown:
        raise ConfigurationError(
            f"schedule {name!r} has the unknown option {min(unknown)!r}: known are "
            f"{', '.join(EntryOptions.__annotations__)}"
        )
    call = dict(given.get("options") or {})
    if given.get("queue"):
        call["queue"] = given["queue"]
    of_call = call.pop("expires", None)
    expires = of_call if given.get("expires") is None else given["expires"]
    _check_options(name, call)
    try:
        made = when_of(when)
        call = dict(options(call))
        args, kwargs = call_arguments(given.get("args"), given.get("kwargs"))
    except (ConfigurationError, TypeError, ValueError) as error:
        raise ConfigurationError(f"schedule {name!r}: {error}") from error
    return Entry(
        name=name,
        task=task,
        when=made,
        args=tuple(args),
        kwargs=dict(kwargs),
        options=call,
        timezone=given.get("timezone") or timezone,
        expires=expires.total_seconds() if isinstance(expires, timedelta) else expires,
        jitter=given.get("jitter", 0.0),
        catch_up=given.get("catch_up", "last"),
        start=given.get("start"),
        end=given.get("end"),
        enabled=given.get("enabled", True),
        stored=stored,
    )


def check_name(name: object) -> None:
    """Raise `ConfigurationError` for a name that is no text."""
    if not isinstance(name, str):
        raise ConfigurationError(f"the name of a schedule is {name!r}: give a text")


def check_cloud_name(name: str) -> None:
    """Raise `ConfigurationError` for a name that EventBridge Scheduler would not take."""
    check_name(name)
    if not _CLOUD_NAME.fullmatch(name):
        raise ConfigurationError(
            f"schedule {name!r} ({len(name)} characters): the clouds' schedulers take names of 1 "
            f"to {CLOUD_NAME} characters from 0-9 A-Z a-z - _ . only: give another name"
        )


def _check_options(name: str, call: Mapping[str, Any]) -> None:
    taken = _TAKEN & call.keys()
    if taken:
        raise ConfigurationError(
            f"schedule {name!r}: {min(taken)} cannot be given: the time of each run decides it"
        )
    if _LINKS & call.keys():
        raise ConfigurationError(
            f"schedule {name!r}: a periodic call has no link: schedule a task that starts the "
            "workflow"
        )


def _check(entry: Entry) -> None:
    check_name(entry.name)
    where = f"schedule {entry.name!r}"
    if not entry.name or len(entry.name) > _LONGEST_NAME:
        raise ConfigurationError(
            f"{where}: a name has 1 to {_LONGEST_NAME} characters, this one has {len(entry.name)}"
        )
    try:
        ZoneInfo(entry.timezone)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigurationError(
            f"{where}: there is no time zone {entry.timezone!r}: use one such as Europe/Vienna"
        ) from error
    if entry.catch_up not in CATCH_UPS:
        raise ConfigurationError(
            f"{where}: catch_up is {entry.catch_up!r}: give one of {', '.join(CATCH_UPS)}"
        )
    for what in ("expires", "jitter"):
        value = getattr(entry, what)
        if value is not None:
            seconds(value, f"{where}: {what}", ConfigurationError)
    for what in ("start", "end"):
        value = getattr(entry, what)
        if value is None:
            continue
        if not isinstance(value, datetime):
            raise ConfigurationError(f"{where}: {what} is {value!r}: give a datetime")
        last = times.LAST_YEAR if what == "start" else MAXYEAR
        times.check_year(value, f"{where}: {what}", first=MINYEAR + 1, last=last)
    start, end = entry.bound(entry.start), entry.bound(entry.end)
    if start is not None and end is not None and end <= start:
        raise ConfigurationError(f"{where}: it ends ({end}) before it starts ({start})")


# ---- as it is stored


def dumps(entry: Entry) -> str:
    """Write an entry as JSON for the store. Raises `EncodeError` for its arguments."""
    written = {
        "task": entry.task,
        "when": _written(entry.when),
        "args": to_wire(list(entry.args)),
        "kwargs": to_wire(dict(entry.kwargs)),
        "options": to_wire(dict(entry.options)),
        "timezone": entry.timezone,
        "expires": entry.expires,
        "jitter": entry.jitter,
        "catch_up": entry.catch_up,
        "start": entry.start.isoformat() if entry.start else None,
        "end": entry.end.isoformat() if entry.end else None,
        "enabled": entry.enabled,
    }
    return json.dumps(written, separators=(",", ":"))


def loads(name: str, text: str) -> Entry:
    """Read an entry from the store. Raises `ConfigurationError` if it cannot be read."""
    try:
        read: dict[str, Any] = json.loads(text)
        return Entry(
            name=name,
            task=read["task"],
            when=_when(read["when"]),
            args=tuple(from_wire(read["args"])),
            kwargs=from_wire(read["kwargs"]),
            options=from_wire(read["options"]),
            timezone=read["timezone"],
            expires=read["expires"],
            jitter=read["jitter"],
            catch_up=read["catch_up"],
            start=_time(read["start"]),
            end=_time(read["end"]),
            enabled=read["enabled"],
            stored=True,
        )
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigurationError(
            f"schedule {name!r} in the store cannot be read: {error}"
        ) from error


def _written(when: When) -> dict[str, Any]:
    if isinstance(when, crontab):
        return {"crontab": when.line, "days": when.days}
    if isinstance(when, every):
        return {"every": when.seconds}
    if isinstance(when, at):
        return {"at": when.time.isoformat()}
    return {"solar": [when.event, when.lat, when.lon]}


def _when(read: Mapping[str, Any]) -> When:
    if "crontab" in read:
        return read_crontab(read["crontab"], read["days"])
    if "every" in read:
        return every(read["every"])
    if "at" in read:
        return at(datetime.fromisoformat(read["at"]))
    return solar(*read["solar"])


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


# ---- Celery's beat_schedule

_CELERYS = frozenset({"task", "schedule", "relative"})


def of_beat_schedule(
    schedule: object,
    *,
    timezone: str,
    options: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> list[Entry]:
    """Read the setting `beat_schedule`: names mapped to task, schedule, args, kwargs, options.

    `EntryOptions` are allowed as keys too. Raises `ConfigurationError`.
    """
    if not isinstance(schedule, Mapping):
        raise ConfigurationError(
            f"beat_schedule is {schedule!r}: give a mapping of names to entries"
        )
    found: list[Entry] = []
    for name, given in cast("Mapping[Any, Any]", schedule).items():
        if not isinstance(given, Mapping) or "task" not in given or "schedule" not in given:
            raise ConfigurationError(
                f"beat_schedule: entry {name!r} is {given!r}: it needs a task and a schedule"
            )
        entry = cast("Mapping[str, Any]", given)
        if entry.get("relative"):
            raise ConfigurationError(
                f"beat_schedule: entry {name!r}: relative=True counts from the start of a beat, "
                "and several may run: give start="
            )
        rest = {key: value for key, value in entry.items() if key not in _CELERYS}
        task = getattr(entry["task"], "name", entry["task"])
        made = entry_of(
            str(name), str(task), entry["schedule"], rest, timezone=timezone, options=options
        )
        found.append(made)
    return found


def periodic_entry(
    sig: Signature[Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], Signature[Any]]:
    """Turn the arguments of `add_periodic_task` into entry options and a complete signature.

    Raises `ConfigurationError` unless `sig` is a single call.
    """
    if not isinstance(sig, Signature):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(
            f"add_periodic_task: {sig!r} is not a signature: give task.s(...); for a workflow, a "
            "task that starts it"
        )
    if sig.links or sig.link_errors:
        raise ConfigurationError(
            f"add_periodic_task: {sig!r} has callbacks, and a periodic call has none: schedule a "
            "task that starts the workflow"
        )
    node = sig.clone(args, kwargs)
    own = {key: value for key, value in options.items() if key in EntryOptions.__annotations__}
    call = {key: value for key, value in options.items() if key not in own}
    call = {**node.options, **call, **dict(own.pop("options", {}))}
    return {"args": node.args, "kwargs": node.kwargs, "options": call, **own}, node


def utc(stamp: float) -> datetime:
    """Epoch seconds as a datetime in UTC."""
    return datetime.fromtimestamp(stamp, UTC)
