"""Shows an apply on the terminal, and asks before it changes the stack."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from cloudq.cli.output import ask, console, emit, note, say, styled
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws.stack.changes import Change, ChangeSet
from cloudq_deploy.aws.stack.watch import Event

if TYPE_CHECKING:  # loaded at a terminal alone
    from rich.live import Live
    from rich.table import Table

_SIGNS = {"Add": "+", "Modify": "~", "Remove": "-", "Import": "<"}
_WIDTH = 100


class CommandLine:
    """The `Terminal` of the commands; with `json`, standard output has nothing but JSON."""

    def __init__(self, *, yes: bool, json: bool = False) -> None:
        self._yes = yes
        self._json = json
        self._progress = Progress() if sys.stderr.isatty() else None
        self.changes: ChangeSet | None = None

    def show(self, changes: ChangeSet) -> None:
        """Print the resources that change, and their changed properties."""
        self.changes = changes
        if self._json:
            return
        for change in changes.changes:
            _show(change)
        counts = ", ".join(
            f"{sum(change.action == action for change in changes.changes)} {word}"
            for action, word in (
                ("Add", "to add"),
                ("Modify", "to change"),
                ("Import", "to take over"),
                ("Remove", "to remove"),
            )
            if any(change.action == action for change in changes.changes)
        )
        say(f"{changes.stack}: {counts}")
        for change in changes.changes:
            if change.loses_data:
                say(f"! {change.name} ({change.physical}) leaves the stack with all that it holds")

    def confirm(self, changes: ChangeSet) -> bool:
        """Ask whether to go on. Raises `ConfigurationError` without a terminal to ask at."""
        if self._yes:
            return True
        if not sys.stdin.isatty():
            raise ConfigurationError(
                f"Apply these changes to {changes.stack}? There is no terminal to ask at: add "
                "--yes; nothing was changed"
            )
        return ask(f"Apply these changes to {changes.stack}?")

    def tell(self, event: Event) -> None:
        """Print an event of the stack: at a terminal in a table that moves."""
        if self._progress is not None:
            self._progress.tell(event)
            return
        reason = f"  {event.reason}" if event.reason and event.failed else ""
        note(f"{event.at.astimezone():%H:%M:%S} {event.status:<28} {event.name}{reason}")

    def note(self, message: str) -> None:
        """Print a remark."""
        if self._progress is not None:
            self._progress.stop()
        note(message)

    def outputs(self, outputs: object) -> None:
        """Print changes and outputs as JSON, if that was asked for."""
        if self._json:
            changes = [asdict(change) for change in self.changes.changes] if self.changes else []
            emit({"changes": changes, "outputs": outputs})


class Progress:
    """A table of the resources that change, each with its state, on a terminal."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._rows: dict[str, Event] = {}

    def tell(self, event: Event) -> None:
        """Show an event; the last one of the stack ends the table."""
        from rich.live import Live

        if self._live is None:
            self._rows = {}
            self._live = Live(console=console(stderr=True), auto_refresh=False)
            self._live.start()
        self._rows[event.name] = event
        self._live.update(self._table(), refresh=True)
        if event.of_stack and not event.status.endswith("_IN_PROGRESS"):
            self.stop()

    def stop(self) -> None:
        """Leave the table as it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        from rich.table import Table

        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in ("RESOURCE", "KIND", "STATE", "TIME", ""):
            grid.add_column(column, no_wrap=bool(column), overflow="ellipsis" if column else "fold")
        for name, event in self._rows.items():
            grid.add_row(
                styled(name),
                styled(event.kind.removeprefix("AWS::")),
                styled((event.status, _style(event))),
                f"{event.at.astimezone():%H:%M:%S}",
                styled(event.reason if event.failed else ""),
            )
        return grid


def _style(event: Event) -> str:
    if event.failed or "ROLLBACK" in event.status:
        return "red"
    return "green" if event.status.endswith("_COMPLETE") else "yellow"


def _show(change: Change) -> None:
    sign = _SIGNS.get(change.action, "?")
    replaced = " (replaced)" if change.replaced else ""
    say(f"{sign} {change.kind.removeprefix('AWS::'):<28} {change.name}{replaced}")
    for each in change.differences:
        text = f"    {each.path}: {each.before} -> {each.after}"
        say(text if len(text) <= 2 * _WIDTH else text[: 2 * _WIDTH] + "...")
