"""Previews a migration, as far as that is possible without taking a message."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cloudq.broker.migration.compatibility import Compatibility
from cloudq.broker.migration.endpoint import Endpoint
from cloudq.broker.migration.journal import Entry, digest
from cloudq.driver import Outgoing, QueueStats

_MOST = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The preview of one queue: its counts, and the tasks and reasons to stay of messages seen.

    `listed` is how many of the delayed messages seen can be moved now; `shown` is how many
    messages were seen in all, and `whole` whether those were all there are.
    """

    queue: str
    target: str
    stats: QueueStats | None
    stores_delayed: bool
    listed: int = 0
    shown: int = 0
    whole: bool = False
    tasks: Counter[str] = field(default_factory=Counter[str])
    stays: Counter[str] = field(default_factory=Counter[str])


def preview(
    source: Endpoint, queue: str, fit: Compatibility, *, shared: bool, look: bool
) -> Preview:
    """Preview a queue; with `look` also where each look counts as a delivery.

    `shared`: both brokers keep the queue's delayed messages in one place, so these stay there.
    """
    stats = source.stats(queue)
    tasks: Counter[str] = Counter()
    stays: Counter[str] = Counter()
    seen = 0

    def judge(entry: Entry, body: bytes, group: str | None, due: float) -> None:
        verdict = fit.judge(entry, body, group=group, due=due)
        if isinstance(verdict, Outgoing):
            message = fit.read(body)
            tasks["(raw)" if isinstance(message, str) else message.task] += 1
        else:
            stays[verdict] += 1

    listed: set[str] = set()
    for message in () if shared else source.delayed(queue, most=_MOST):
        judge(Entry.of(message), message.body, message.group, message.due)
        listed.add(message.id)
    peeks = stats is not None and (source.peeks or look)
    if peeks:
        with source.broker.asking("look into", queue) as admin:
            peeked = admin.peek(queue, count=_MOST)
        seen = len(peeked)
        for one in peeked:
            # Some services list delayed messages among the others.
            if one.id not in listed:
                judge(Entry(one.id, digest(one.body)), one.body, None, 0.0)
    return Preview(
        queue=queue,
        target=fit.queue,
        stats=stats,
        stores_delayed=source.broker.stores_delayed(queue) and not shared,
        listed=len(listed),
        shown=tasks.total() + stays.total(),
        whole=peeks and max(seen, len(listed)) < _MOST,
        tasks=tasks,
        stays=stays,
    )
