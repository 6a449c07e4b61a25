"""`cloudq control`: tells live workers what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from cloudq.cli.commands.inspect import Destination, Timeout, Words, ask
from cloudq.cli.options import JsonOption, Target, common


@common
def control(
    target: Target,
    command: Annotated[str, typer.Argument(metavar="COMMAND")],
    words: Words = None,
    destination: Destination = None,
    timeout: Timeout = None,
    json: JsonOption = False,
) -> int:
    """Tell live workers what to do.

    A worker obeys at its next heartbeat. Revocations are recorded in the store first, so they
    hold for functions too, and for workers that come later.
    """
    return ask(target, "control", command, words or [], destination, timeout, json=json)
