"""`cloudq graph`: a workflow with the states of its tasks."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cloudq.canvas.graph import FORMATS, MOST, graph_of
from cloudq.cli.options import Target, common
from cloudq.cli.output import complain, say


class Format(StrEnum):
    """How the graph is written."""

    TEXT = "text"
    DOT = "dot"
    MERMAID = "mermaid"


@common
def graph(
    target: Target,
    id: Annotated[str, typer.Argument(metavar="RESULT_ID")],
    format: Annotated[
        Format, typer.Option("--format", "-f", help="A tree, or input for another program.")
    ] = Format.TEXT,
) -> int:
    """Show the workflow that a task is part of, with the state of each task.

    Takes the id of any task that has ended, or of a group that was saved.
    """
    app = target.open()
    with app:
        found = graph_of(id, app.AsyncResult(id).backend)
    if found is None:
        complain(
            f"nothing is known of {id}: it has not ended yet (give the id of a task that ran "
            "before it, or save() a group when you start it), or its record has expired"
        )
        return 1
    for line in FORMATS[format](found):
        say(line)
    if found.cut:
        complain(f"there is more: only {MOST} tasks are shown", kind="warning")
    return 0
