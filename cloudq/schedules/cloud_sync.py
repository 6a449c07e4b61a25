"""Updates a cloud's scheduler to match an app's schedules: first a plan, then its steps."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from cloudq.broker.one_time import group_of, owner_of
from cloudq.driver import Code
from cloudq.driver.schedulers import Fields, Job, SchedulerDriver
from cloudq.errors import CloudQError, ConfigurationError, ServiceError
from cloudq.messages.message import TaskMessage
from cloudq.messages.signing import Keyring
from cloudq.schedules import cloud_cron as dialects
from cloudq.schedules.entry import Entry, utc
from cloudq.schedules.run_id import CRON, EXPIRES, SCHEDULE, SLOT, cron_header, id_of_run
from cloudq.schedules.schedules import Schedule, Schedules
from cloudq.schedules.when import at, crontab, every
from cloudq.tasks.task import Options
from cloudq.text import describe

_SAYS: Mapping[str, Callable[[Entry], list[str]]] = {
    "eventbridge": dialects.eventbridge,
    "unix-cron": dialects.unix_cron,
}
_MARK = "cloudq"
# What must not depend on when the plan was made.
_OURS = frozenset({SCHEDULE, SLOT, EXPIRES, CRON})
_TRACES = frozenset({"traceparent", "tracestate", "baggage"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change: `create`, `update` or `delete`. `parts` maps fields to old and new values."""

    action: str
    name: str
    parts: Mapping[str, tuple[str | None, str | None]]
    job: Job | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps that make the cloud match the code.

    `foreign` are names of entries in the group that are not this app's. `over` maps the names of
    schedules without further runs to the reason; the cloud gets no entry for them.
    """

    group: str
    steps: Sequence[Step]
    equal: Sequence[str]
    foreign: Sequence[str]
    over: Mapping[str, str] = field(default_factory=dict[str, str])


class Incomplete(ServiceError):
    """Applying a plan ended early: `done` were changed, `left` were not."""

    def __init__(
        self, message: str, *, code: str, done: Sequence[str], left: Sequence[str]
    ) -> None:
        super().__init__(message, code=code)
        self.done = tuple(done)
        self.left = tuple(left)


class Scheduler:
    """A cloud's scheduler, through its driver. Each owner's jobs form a group.

    `owner` is by default the app's name.
    """

    def __init__(
        self,
        schedules: Schedules,
        driver: SchedulerDriver,
        *,
        url: str,
        owner: str | None = None,
    ) -> None:
        self._schedules = schedules
        self._runtime = schedules.runtime
        self._driver = driver
        self._url = url
        self._owner = owner or self._runtime.name
        self.group = driver.group or group_of(self._owner)

    # ---- the wanted jobs

    def jobs(self, schedules: Iterable[Schedule] | None = None) -> dict[str, Job]:
        """The jobs of these schedules, or of all the app's schedules, by name.

        Raises `ConfigurationError` for a schedule that the cloud cannot run.
        """
        conf = self._runtime.conf
        for verb, keys, required in (
            ("sign", conf.signing_keys, conf.signing_required),
            ("encrypt", conf.encryption_keys, conf.encryption_required),
        ):
            if keys and required:
                setting = "signing_required" if verb == "sign" else "encryption_required"
                raise ConfigurationError(
                    f"a cloud's scheduler cannot {verb} messages, and {setting} is on: run a beat"
                )
        found: dict[str, Job] = {}
        if schedules is None:
            schedules = self._schedules.all().values()
        for scheduled in schedules:
            if scheduled.entry is None:
                raise ConfigurationError(scheduled.error)
            for job in self._jobs_of(scheduled, scheduled.entry):
                if job.name in found:
                    raise ConfigurationError(
                        f"two schedules are {job.name!r} in the cloud: give one of them another "
                        "name"
                    )
                found[job.name] = job
        return found

    def _jobs_of(self, scheduled: Schedule, entry: Entry) -> Iterable[Job]:
        if entry.over(utc(self._runtime.clock())):
            return  # listed in the plan as `over`
        expressions = _SAYS[self._driver.dialect](entry)
        body, message = self._body(entry)
        self._check(entry)
        for number, expression in enumerate(expressions, start=1):
            part = entry.name if number == 1 else f"{entry.name}-{number}"
            yield Job(
                name=self._driver.name(self.group, part),
                expression=expression,
                timezone=_zone(self._driver.dialect, entry),
                queue=message.queue,
                body=body,
                group=message.group_key,
                description=f"{self._mark}{entry.name}",
                owner=owner_of(self._owner),
                enabled=scheduled.active,
                start=entry.bound(entry.start) if not isinstance(entry.when, at) else None,
                end=entry.bound(entry.end) if not isinstance(entry.when, at) else None,
                window=int(-(-entry.jitter // 60)),
            )

    def _check(self, entry: Entry) -> None:
        if entry.jitter and not self._driver.spread:
            raise ConfigurationError(
                f"schedule {entry.name!r}: {self._url} cannot spread runs: leave jitter out, or "
                "run a beat"
            )
        if (entry.start or entry.end) and not self._driver.bounds:
            raise ConfigurationError(
                f"schedule {entry.name!r}: {self._url} supports no start or end: leave them out, "
                "or run a beat"
            )

    def _body(self, entry: Entry) -> tuple[str, TaskMessage]:
        """The message that each run sends, as text and object; its time is filled in later."""
        headers = dict(entry.options.get("headers", {}))
        headers |= {SCHEDULE: entry.name, CRON: _reckoned(entry)}
        if self._driver.slot is not None:
            headers[SLOT] = self._driver.slot
        if entry.expires is not None:
            headers[EXPIRES] = f"{entry.expires:g}"
        id = id_of_run(entry.name, self._driver.slot or "")
        options = {k: v for k, v in entry.options.items() if k != "headers"}
        call = self._schedules.prepared(
            entry, Options(**options, headers=headers, task_id=id, idempotency_key=id)
        )
        message = self._schedules.publisher.message_of(call)
        kept = {k: v for k, v in message.headers.items() if k not in _TRACES}
        changes: dict[str, Any] = {"headers": kept, "sent_at": 0.0, "expires": None}
        if message.expires is not None and EXPIRES not in kept:
            # The task's own expiry, counted from the run.
            kept[EXPIRES] = f"{message.expires - message.sent_at:g}"
        message = message.model_copy(update=changes)
        # The scheduler writes its times into the text, so neither seal nor signature would hold.
        codec = replace(self._runtime.codec, encryption=None, keyring=Keyring())
        return codec.encode(message).decode(), message

    @property
    def _mark(self) -> str:
        return f"{_MARK} {self._owner}: "

    # ---- the plan

    def plan(self, schedules: Iterable[Schedule] | None = None) -> Plan:
        """Compare the cloud's entries with these schedules, or with all the app's.

        Raises `ConfigurationError`, `ServiceError`.
        """
        found = list(self._schedules.all().values() if schedules is None else schedules)
        wanted = self.jobs(found)
        with self._wrapped("look at"):
            self._check_owner()
            there = self._driver.current(self.group)
            fields = {name: self._driver.fields(job) for name, job in wanted.items()}
        foreign = [n for n, have in there.items() if not have["description"].startswith(self._mark)]
        taken = sorted(wanted.keys() & set(foreign))
        if taken:
            raise ConfigurationError(
                f"{taken[0]!r} in {self._url} does not belong to this app, and a schedule has the "
                "same name: rename one of them"
            )
        steps: list[Step] = []
        equal: list[str] = []
        for name, job in sorted(wanted.items()):
            parts = _parts(there.get(name, {}), fields[name])
            if not parts:
                equal.append(name)
                continue
            action = "update" if name in there else "create"
            steps.append(Step(action=action, name=name, parts=parts, job=job))
        steps += [
            Step(action="delete", name=name, parts=_parts(there[name], {}))
            for name in sorted(there.keys() - wanted.keys() - set(foreign))
        ]
        return Plan(
            group=self.group,
            steps=steps,
            equal=equal,
            foreign=sorted(foreign),
            over=self._over(found),
        )

    def _check_owner(self) -> None:
        """Raise `ConfigurationError` for a group that another owner has made."""
        owner, ours = self._driver.owner(self.group), owner_of(self._owner)
        if owner is None or owner == ours:
            return
        whose = f"is of the app {owner!r}" if owner else "was not made by cloudq"
        raise ConfigurationError(
            f"schedule group {self.group!r} in {self._url} {whose}: give this app another name, or "
            f"hand the group over by its tag cloudq:app={ours}"
        )

    def _over(self, schedules: Iterable[Schedule]) -> dict[str, str]:
        now = utc(self._runtime.clock())
        every = [one.entry for one in schedules if one.entry is not None]
        return {entry.name: why for entry in every if (why := entry.over(now))}

    def apply(self, plan: Plan, told: Callable[[Step], None] = lambda step: None) -> None:
        """Carry out a plan; `told` is called after each step. Raises `Incomplete`."""
        for number, step in enumerate(plan.steps):
            try:
                self._carry_out(step)
            except CloudQError as error:
                done = [each.name for each in plan.steps[:number]]
                left = [each.name for each in plan.steps[number:]]
                raise Incomplete(
                    f"{step.action} {step.name}: {error} ({len(done)} of {len(plan.steps)} changes "
                    "were made; plan again to see the rest)",
                    code=getattr(error, "code", Code.UNKNOWN),
                    done=done,
                    left=left,
                ) from error
            told(step)

    def _carry_out(self, step: Step) -> None:
        with self._wrapped(step.action):
            if step.job is None:
                self._driver.delete(self.group, step.name)
            elif step.action == "create":
                self._driver.create(self.group, step.job)
            else:
                self._driver.update(self.group, step.job)

    def close(self) -> None:
        """Close the driver."""
        self._driver.close()

    @contextmanager
    def _wrapped(self, verb: str) -> Generator[None]:
        try:
            yield
        except CloudQError:
            raise
        except Exception as error:
            code = self._driver.error_code(error)
            raise ServiceError(
                f"cannot {verb} schedules in {self._url}: {describe(error)}", code=code
            ) from error


def _parts(have: Fields, want: Fields) -> dict[str, tuple[str | None, str | None]]:
    names = dict.fromkeys([*want, *have])
    found = {name: (have.get(name), want.get(name)) for name in names}
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}


def _zone(dialect: str, entry: Entry) -> str:
    # A period as a crontab counts from midnight in UTC, as a beat does.
    return "UTC" if dialect == "unix-cron" and isinstance(entry.when, every) else entry.timezone


def _reckoned(entry: Entry) -> str:
    """The header from which a worker computes the time of the run if the cloud does not send it."""
    when = entry.when
    if isinstance(when, crontab):
        return cron_header(when.line, when.days, entry.timezone)
    if isinstance(when, every):
        return cron_header(f"{when.seconds:g}", "every", "UTC")
    assert isinstance(when, at)  # no dialect has others
    time: datetime = entry.bound(when.time) or when.time
    return cron_header(time.isoformat(), "at", "UTC")
