"""Prints all that the command line prints: text and tables for people, JSON for programs.

No other file of the command line writes to a terminal, so that what strangers wrote (task names,
ids, errors) reaches none with its control characters, and no secret does either.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

import typer

from cloudq.amounts import lasting
from cloudq.errors import ConfigurationError
from cloudq.text import AsIs, block, json_text, masked, one_line, safe_json, text_of

# A pipe has no width, and its reader wants whole lines.
_PIPE_WIDTH = 400
_INDENT = "  "
# The longest word that no column breaks: a reason may have a path in it.
_LONG_WORD = 32
_GAP = 2
# By these rich takes what is no terminal for one.
_TERMINALS = frozenset({"FORCE_COLOR", "TTY_COMPATIBLE"})

if TYPE_CHECKING:  # loaded where something is drawn: that takes longer than most commands
    from rich.console import Console, RenderableType
    from rich.text import Text


def console(*, stderr: bool = False) -> Console:
    """Return an output for moving pictures, as wide as the terminal or, in a pipe, very wide.

    What it is given must be safe already: `safe` makes it so.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(width=None if stream.isatty() else _PIPE_WIDTH, highlight=False, stderr=stderr)


def safe(value: object) -> str:
    """Return a value as one line without control characters and secrets.

    All text for people comes through here, and through `json_text` all JSON for programs.
    """
    if isinstance(value, AsIs):
        return one_line(value.value)
    return one_line(masked(text_of(value)))


def emit(value: object, *, indent: bool = True) -> None:
    """Print JSON on standard output. Secrets are masked, but for those in an `AsIs`."""
    _write(json_text(value, indent=indent))


def emit_written(text: str) -> None:
    """Print what is JSON already, the user's own value, on standard output."""
    _write(safe_json(text))


def complain(message: str, *, kind: str = "error") -> None:
    """Print one line on standard error."""
    sys.stdout.flush()
    begin, rest = f"{safe(kind)}: ", safe(" ".join(message.split()))
    if _is_plain(sys.stderr):
        typer.echo(begin + rest, err=True)
        return
    from rich.text import Text

    _errors().print(Text.assemble((begin, "bold red"), rest), soft_wrap=True)


def complain_of(error: BaseException) -> None:
    """Print the traceback of an error on standard error."""
    sys.stdout.flush()
    lines = "".join(traceback.format_exception(error)).rstrip()
    typer.echo(block(masked(lines), indent=_INDENT), err=True)


def note(message: str) -> None:
    """Print a remark on standard error, apart from the result on standard output."""
    sys.stdout.flush()
    if _is_plain(sys.stderr):
        typer.echo(safe(message), err=True)
        return
    from rich.text import Text

    _errors().print(Text(safe(message), "dim"), soft_wrap=True)


def say(message: object, *, style: str = "") -> None:
    """Print one line on standard output."""
    if _is_plain(sys.stdout):
        _write(safe(message))
        return
    from rich.text import Text

    console().print(Text(safe(message), style), soft_wrap=True)


def say_block(text: AsIs | str) -> None:
    """Print a file or a help text, of several lines, on standard output."""
    _write(block(text.value) if isinstance(text, AsIs) else block(masked(text)))


def say_trace(text: str) -> None:
    """Print the traceback of a task, indented: no line of it passes for one of ours."""
    _write(block(masked(text.rstrip()), indent=_INDENT))


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return a cell of parts, each plain or with a style."""
    from rich.text import Text

    return Text.assemble(
        *(safe(part) if isinstance(part, str) else (safe(part[0]), part[1]) for part in parts)
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table, numbers aligned right. Without rows, print `empty`.

    On a terminal that is too narrow for its words each row is a block of its own.
    """
    listed = [[_cell(cell) for cell in row] for row in rows]
    if not listed:
        say(empty)
        return
    from rich.table import Table

    texts = [[row[place].plain for row in listed] for place in range(len(columns))]
    # Names and ids are copied from the screen, so they are never wrapped; other text is.
    fixed = [column in ("QUEUE", "ID") for column in columns]
    # A number on two lines would be read as two.
    numeric = [all(map(_is_number, column)) for column in texts]
    output = console()
    widths = _widths(columns, texts, [*map(any, zip(fixed, numeric, strict=True))], output.width)
    if output.is_terminal and widths is None:
        _blocks(columns, listed)
        return
    grid = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        grid.add_column(
            column,
            justify="right" if numeric[place] else "left",
            no_wrap=fixed[place] or numeric[place],
            overflow="ignore" if fixed[place] else "fold",
            width=widths[place] if widths else None,
        )
    for row in listed:
        grid.add_row(*row)
    print_drawn(grid)


