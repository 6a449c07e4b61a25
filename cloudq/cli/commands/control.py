"""`cloudq control`: sends commands to live workers."""

from __future__ import annotations

from typing import Annotated

import typer

from cloudq.cli.commands.inspect import Destination, Timeout, Words, ask, usage
from cloudq.cli.options import JsonOption, Target, common


@common
def control(
    target: Target,
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="One of the commands below.")],
    words: Words = None,
    destination: Destination = None,
    timeout: Timeout = None,
    json: JsonOption = False,
) -> int:
    """Send a command to live workers.

    A worker obeys at its next heartbeat. Revocations are first recorded in the store, so they
    also apply to cloud functions and to workers started later.
    """
    return ask(target, "control", command, words or [], destination, timeout, json=json)


def add_to(program: typer.Typer) -> None:
    """Add `control` to the commands of `cloudq`."""
    program.command(epilog=usage("control"))(control)
