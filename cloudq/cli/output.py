"""Prints results: tables and questions for people, JSON for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloudq.errors import ConfigurationError
from cloudq.messages.json_text import json_text

# A pipe has no width, and its reader wants whole lines.
_PIPE_WIDTH = 400


def console() -> Console:
    """Return standard output, as wide as the terminal or, in a pipe, very wide."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def emit(value: object, *, indent: bool = True) -> None:
    """Print JSON on standard output."""
    option = orjson.OPT_INDENT_2 if indent else 0
    typer.echo(json_text(value, option=option, default=str).decode())


def complain(message: str, *, kind: str = "error") -> None:
    """Print one line on standard error."""
    sys.stdout.flush()
    text = Text.assemble((f"{kind}: ", "bold red"), " ".join(message.split()))
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def note(message: str) -> None:
    """Print a remark on standard error, apart from the result on standard output."""
    sys.stdout.flush()
    Console(stderr=True, highlight=False).print(Text(message, "dim"), soft_wrap=True)


def say(message: str) -> None:
    """Print one line on standard output."""
    console().print(Text(message), soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table, numbers aligned right. Without rows, print `empty`."""
    listed = [[cell if isinstance(cell, Text) else _cell(cell) for cell in row] for row in rows]
    if not listed:
        say(empty)
        return
    grid = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        numeric = all(_is_number(row[place].plain) for row in listed)
        # Names and ids are copied from the screen, so they are never wrapped; other text is.
        fixed = column in ("QUEUE", "ID")
        grid.add_column(
            column,
            justify="right" if numeric else "left",
            no_wrap=fixed,
            overflow="ignore" if fixed else "fold",
        )
    for row in listed:
        grid.add_row(*row)
    _print(grid)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair per line; values of None are left out."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            grid.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    _print(grid)


def confirm(question: str, name: str, *, yes: bool) -> None:
    """Ask for confirmation: `y` or the name continues, all else raises `typer.Abort`.

    Raises `ConfigurationError` if there is no terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} There is no terminal to confirm at: add --yes")
    if input(f"{question} Type y or {name!r}: ").strip() not in ("y", "Y", "yes", name):
        raise typer.Abort


def duration(seconds: float | None) -> str:
    """Write a time span in at most two units: 40ms, 4.2s, 3m 20s, 5h 1m, 2d 3h."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.2g}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours < 24 else f"{hours // 24}d {hours % 24}h"


def since(moment: float | None) -> str:
    """Write the time that has passed since a moment in epoch seconds."""
    return duration(None if moment is None else time.time() - moment)


def local(moment: float | None) -> str | None:
    """Write a moment in epoch seconds as local time."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def shorten(text: str, length: int) -> str:
    """Return the text as one line of at most `length` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"


def _print(grid: Table) -> None:
    output = console()
    if output.is_terminal:
        output.print(grid)
        return
    with output.capture() as captured:
        output.print(grid)
    # rich pads each line with spaces.
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _cell(value: object) -> Text:
    return Text("-" if value is None else str(value))


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").replace(".", "").isdigit()
