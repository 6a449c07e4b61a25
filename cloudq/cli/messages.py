"""Shows peeked messages as tables, for `queues peek` and `dead`."""

from __future__ import annotations

from collections.abc import Sequence

from cloudq.cli.output import since, table
from cloudq.driver.adapters import adapter
from cloudq.operations.seen import Seen


def list_messages(
    messages: Sequence[Seen], *, dead: bool, empty: str, queues: bool = False
) -> None:
    """Print a table of messages; dead ones with their reasons, with `queues` also their queues."""
    columns = ["ID", "TASK", "ARGUMENTS", "AGE", "REASON" if dead else "RETRIES"]
    rows = [_row(seen, dead=dead) for seen in messages]
    if queues:
        columns.insert(1, "QUEUE")
        rows = [[row[0], seen.queue, *row[1:]] for row, seen in zip(rows, messages, strict=True)]
    table(columns, rows, empty=empty)


def backend_example(broker: str) -> str:
    """Return the end of a hint to set a backend: an example from the broker's adapter, if any."""
    url = adapter(broker).suggested_backend
    return "" if url is None else f", for example {url}"


def _row(seen: Seen, *, dead: bool) -> list[object]:
    age, last = since(seen.peeked.sent_at), seen.reason if dead else seen.retries
    if seen.calls:
        return [seen.id, seen.task, seen.arguments(), age, last]
    if seen.named is not None:  # all but the name of its task is encrypted
        return [seen.id, seen.named, seen.problem, age, last]
    # The reason of a dead letter already says why it could not be decoded.
    unread = "?" if dead and seen.reason else f"? {seen.problem}"
    return [seen.id, unread, seen.arguments(), age, last]
