"""Shows an apply on the terminal, and asks before it changes the stack."""

from __future__ import annotations

import sys
from dataclasses import asdict

from cloudq.cli.output import ask, emit, note, say
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws.stack.changes import Change, ChangeSet
from cloudq_deploy.aws.stack.watch import Event

_SIGNS = {"Add": "+", "Modify": "~", "Remove": "-", "Import": "<"}
_WIDTH = 100


class CommandLine:
    """The `Terminal` of the commands; with `json`, standard output has nothing but JSON."""

    def __init__(self, *, yes: bool, json: bool = False) -> None:
        self._yes = yes
        self._json = json
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
        """Print an event of the stack."""
        reason = f"  {event.reason}" if event.reason and event.failed else ""
        note(f"{event.at.astimezone():%H:%M:%S} {event.status:<28} {event.name}{reason}")

    def note(self, message: str) -> None:
        """Print a remark."""
        note(message)

    def outputs(self, outputs: object) -> None:
        """Print changes and outputs as JSON, if that was asked for."""
        if self._json:
            changes = [asdict(change) for change in self.changes.changes] if self.changes else []
            emit({"changes": changes, "outputs": outputs})


def _show(change: Change) -> None:
    sign = _SIGNS.get(change.action, "?")
    replaced = " (replaced)" if change.replaced else ""
    say(f"{sign} {change.kind.removeprefix('AWS::'):<28} {change.name}{replaced}")
    for each in change.differences:
        text = f"    {each.path}: {each.before} -> {each.after}"
        say(text if len(text) <= 2 * _WIDTH else text[: 2 * _WIDTH] + "...")
