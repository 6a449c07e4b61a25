"""Reads a command line of Celery's by the table, into what cloudq is to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from getopt import GetoptError, getopt, gnu_getopt
from pathlib import Path

from cloudq.cli.celery.rules import By, Command, Fate, Rule
from cloudq.cli.celery.table import COMMANDS, EVERYWHERE, OPTIONS
from cloudq.cli.options import Target
from cloudq.errors import ConfigurationError, did_you_mean
from cloudq.messages.values import is_list

_HELP = ("--help", "-h")
_APP = "--app"
_URLS = ("--broker", "--backend")
_BY_NAME = {command.name: command for command in COMMANDS}
_GROUPS = {command.name.split()[0] for command in COMMANDS if " " in command.name}


@dataclass(slots=True, kw_only=True)
class Asked:
    """A command line of Celery's as cloudq understands it.

    `words` are cloudq's own options, `rest` the words that are none; `settings` stand above the
    app's; `steps` are for this process. `notes` say what is ignored, and why.
    """

    command: Command | None
    wants_help: bool = False
    words: list[str] = field(default_factory=list[str])
    rest: Sequence[str] = ()
    named: dict[str, str] = field(default_factory=dict[str, str])
    settings: dict[str, object] = field(default_factory=dict[str, object])
    steps: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[str] = field(default_factory=list[str])

    def target(self, given: Target) -> Target:
        """Return the app that is meant; what stands before `celery` is the default.

        The app is looked for in the current folder, so `--workdir` must have been obeyed.
        """
        path = self.named.get(_APP)
        here = Target(
            app=None if path is None else found(path),
            broker=self.named.get("--broker"),
            backend=self.named.get("--backend"),
            settings=self.settings,
        )
        return here.over(given)


def asked(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Asked:
    """Read the words behind `cloudq celery`. Raises `ConfigurationError`.

    One error has the reasons of all refusals. Options of the environment come first, so that those
    of the line replace them.
    """
    variables = os.environ if environment is None else environment
    before, left = _split(argv)
    command, words = _command(left)
    made = Asked(command=command, wants_help=any(word in _HELP for word in (*before, *left)))
    if made.wants_help:
        return made
    own: Sequence[Rule] = () if command is None else OPTIONS.get(command.name, ())
    rules = [*EVERYWHERE, *own]
    if command is not None and command.name == "multi":
        # Its words are those of workers, and read for each of them.
        pairs, made.rest = _pairs(EVERYWHERE, before, stop=True)[0], words
    elif command is not None and command.why:
        raise ConfigurationError(f"celery {command.name}: {command.why}")
    else:
        pairs, rest = _pairs(rules, [*before, *words], stop=False)
        made.rest = _checked(command, rest)
    wrong: list[str] = []
    for rule, value in [*_of_environment(EVERYWHERE, own, command, variables), *pairs]:
        wrong += _heed(made, rule, value)
    if wrong:
        raise ConfigurationError("; ".join(wrong))
    return made


def found(path: str) -> str:
    """Return cloudq's path of an app that Celery finds by this one.

    `proj` stands for `proj.celery` where there is such a module, and `proj.celery_app` for an
    attribute of `proj` where there is none.
    """
    if ":" in path:
        return path
    if _is_module(f"{path}.celery"):
        return f"{path}.celery"
    before, dot, last = path.rpartition(".")
    if dot and not _is_module(path) and _is_module(before):
        return f"{before}:{last}"
    return path


def _is_module(dotted: str) -> bool:
    """Tell whether a file is this module, without importing its packages."""
    places = [Path.cwd(), *(Path(entry) for entry in sys.path if entry)]
    file = Path(*dotted.split("."))
    return any(
        (place / file).with_suffix(".py").is_file() or (place / file / "__init__.py").is_file()
        for place in places
    )


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words into the options before the command, and the command with the rest."""
    words = list(argv)
    try:
        _, left = getopt(_no_help(words), *_spellings(EVERYWHERE))
    except GetoptError as error:
        raise ConfigurationError(f"celery: {error}: options follow the command") from error
    place = len(words)
    if left:
        # Words are equal to others of their kind: the command is the first of what is left.
        place = next(i for i in range(len(words)) if _no_help(words[i:]) == left)
    return words[:place], words[place:]


