"""The options by which `cloudq dead` chooses dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from cloudq.cli.times import span
from cloudq.operations.dead_letters import DeadFilter

QueueArgument = Annotated[
    str | None, typer.Argument(metavar="QUEUE", help="Name of the queue. Default: all.")
]
IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Ids, as `dead list` shows them.")
]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", metavar="GLOB", help="Only tasks whose name matches, such as 'shop.*'."),
]
ErrorOption = Annotated[
    str | None, typer.Option("--error", metavar="TEXT", help="Only with this text in the reason.")
]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Only with exactly this reason.")
]
ExceptionOption = Annotated[
    str | None,
    typer.Option("--exception", metavar="CLASS", help="Only of this exception: ValueError."),
]
OlderOption = Annotated[
    str | None,
    typer.Option("--older-than", metavar="SPAN", help="Only sent longer ago: 90s, 10m, 2h or 3d."),
]
NewerOption = Annotated[
    str | None, typer.Option("--newer-than", metavar="SPAN", help="Only sent since: 90s, 10m, 2h.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All dead letters.")]
MostOption = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="So many at most.")
]


def chosen_by(
    task: str | None,
    error: str | None,
    reason: str | None,
    exception: str | None,
    older_than: str | None,
    newer_than: str | None,
    ids: Sequence[str] | None = None,
) -> DeadFilter:
    """Make a filter of the options. Raises `ConfigurationError`."""
    return DeadFilter(
        task=task,
        error=error,
        reason=reason,
        exception=exception,
        older_than=span("--older-than", older_than),
        newer_than=span("--newer-than", newer_than),
        ids=tuple(ids or ()),
    )
