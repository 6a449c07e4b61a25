"""The rules of queues: what tasks are run from them, and how large, deep and old a call may be."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from math import inf
from typing import Any, TypeVar

from cloudq.driver import Delivery
from cloudq.errors import DecodeError, UnknownTask
from cloudq.execution.bundles import body_of
from cloudq.messages.message import TaskMessage
from cloudq.settings import Settings
from cloudq.tasks.signature import Node, Signature
from cloudq.tasks.signature_json import from_dict
from cloudq.tasks.steps import COLLECT

T = TypeVar("T")

_MAPS = ("cloudq.map", "cloudq.starmap")

_CLOCKS = 60.0  # seconds that the clocks of two machines may differ


def has_rules(conf: Settings) -> bool:
    """Tell whether any queue has rules."""
    return bool(conf.queue_tasks or conf.queue_limits)


def refusal(
    conf: Settings,
    tasks: Container[str],
    delivery: Delivery,
    message: TaskMessage,
    now: float,
) -> UnknownTask | DecodeError | None:
    """Return the error of a call that is not run here; None of one that may be."""
    if message.task not in tasks:
        return UnknownTask(
            f"unknown task {message.task!r}: is its module in the app's include, and was this"
            " worker started after it was written?"
        )
    if not has_rules(conf):
        return None
    why = _why_refused(conf, delivery.queue, message, len(body_of(delivery)), now)
    return DecodeError(why) if why else None


def restrained(conf: Settings, queue: str, message: TaskMessage) -> TaskMessage:
    """Return a call that is not run, without error callbacks that its queue may not start."""
    patterns = _of(conf.queue_tasks, queue)
    if patterns is None or not message.link_error:
        return message
    try:
        if all(_allows(patterns, each) for each in _followers(message)):
            return message
    except Exception:  # one of them cannot be read
        pass
    return message.model_copy(update={"link_error": []})


def _why_refused(conf: Settings, queue: str, message: TaskMessage, size: int, now: float) -> str:
    """Say why a call of a message of `size` bytes is not run from this queue; "" where it is."""
    patterns = _of(conf.queue_tasks, queue)
    if patterns is not None:
        asked = _run_by(message.task, message.args, message.kwargs)
        if not _allows(patterns, asked):
            return f"task {asked!r} is not run from queue {queue!r}: see queue_tasks"
        for later in _followers(message):
            if not _allows(patterns, later):
                return (
                    f"task {later!r} is to follow a call from queue {queue!r}, which may not start "
                    "it: see queue_tasks"
                )
    limits = _of(conf.queue_limits, queue)
    if limits is None:
        return ""
    if size > limits.get("bytes", inf):
        return f"oversized: {size:,} bytes, and queue {queue!r} allows {limits['bytes']:,.0f}"
    if message.depth > limits.get("depth", inf):
        return f"{message.depth} calls deep, and queue {queue!r} allows {limits['depth']:,.0f}"
    since = max(message.sent_at, message.not_before or 0.0)
    if now - since > limits.get("age", inf) + _CLOCKS:
        return f"{now - since:,.0f} s old, and queue {queue!r} allows {limits['age']:,.0f}"
    return ""


def _of(rules: Mapping[str, T], queue: str) -> T | None:
    """Return the rule of a queue, which one side may know by its URL."""
    found = rules.get(queue)
    return rules.get(queue.rpartition("/")[2]) if found is None else found


def _allows(patterns: Sequence[str], task: str) -> bool:
    return task == COLLECT or any(fnmatchcase(task, pattern) for pattern in patterns)


def _followers(message: TaskMessage) -> Iterator[str]:
    """Yield the names of the tasks that a call may start: in its chain, and in its callbacks."""
    waiting: list[Node[Any]] = []
    for part in (*message.chain, *message.link, *message.link_error):
        waiting.append(from_dict(part))
        while waiting:
            node = waiting.pop()
            waiting += (*node.parts(), *node.links, *node.link_errors)
            if isinstance(node, Signature):
                yield _run_by(node.task, node.args, node.kwargs)


def _run_by(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return the name of the task that a call runs: that of a map names another."""
    if task not in _MAPS:
        return task
    named = args[0] if args else kwargs.get("task")
    return named if isinstance(named, str) else task
