"""Two brokers with queued tasks, and a migration between them that can be ended at any call."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cloudq.broker.migration import Endpoint, Migration, Options, Report
from cloudq.driver import Limits, Outgoing
from cloudq.driver import loader as plugins
from cloudq.messages.body import encode
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from tests.support.fuses import Fuse, Killed, fused

Ids = Counter[str]


def message(
    *,
    delay: float = 0.0,
    group: str | None = None,
    dedup: str | None = None,
    queue: str = "q",
    id: str | None = None,
    body: bytes | None = None,
    size: int = 0,
) -> Outgoing:
    """A task message as a producer sends it; with `body` something else."""
    id = id or uuid.uuid4().hex
    task = TaskMessage(
        id=id,
        task="shop.pack",
        args=["x" * size] if size else [],
        queue=queue,
        sent_at=time.time(),
        not_before=time.time() + delay if delay else None,
        group_key=group,
        dedup_key=dedup,
    )
    return Outgoing(id=id, body=body or encode(task), delay=delay, group=group, dedup=dedup)


def small(limits: Limits) -> Limits:
    """So that a few messages are several batches."""
    return replace(limits, batch=min(limits.batch, 4))


@dataclass
class Ground:
    """Both brokers, open for as long as the test lasts."""

    source_url: str
    target_url: str
    folder: Path
    backend_url: str | None = None
    lease: float = 0.2
    peeks: tuple[bool, bool] = (True, True)
    limits: tuple[Callable[[Limits], Limits], Callable[[Limits], Limits]] = (small, small)
    without: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    instead: tuple[dict[str, Any], dict[str, Any]] = field(default_factory=lambda: ({}, {}))
    said: list[str] = field(default_factory=list)

    def __enter__(self) -> Ground:
        self._stack = ExitStack()
        self.source = plugins.open_broker(self.source_url)
        self._stack.callback(self.source.close)
        self.target = plugins.open_broker(self.target_url)
        self._stack.callback(self.target.close)
        self.backend: Backend | None = None
        if self.backend_url:
            driver = plugins.open_backend(self.backend_url)
            self.backend = Backend(driver, url=self.backend_url)
            self._stack.callback(driver.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def fill(self, messages: Sequence[Outgoing], queue: str = "q") -> Ids:
        """Send to the source; the ids."""
        batch = self.source.limits(queue).batch
        for start in range(0, len(messages), batch):
            assert not self.source.send(queue, messages[start : start + batch])
        return Counter(message.id for message in messages)

    def sides(self, fuse: Fuse | None = None) -> tuple[Endpoint, Endpoint]:
        fuse = fuse or Fuse()
        urls = (self.source_url, self.target_url)
        made = [
            Endpoint.of(
                fused(
                    driver,
                    fuse,
                    limits=self.limits[place],
                    without=self.without[place],
                    **self.instead[place],
                ),
                urls[place],
                self.backend,
                peeks=self.peeks[place],
            )
            for place, driver in enumerate((self.source, self.target))
        ]
        return made[0], made[1]

    def migration(self, fuse: Fuse | None = None, **named: Any) -> Migration:
        stop = named.pop("stop", None)
        told = named.pop("told", lambda _: None)
        codec = named.pop("codec", None)
        queues = named.pop("queues", ("q",))
        options = Options(queues=queues, lease=self.lease, journal=self.journal, **named)
        source, target = self.sides(fuse)
        return Migration(
            source,
            target,
            options,
            backend=self.backend,
            codec=codec,
            stop=stop,
            say=self.said.append,
            told=told,
        )

    def run(self, fuse: Fuse | None = None, **named: Any) -> Report:
        migration = self.migration(fuse, **named)
        pairs = migration.pairs()
        migration.check(pairs, create=True)
        return migration.run(pairs)

    def killed(self, fuse: Fuse, **named: Any) -> bool:
        """Run until the fuse blows; whether it did."""
        try:
            self.run(fuse, **named)
        except Killed:
            return True
        return False

    def inside(self, side: int, queue: str = "q") -> Ids:
        """The ids of all that is in a queue of an embedded broker, once no lease is left."""
        driver: Any = (self.source, self.target)[side]
        deadline = time.monotonic() + 10
        while driver.stats(queue).leased and time.monotonic() < deadline:
            time.sleep(0.01)
        found = Counter(peeked.id for peeked in driver.peek(queue, count=100_000))
        made = self.sides()[side]
        if made.broker.stores_delayed(queue):
            found += Counter(message.id for message in made.delayed(queue))
        return found
