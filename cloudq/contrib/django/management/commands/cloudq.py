"""`python manage.py cloudq ...`: the command line of cloudq, for the project's app."""

# Django has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import sys
from argparse import REMAINDER, ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from django.core.management.base import BaseCommand, CommandError

APP = "cloudq.contrib.django.project:app"
# Options of manage.py itself, which it has heeded already.
_WITH_VALUE = ("--settings", "--pythonpath")


class Command(BaseCommand):
    """The whole command line: `manage.py cloudq worker`, `manage.py cloudq dead list`, ..."""

    help = "Run a command of cloudq for this project: worker, beat, call, queues, dead, ..."
    requires_system_checks: Sequence[str] = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take all words as they are, for `call_command`."""
        parser.add_argument("words", nargs=REMAINDER)

    def run_from_argv(self, argv: list[str]) -> None:
        """Hand the words on to the command line, and exit with its code."""
        sys.exit(run(own_words(argv[2:])))

    def handle(self, *args: Any, **options: Any) -> None:
        """Do as the command line does, for `call_command("cloudq", ...)`. Raises `CommandError`."""
        code = run([*map(str, args), *options.get("words", ())])
        if code:
            raise CommandError(f"cloudq ended with {code}", returncode=code)


def own_words(words: Sequence[str]) -> list[str]:
    """Return the words without the options that manage.py has heeded."""
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith(tuple(f"{option}=" for option in _WITH_VALUE)):
            found.append(word)
    return found


def run(words: Sequence[str]) -> int:
    """Run one command for the project's app, in this process."""
    os.environ.setdefault("CLOUDQ_APP", APP)
    # What a command starts anew is `python -m cloudq`: it must find the project's modules too.
    paths = [sys.path[0] or os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    sys.argv = ["cloudq", *words]
    # By its name, as a script starts it: the layers know no way from here to the commands.
    return import_module("cloudq.cli").main(words)
