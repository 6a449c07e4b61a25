"""Dead letters: searched, grouped, and chosen by a filter that is counted before it is acted on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

from cloudq.app import CloudQ
from cloudq.errors import CloudQError, ConfigurationError
from cloudq.execution.side_by_side import side_by_side
from cloudq.operations.queues import own_queues, require_known
from cloudq.operations.seen import Seen, read
from cloudq.text import json_text

MOST = 10_000
"""Dead letters of a queue that a search reads at most."""
NO_REASON = "moved here by the service"

By = Literal["reason", "exception", "task", "age"]
# The bounds of the groups by age: seconds, and the name of what is younger.
_AGES = (
    (3600.0, "under 1 h"),
    (86_400.0, "1 h to 1 d"),
    (604_800.0, "1 d to 7 d"),
    (float("inf"), "over 7 d"),
)
_NEWEST_REASONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFilter:
    """A choice of dead letters; a letter must fit all that is given.

    `task` is a glob of the task's name; `error` a text in the reason, in any case; `reason` the
    whole reason as groups show it; `exception` the class of the exception, with or without its
    module; `older_than` seconds since the message was sent, and `newer_than` the other bound;
    `ids` are those of tasks or messages.
    """

    task: str | None = None
    error: str | None = None
    reason: str | None = None
    exception: str | None = None
    older_than: float | None = None
    newer_than: float | None = None
    ids: Sequence[str] = ()

    @property
    def is_empty(self) -> bool:
        """Tell whether it chooses all."""
        return self == DeadFilter()

    def matches(self, seen: Seen, now: float) -> bool:
        """Tell whether a letter fits, at this time in epoch seconds."""
        if self.ids and not any(seen.goes_by(id) for id in self.ids):
            return False
        if self.task is not None and not any(fnmatchcase(n, self.task) for n in seen.tasks):
            return False
        if self.error is not None and self.error.casefold() not in (seen.reason or "").casefold():
            return False
        if self.reason is not None and (seen.reason or NO_REASON) != self.reason:
            return False
        if self.exception is not None and not _is_of(seen.exception, self.exception):
            return False
        age = now - (seen.peeked.sent_at or now)
        is_young = self.older_than is not None and age < self.older_than
        is_old = self.newer_than is not None and age >= self.newer_than
        return not is_young and not is_old

    def __str__(self) -> str:
        given = {name: getattr(self, name) for name in self.__slots__}
        said = [
            f"{name}={_told(value)}" for name, value in given.items() if value not in (None, ())
        ]
        return " ".join(said) or "all"


EVERYTHING = DeadFilter()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadSearch:
    """Dead letters that fit a filter, at most as many as were asked for, in their queues' order.

    `matched` of the `seen` letters fit; with `complete` these are all there are, else there are
    more than were read. `problems` are queues whose letters could not be read, with the reasons.
    """

    letters: Sequence[Seen]
    matched: int
    seen: int
    complete: bool
    queues: Mapping[str, int] = field(default_factory=dict[str, int])
    problems: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def scope(self) -> str:
        """Say what was looked at: "344 of 1,000 dead letters", "of the first 10,000"."""
        of = f"{self.seen:,}" if self.complete else f"the first {self.seen:,}"
        return f"{self.matched:,} of {of} dead letters"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadGroup:
    """The dead letters of one reason, exception, task or age. Times are epoch seconds.

    `filter` chooses them.
    """

    name: str
    count: int
    newest_at: float | None
    oldest_at: float | None
    queues: Sequence[str]
    filter: DeadFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadGroups:
    """Groups, the largest first, of the letters that a search has found."""

    by: By
    groups: Sequence[DeadGroup]
    search: DeadSearch


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadQueue:
    """The dead letters of a queue: their number (None: the service does not tell), and reasons.

    `reasons` are the newest different ones of the letters read. `problem` says why the queue
    could not be looked at.
    """

    queue: str
    count: int | None = None
    reasons: Sequence[str] = ()
    newest_at: float | None = None
    problem: str | None = None


def search(
    app: CloudQ,
    chosen: DeadFilter = EVERYTHING,
    queue: str | None = None,
    *,
    limit: int | None = None,
    most: int = MOST,
) -> DeadSearch:
    """Find dead letters of a queue, or of all of the app's, reading `most` of each at most.

    `limit` bounds the letters returned, not those counted. Raises `BrokerError` for a queue that
    is named.
    """
    names = own_queues(app) if queue is None else [queue]
    found, problems, complete = _read_all(app, names, most, is_named=queue is not None)
    now = app.runtime.clock()
    fitting = [seen for seen in found if chosen.matches(seen, now)]
    counts: dict[str, int] = {}
    for seen in fitting:
        counts[seen.queue] = counts.get(seen.queue, 0) + 1
    return DeadSearch(
        letters=fitting if limit is None else fitting[:limit],
        matched=len(fitting),
        seen=len(found),
        complete=complete,
        queues=counts,
        problems=problems,
    )


def missing_ids(found: DeadSearch, chosen: DeadFilter) -> list[str]:
    """Return the ids of a filter that no letter goes by."""
    return [id for id in chosen.ids if not any(seen.goes_by(id) for seen in found.letters)]


def one(app: CloudQ, queue: str, id: str) -> Seen:
    """Return one dead letter. Raises `ConfigurationError` if there is none of this id."""
    found = search(app, DeadFilter(ids=(id,)), queue)
    if not found.letters:
        where = "" if found.complete else f" among the first {found.seen:,}"
        raise ConfigurationError(f"no dead letter {id}{where}: see `cloudq dead list {queue}`")
    return found.letters[0]


def groups(
    app: CloudQ,
    by: By = "reason",
    chosen: DeadFilter = EVERYTHING,
    queue: str | None = None,
    *,
    most: int = MOST,
) -> DeadGroups:
    """Group the dead letters that a filter chooses. Reads as `search`."""
    found = search(app, chosen, queue, most=most)
    return DeadGroups(by=by, groups=grouped(found.letters, by, app.runtime.clock()), search=found)


def grouped(letters: Iterable[Seen], by: By, now: float) -> list[DeadGroup]:
    """Group letters that were read, the largest group first."""
    parts: dict[str, list[Seen]] = {}
    name_of = _NAMES[by]
    for seen in letters:
        parts.setdefault(name_of(seen, now), []).append(seen)
    made = [_group(name, by, members) for name, members in parts.items()]
    return sorted(made, key=_by_size)


def summary(app: CloudQ, queues: Sequence[str] | None = None, *, look: int = 20) -> list[DeadQueue]:
    """Count the dead letters of each queue, with the newest reasons among `look` of them.

    Costs one look at each queue, and a look at its letters where it has any.
    """
    names = own_queues(app) if queues is None else list(queues)
    billed = bool(names) and app.broker.limits(names[0]).billed
    return side_by_side(partial(_summary, app, look), names, billed=billed)


def export(letters: Iterable[Seen]) -> Iterator[str]:
    """Write letters as JSON lines, whole, with their arguments as they are."""
    for seen in letters:
        yield json_text(seen.as_json(), indent=False)


def _summary(app: CloudQ, look: int, queue: str) -> DeadQueue:
    try:
        with app.broker.asking("look at", queue) as admin:
            count = admin.stats(queue).dead
            found = admin.peek_dead(queue, count=look) if count != 0 else ()
    except CloudQError as error:
        return DeadQueue(queue=queue, problem=str(error))
    newest = sorted(found, key=_sent, reverse=True)
    reasons = list(dict.fromkeys(each.reason or NO_REASON for each in newest))
    return DeadQueue(
        queue=queue,
        count=count,
        reasons=reasons[:_NEWEST_REASONS],
        newest_at=newest[0].sent_at if newest else None,
    )


def _read_all(
    app: CloudQ, names: Sequence[str], most: int, *, is_named: bool
) -> tuple[list[Seen], dict[str, str], bool]:
    """Read letters; return them with the problems, and whether all could be read."""
    found: list[Seen] = []
    problems: dict[str, str] = {}
    complete = True
    for name in names:
        try:
            letters = _read(app, name, most, is_named=is_named)
        except CloudQError as error:
            if is_named:
                raise
            problems[name] = str(error)
            complete = False
            continue
        complete = complete and len(letters) < most
        found += letters
    return found, problems, complete


def _read(app: CloudQ, queue: str, most: int, *, is_named: bool) -> list[Seen]:
    with app.broker.asking("look at the dead letters of", queue) as admin:
        peeked = admin.peek_dead(queue, count=most)
    if not peeked and is_named:
        require_known(app, queue)
    return [read(each, app, queue) for each in peeked]


def _is_of(exception: str | None, name: str) -> bool:
    return exception is not None and (
        exception == name or exception.rpartition(".")[2] == name.rpartition(".")[2]
    )


def _reason_name(seen: Seen, now: float) -> str:
    return seen.reason or NO_REASON


def _exception_name(seen: Seen, now: float) -> str:
    return seen.exception or "no exception"


def _task_name(seen: Seen, now: float) -> str:
    return seen.task or "unreadable"


def _age_name(seen: Seen, now: float) -> str:
    age = now - (seen.peeked.sent_at or now)
    return next(name for bound, name in _AGES if age < bound)


_NAMES: Mapping[By, Callable[[Seen, float], str]] = {
    "reason": _reason_name,
    "exception": _exception_name,
    "task": _task_name,
    "age": _age_name,
}


def _group(name: str, by: By, members: Sequence[Seen]) -> DeadGroup:
    times = [seen.peeked.sent_at for seen in members if seen.peeked.sent_at is not None]
    return DeadGroup(
        name=name,
        count=len(members),
        newest_at=max(times, default=None),
        oldest_at=min(times, default=None),
        queues=sorted({seen.queue for seen in members}),
        filter=_filter_of(name, by, members),
    )


def _filter_of(name: str, by: By, members: Sequence[Seen]) -> DeadFilter:
    first = members[0]
    if by == "reason":
        return DeadFilter(reason=name)
    if by == "exception" and first.exception is not None:
        return DeadFilter(exception=name)
    if by == "task" and len(first.tasks) == 1:
        return DeadFilter(task=_literal(name))
    if by == "age":
        bounds = [0.0, *(bound for bound, _ in _AGES)]
        place = [each for _, each in _AGES].index(name)
        newer = bounds[place + 1]
        return DeadFilter(
            older_than=bounds[place] or None, newer_than=None if newer == float("inf") else newer
        )
    return DeadFilter(ids=tuple(seen.peeked.id for seen in members))


def _literal(name: str) -> str:
    """Return a glob that fits this name alone."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def _by_size(group: DeadGroup) -> tuple[int, str]:
    return -group.count, group.name


def _sent(peeked: object) -> float:
    sent: float | None = getattr(peeked, "sent_at", None)
    return sent or 0.0


def _told(value: object) -> str:
    if not isinstance(value, str | float | int):
        return "(those given)"
    return f"{value:g}" if isinstance(value, float) else repr(value)
