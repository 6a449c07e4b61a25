"""`cloudq celery multi`: several workers by Celery's words, run by `cloudq multi`."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import replace

from cloudq.cli.celery.reading import asked
from cloudq.cli.commands.multi import Order, Verb, carry_out, parsed
from cloudq.cli.options import Target
from cloudq.cli.output import note, say
from cloudq.errors import ConfigurationError, did_you_mean

# A stop waits here in any case, for it to be known that a worker has ended.
_VERBS = {
    "start": Verb.START,
    "stop": Verb.STOP,
    "stopwait": Verb.STOP,
    "stop_verify": Verb.STOP,
    "restart": Verb.RESTART,
    "kill": Verb.KILL,
    "show": Verb.SHOW,
}
_TOLD = ("names", "expand")
_QUIET = ("--nosplash", "--quiet", "-q", "--verbose", "--no-color")
_SIGNAL = re.compile(r"-(?:SIG)?([A-Z]{3,}[12]?|\d{1,2})")
_PREFIX = "--range-prefix"
_PER_WORKER = re.compile(r"%n%[iI]")


def several(words: Sequence[str], target: Target) -> int:
    """Run `multi` with these words; return the exit code. Raises `ConfigurationError`."""
    if not words:
        raise ConfigurationError(f"celery multi: give one of {', '.join((*_VERBS, *_TOLD))}")
    word, *left = words
    template = left.pop(0) if word == "expand" and left else ""
    left = [each for each in left if each not in _QUIET]
    prefix, left = _valued(_PREFIX, left)
    verb, left = _by_signal(word, left)
    order = replace(parsed(left, prefix or "celery"), program=("celery", "worker"))
    order = _files(order)
    if word in _TOLD:
        for name in order.names:
            say(template.replace("%n", name) if template else name)
        return 0
    named = {"-A": target.app, "-b": target.broker, "--result-backend": target.backend}
    given = [part for option, value in named.items() if value for part in (option, value)]
    order = replace(order, options=[*given, *order.options])
    if verb in (Verb.START, Verb.RESTART, Verb.SHOW):
        _check(order)
    return carry_out(verb, order)


def _files(order: Order) -> Order:
    """Name the files as Celery does: one for all the processes of a worker."""
    return replace(
        order,
        pidfile=_PER_WORKER.sub("%n", order.pidfile),
        logfile=_PER_WORKER.sub("%n", order.logfile),
    )


def _by_signal(word: str, words: Sequence[str]) -> tuple[Verb, list[str]]:
    """Read the verb, and the signal of a stop among the words."""
    if word not in _VERBS:
        if word in _TOLD:
            return Verb.SHOW, list(words)
        known = [*_VERBS, *_TOLD]
        hint = did_you_mean(word, known, otherwise=f"it has {', '.join(known)}")
        raise ConfigurationError(f"celery multi has no command {word!r}: {hint}")
    verb, left = _VERBS[word], list(words)
    if verb is Verb.START or verb is Verb.SHOW:
        return verb, left
    for each in words:
        found = _SIGNAL.fullmatch(each)
        if found is None:
            continue
        left.remove(each)
        number = _number(found[1])
        if number is signal.SIGKILL and verb is Verb.STOP:
            return Verb.KILL, left
        if number not in (signal.SIGTERM, signal.SIGINT):
            raise ConfigurationError(
                f"celery multi {word} {each}: a worker stops by TERM, and at once by KILL"
            )
    return verb, left


def _number(text: str) -> signal.Signals | None:
    try:
        return signal.Signals(int(text)) if text.isdigit() else signal.Signals[f"SIG{text}"]
    except (KeyError, ValueError):
        return None


def _valued(option: str, words: Sequence[str]) -> tuple[str, list[str]]:
    """Take an option with its value out of the words."""
    left = list(words)
    for place, word in enumerate(left):
        name, equals, value = word.partition("=")
        if name == option and equals:
            return value, [*left[:place], *left[place + 1 :]]
        if name == option and place + 1 < len(left):
            return left[place + 1], [*left[:place], *left[place + 2 :]]
    return "", left


def _check(order: Order) -> None:
    """Read each worker's options before any is started; say what is ignored once."""
    notes: list[str] = []
    for node in order.nodes():
        notes += asked(["worker", *node.options]).notes
    for remark in dict.fromkeys(notes):
        note(remark)
