"""What an apply shows on a terminal, and what it asks."""

from __future__ import annotations

import sys
from dataclasses import asdict

import typer

from cloudq.cli.output import emit, note, say
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws.stack.changes import Change, ChangeSet
from cloudq_deploy.aws.stack.watch import Event

_SIGNS = {"Add": "+", "Modify": "~", "Remove": "-", "Import": "<"}
_WIDTH = 100


class Terminal:
    """A `Screen` on standard output; with `json`, standard output has JSON alone."""

    def __init__(self, *, yes: bool, json: bool = False) -> None:
        self._yes = yes
        self._json = json
        self.changes: ChangeSet | None = None

    def show(self, changes: ChangeSet) -> None:
        """The resources that change, and of each what."""
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
                say(f"! {change.name} ({change.physical}) leaves the stack with what is in it")

    def confirm(self, changes: ChangeSet) -> bool:
        """Whether to go on."""
        if self._yes:
            return True
        if not sys.stdin.isatty():
            raise ConfigurationError(
                f"apply these changes of {changes.stack}? There is no terminal to ask at: add "
                "--yes; nothing was changed"
            )
        return typer.confirm(f"Apply these changes of {changes.stack}?", err=True)

    def tell(self, event: Event) -> None:
        """One event of the stack."""
        reason = f"  {event.reason}" if event.reason and event.failed else ""
        note(f"{event.at.astimezone():%H:%M:%S} {event.status:<28} {event.name}{reason}")

    def note(self, message: str) -> None:
        """A remark."""
        note(message)

    def outputs(self, outputs: object) -> None:
        """The end, as JSON where that was asked for."""
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
