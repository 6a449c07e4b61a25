"""Names the queues that the calls of an app go to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cloudq.publishing.builder import MessageBuilder
from cloudq.tasks.call_options import Options
from cloudq.tasks.task import Task

if TYPE_CHECKING:  # an app without schedules does not load them
    from cloudq.schedules.entry import Entry


def app_queues(
    builder: MessageBuilder,
    tasks: Mapping[str, Task[..., Any]],
    entries: Iterable[Entry],
    task: str | None,
    *,
    default: str,
) -> list[str]:
    """Return the queues of all tasks and schedules, or those of one task, the default one first."""
    router = builder.router
    routed = (
        builder.routed(each.task, each.args, each.kwargs, Options(**each.options))
        for each in entries
        if task in (None, each.task)
    )
    named = {options.queue for options in routed if options.queue}
    if task is None:
        own = {each.policy.queue for each in tasks.values() if each.policy.queue}
        named |= {default, *own, *router.queues}
    else:
        known = tasks.get(task)
        own = known.policy.queue if known else None
        named.add(own or router.queue_of(task) or default)
    return [*({default} & named), *sorted(named - {default})]
