"""A whole migration: its options, its checks, and one queue after the other."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event

from cloudq.broker.deliveries import queue_deliveries
from cloudq.broker.migration.compatibility import Compatibility
from cloudq.broker.migration.endpoint import Endpoint, total
from cloudq.broker.migration.journal import Journal
from cloudq.broker.migration.mover import Mover
from cloudq.broker.migration.preview import Preview, preview
from cloudq.broker.migration.queue import QueueMove
from cloudq.broker.migration.report import Moved, Report
from cloudq.broker.migration.scan import Interrupted
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq.messages.codec import Codec
from cloudq.results.backend import Backend
from cloudq.text import masked

# The setting's default; for another value run `cloudq queues create` with the target's app.
_MAX_DELIVERIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a migration. `queues` left out means all that the source lists.

    `names` maps queues to other names in the target. `create` makes missing queues there. `raw`
    also moves messages that are no task messages. `wait` waits for messages that the source delays
    without listing them. `limit` is the most messages to move; `lease`, in seconds, is that of
    messages on their way.
    """

    queues: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    create: bool = False
    raw: bool = False
    wait: bool = False
    limit: int | None = None
    lease: float = 60.0
    journal: Path | None = None


def journal_file(source: str, target: str, queue: str) -> Path:
    """Return the default journal file of one queue, in the working directory."""
    name = hashlib.sha256("\n".join((source, target, queue)).encode()).hexdigest()[:12]
    return Path(f"cloudq-migrate-{name}.journal")


class Migration:
    """Moves messages from the queues of `source` to those of `target`.

    `backend` keeps delayed messages for a broker that cannot, and has the tasks' records. Set
    `stop` to end after the current batch. `say` is called with messages for the user, and `told`
    with a queue's counts whenever they change. Every method raises `BrokerError`, `BackendError`
    and `ConfigurationError`.
    """

    def __init__(
        self,
        source: Endpoint,
        target: Endpoint,
        options: Options,
        *,
        backend: Backend | None = None,
        codec: Codec | None = None,
        stop: Event | None = None,
        say: Callable[[str], None] = lambda _: None,
        told: Callable[[Moved], None] = lambda _: None,
    ) -> None:
        self.source, self.target, self.options = source, target, options
        self.report = Report()
        self._backend = backend
        self._codec = codec
        self._stop = stop or Event()
        self._say, self._told = say, told

    def pairs(self) -> dict[str, str]:
        """Return the queues to move, with their names in the target."""
        options = self.options
        queues = list(dict.fromkeys(options.queues))
        if not queues:
            with self.source.broker.asking("list the queues that match", "*") as admin:
                queues = list(admin.list())
        unknown = [name for name in options.names if name not in queues]
        if unknown:
            raise ConfigurationError(f"--map {unknown[0]}=...: that is not a queue to be moved")
        pairs = {queue: options.names.get(queue, queue) for queue in queues}
        same = [queue for queue, target in pairs.items() if queue == target]
        if same and _place(self.source.url) == _place(self.target.url):
            raise ConfigurationError(
                f"{same[0]!r} would move to where it is: {self.source.url} and {self.target.url} "
                "are one broker"
            )
        return pairs

    def check(self, pairs: Mapping[str, str], *, create: bool) -> None:
        """Raise `ConfigurationError` for queues that are missing; with `create` make them."""
        lacking = [queue for queue in pairs if self.source.missing(queue)]
        if lacking:
            raise ConfigurationError(f"no queue {_names(lacking)} on {self.source.url}")
        absent = [target for target in pairs.values() if self.target.missing(target)]
        if absent and not create:
            raise ConfigurationError(
                f"no queue {_names(absent)} on {self.target.url}: --create makes what is missing, "
                "or name another with --map OLD=NEW"
            )
        for target in absent:
            ordered = self.target.broker.limits(target).ordered
            deliveries = queue_deliveries(_MAX_DELIVERIES, ordered=ordered)
            with self.target.broker.asking("create", target) as admin:
                admin.create(target, lease=self.options.lease, max_deliveries=deliveries)
            self._say(f"made queue {target!r} on {masked(self.target.url)}")

    def preview(self, pairs: Mapping[str, str], *, look: bool) -> list[Preview]:
        """Return what would be moved; with `look` also where a look counts as a delivery."""
        return [
            preview(
                self.source,
                queue,
                self._fit(target, token=""),
                shared=self._shared(queue, target),
                look=look,
            )
            for queue, target in pairs.items()
        ]

    def run(self, pairs: Mapping[str, str]) -> Report:
        """Move one queue after the other, until `stop` is set or the limit is reached."""
        left = self.options.limit
        for queue, target in pairs.items():
            moved = Moved(queue=queue, target=target)
            self.report.queues.append(moved)
            if self._stop.is_set() or left == 0:
                continue
            try:
                self._move(moved, left)
            except Interrupted:
                self.report.interrupted = True
            if left is not None:
                left = max(0, left - (moved.moved - moved.earlier))
        return self.report

    def _move(self, moved: Moved, limit: int | None) -> None:
        file = self.options.journal or journal_file(self.source.url, self.target.url, moved.queue)
        journal = Journal(file, source=self.source.url, target=self.target.url)
        try:
            moved.before = journal.begin(moved.queue, moved.target, self._before(moved))
            mover = Mover(
                source=self.source,
                target=self.target,
                journal=journal,
                fit=self._fit(moved.target, token=journal.token),
                moved=moved,
                backend=self._backend,
                told=partial(self._told, moved),
            )
            move = QueueMove(
                mover=mover,
                lease=self.options.lease,
                wait=self.options.wait,
                stop=self._stop,
                limit=limit,
                say=self._say,
            )
            move.run()
            if move.settled:
                journal.forget(moved.queue)
        finally:
            journal.close()

    def _before(self, moved: Moved) -> int | None:
        """Return the count of the source queue, with delayed messages in the backend."""
        count = total(self.source.stats(moved.queue))
        if self.source.broker.stores_delayed(moved.queue) and not self._shared(
            moved.queue, moved.target
        ):
            count = (
                None if count is None else count + sum(1 for _ in self.source.delayed(moved.queue))
            )
        return count

    def _fit(self, target: str, *, token: str) -> Compatibility:
        return Compatibility(
            queue=target,
            limits=self.target.broker.limits(target),
            stores_delayed=self.target.broker.stores_delayed(target),
            raw=self.options.raw,
            token=token,
            codec=self._codec,
        )

    def _shared(self, queue: str, target: str) -> bool:
        """Tell whether the backend keeps the delayed messages of both queues in one place."""
        stores_delayed = self.source.broker.stores_delayed(
            queue
        ) and self.target.broker.stores_delayed(target)
        return stores_delayed and queue == target


def _place(url: str) -> object:
    """Return the place that a URL names, as far as its text shows."""
    address = parse(url)
    if address.path:
        return address.scheme, address.host, os.path.realpath(address.path)
    return replace(address, url="")


def _names(queues: Sequence[str]) -> str:
    return ", ".join(map(repr, queues))
