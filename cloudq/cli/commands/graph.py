"""`cloudq graph`: shows a workflow with the states of its tasks."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cloudq.canvas.graph import FORMATS, MOST, as_json
from cloudq.cli.options import JsonOption, Target, common, refuse_missing
from cloudq.cli.output import complain, emit, say
from cloudq.errors import ConfigurationError
from cloudq.operations import workflows as operations


class Format(StrEnum):
    """The forms in which a graph is printed."""

    TEXT = "text"
    DOT = "dot"
    MERMAID = "mermaid"


@common
def graph(
    target: Target,
    id: Annotated[
        str, typer.Argument(metavar="RESULT_ID", help="Id of a task, a chord or a saved group.")
    ],
    format: Annotated[
        Format,
        typer.Option("--format", "-f", help="A tree as text, or input for Graphviz or Mermaid."),
    ] = Format.TEXT,
    json: JsonOption = False,
) -> int:
    """Show the workflow of a task, with the state of each task.

    Takes the id of a task, of a chord under way, or of a saved group.
    """
    if json and format is not Format.TEXT:
        raise ConfigurationError("give --format or --json, not both")
    app = target.open()
    refuse_missing(app.conf.backend_url)
    with app:
        found = operations.graph(app, id)
    if found is None:
        complain(
            f"no record of {id}: it has not finished (give the id of a task that ran before it, or "
            "save() a group when you start it), or its record has expired"
        )
        return 1
    if json:
        emit(as_json(found))
        return 0
    for line in FORMATS[format](found):
        say(line)
    if found.cut:
        complain(f"only the first {MOST} tasks are shown", kind="warning")
    return 0


def add_to(program: typer.Typer) -> None:
    """Add `graph` to the commands of `cloudq`."""
    program.command()(graph)