def _widths(
    columns: Sequence[str], texts: Sequence[Sequence[str]], whole: Sequence[bool], width: int
) -> list[int] | None:
    """Return the widths of columns in which no word breaks; None if they do not fit."""
    from rich.cells import cell_len

    least = [
        max(len(column), *(_least(text, whole=whole[place]) for text in texts[place]))
        for place, column in enumerate(columns)
    ]
    spare = width - sum(least) - _GAP * (len(columns) - 1)
    if spare < 0:
        return None
    for place, column in enumerate(texts):  # what is left goes to the first that can use it
        more = min(spare, max(0, *(cell_len(text) - least[place] for text in column)))
        least[place] += more
        spare -= more
    return least


def _least(text: str, *, whole: bool) -> int:
    """Return the width in which a cell breaks between words only; very long ones may break."""
    from rich.cells import cell_len

    if whole:
        return cell_len(text)
    return max((min(cell_len(word), _LONG_WORD) for word in text.split()), default=0)


def _blocks(columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    for place, row in enumerate(rows):
        if place:
            say("")
        cells = zip(columns, row, strict=True)
        fields((column, None if cell.plain == "-" else cell) for column, cell in cells)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair per line; values of None are left out."""
    from rich.table import Table

    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            grid.add_row(name, _cell(value))
    print_drawn(grid)


def confirm(question: str, name: str, *, yes: bool) -> None:
    """Ask for confirmation: `y` or the name continues, all else raises `typer.Abort`.

    Raises `ConfigurationError` if there is no terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} There is no terminal to confirm at: add --yes")
    if input(safe(f"{question} Type y or {name!r}: ")).strip() not in ("y", "Y", "yes", name):
        raise typer.Abort


def ask(question: str) -> bool:
    """Ask on standard error, and tell whether the answer is yes."""
    return typer.confirm(safe(question), err=True)


def duration(seconds: float | None) -> str:
    """Write a time span in at most two units: 40ms, 4.2s, 3m 20s, 5h 1m, 2d 3h."""
    return "-" if seconds is None else lasting(seconds)


def since(moment: float | None) -> str:
    """Write the time that has passed since a moment in epoch seconds."""
    return duration(None if moment is None else time.time() - moment)


def local(moment: float | None) -> str | None:
    """Write a moment in epoch seconds as local time; None for one that no calendar has."""
    if moment is None:
        return None
    try:
        return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    except (ValueError, OverflowError, OSError):
        return None


def shorten(text: str, length: int) -> str:
    """Return the text as one safe line of at most `length` characters."""
    flat = safe(" ".join(text.split()))
    return flat if len(flat) <= length else flat[: length - 1] + "…"


def print_drawn(grid: RenderableType) -> None:
    """Print what rich draws, of parts that are safe already."""
    output = console()
    if output.is_terminal:
        output.print(grid)
        return
    with output.capture() as captured:
        output.print(grid)
    # rich pads each line with spaces.
    _write("\n".join(line.rstrip() for line in captured.get().split("\n")).rstrip("\n"))


def _write(text: str) -> None:
    typer.echo(text)


def _errors() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _is_plain(stream: TextIO) -> bool:
    """Tell whether rich would write lines there as they are: without colour, and unwrapped."""
    return not stream.isatty() and _TERMINALS.isdisjoint(os.environ)


def _cell(value: object) -> Text:
    from rich.text import Text

    if isinstance(value, Text):
        return value
    return Text("-" if value is None else safe(value))


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").replace(".", "").isdigit()
