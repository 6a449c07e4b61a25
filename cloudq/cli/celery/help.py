"""The help of Celery's commands, from the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cloudq.cli.celery.rules import By, Command, Fate, Rule
from cloudq.cli.celery.table import COMMANDS, EVERYWHERE, OPTIONS


def help_of(command: Command | None) -> str:
    """Return the fates of a command's options; without one, those of the commands."""
    if command is None:
        lines = ["Usage: cloudq celery [OPTIONS] COMMAND [ARGS]...", "", "Commands:"]
        lines += [f"  {each.name:24}{fate_of(each)}" for each in COMMANDS]
        return "\n".join([*lines, "", "Options:", *_listed(EVERYWHERE)])
    if command.why:
        return f"celery {command.name}: refused: {command.why}"
    lines = [f"Usage: cloudq celery [OPTIONS] {command.name} [OPTIONS] [ARGS]...", ""]
    lines += [f"Here it is {fate_of(command)}.", "", "Options:"]
    return "\n".join([*lines, *_listed(OPTIONS[command.name]), *_listed(EVERYWHERE)])


def fate_of(command: Command) -> str:
    """Say what becomes of a command."""
    if command.why:
        return f"refused: {command.why}"
    return f"cloudq {' '.join(command.to)}" if command.to else f"cloudq celery {command.name}"


def said_of(rule: Rule) -> str:
    """Say what becomes of an option."""
    if rule.fate is not Fate.CARRIED:
        return rule.why
    if rule.by is By.SETTING:
        return f"the setting {rule.to}"
    return f"cloudq's {rule.to}" if rule.by is By.OPTION else "as in Celery"


def _listed(rules: Sequence[Rule]) -> Iterator[str]:
    for rule in rules:
        yield f"  {', '.join(rule.names):43} {rule.fate}: {said_of(rule)}"