def _no_help(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _HELP]


def _command(words: Sequence[str]) -> tuple[Command | None, list[str]]:
    if not words:
        return None, []
    count = 2 if words[0] in _GROUPS else 1
    name = " ".join(words[:count])
    if name in _BY_NAME:
        return _BY_NAME[name], list(words[count:])
    known = [*dict.fromkeys(each.name.split()[0] for each in COMMANDS)]
    if count == 2:
        known = [each.name for each in COMMANDS if each.name.startswith(f"{words[0]} ")]
        if len(words) == 1 or words[1] in _HELP:
            raise ConfigurationError(f"celery {words[0]}: give one of {', '.join(known)}")
    hint = did_you_mean(name, known, otherwise=f"it has {', '.join(known)}")
    raise ConfigurationError(f"celery has no command {name!r}: {hint}")


def _pairs(
    rules: Sequence[Rule], words: Sequence[str], *, stop: bool
) -> tuple[list[tuple[Rule, str]], list[str]]:
    by_name = {name: rule for rule in rules for name in rule.names}
    read = getopt if stop else gnu_getopt
    try:
        options, rest = read(list(words), *_spellings(rules))
    except GetoptError as error:
        known = [name for name in by_name if name.startswith("--")]
        hint = did_you_mean(f"--{error.opt}", known, otherwise="see --help")
        raise ConfigurationError(f"celery: {error}: {hint}") from error
    return [(by_name[name], value) for name, value in options], rest


def _spellings(rules: Sequence[Rule]) -> tuple[str, list[str]]:
    """Return the names as getopt reads them: letters, and words."""
    pairs = [(name, rule.takes) for rule in rules for name in rule.names]
    short = "".join(name[1] + ":" * takes for name, takes in pairs if not name.startswith("--"))
    return short, [name[2:] + "=" * takes for name, takes in pairs if name.startswith("--")]


def _checked(command: Command | None, rest: Sequence[str]) -> Sequence[str]:
    if command is not None and command.most is not None and len(rest) > command.most:
        extra = rest[command.most]
        hint = (
            "settings are the app's own, or the environment's: CLOUDQ_..."
            if "." in extra.partition("=")[0] and "=" in extra
            else "an option's value stands behind it"
        )
        raise ConfigurationError(f"celery {command.name}: {extra!r} is one word too many: {hint}")
    return rest


def _of_environment(
    everywhere: Sequence[Rule],
    own: Sequence[Rule],
    command: Command | None,
    variables: Mapping[str, str],
) -> Iterator[tuple[Rule, str]]:
    """Yield the options that variables give: `CELERY_WORKER_CONCURRENCY=4` and the like."""
    named = [(rule, rule.variables) for rule in everywhere]
    if command is not None:
        named += [(rule, [_variable(command, rule)]) for rule in own]
    for rule, names in named:
        value = next((variables[name] for name in names if variables.get(name)), None)
        if value is None:
            continue
        if rule.takes:
            yield rule, value
        elif value.lower() not in ("0", "false", "no", "off", "n", "f"):
            yield rule, ""


def _variable(command: Command, rule: Rule) -> str:
    return f"CELERY_{command.name}_{rule.name.lstrip('-')}".upper().replace("-", "_")


def _heed(made: Asked, rule: Rule, value: str) -> list[str]:
    """Note what an option asks for; return why it cannot be."""
    if value in rule.fine:
        return []
    said = f"{rule.name} {value}".rstrip()
    if rule.fate is Fate.REFUSED:
        return [f"{said}: {rule.why}"]
    if rule.fate is Fate.IGNORED:
        made.notes.append(f"{said} is ignored: {rule.why}")
        return []
    try:
        ours = rule.read(value)
    except ValueError as error:
        return [f"{said}: {error}"]
    if rule.by is By.SETTING:
        made.settings[rule.to] = ours
    elif rule.by is By.PROCESS:
        made.steps[rule.to] = str(ours)
    elif rule.to == _APP or rule.to in _URLS:
        made.named[rule.to] = str(ours)
    elif not rule.takes:
        made.words.append(rule.to)
    else:
        given = ours if is_list(ours) else [ours]
        made.words += [word for each in given for word in (rule.to, str(each))]
    return []
