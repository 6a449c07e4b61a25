"""`cloudq celery`: takes Celery's command line."""

from __future__ import annotations

import socket
import subprocess
import sys

import typer

from cloudq import __version__
from cloudq.cli.celery import own
from cloudq.cli.celery.help import help_of
from cloudq.cli.celery.process import is_parent, move
from cloudq.cli.celery.reading import Asked, asked
from cloudq.cli.celery.several import several
from cloudq.cli.celery.values import in_file_name
from cloudq.cli.options import Target
from cloudq.cli.output import note, say, say_block
from cloudq.cli.program import main


def celery(context: typer.Context) -> int:
    """Take Celery's command line, with cloudq celery in place of celery.

    cloudq celery -A proj worker --loglevel INFO -c 4 -P prefork -E -O fair

    Each option is carried over to cloudq's own, ignored with one line that says why, or refused
    with its reason: cloudq celery worker --help lists them.
    """
    found = asked(context.args)
    if found.wants_help:
        say_block(help_of(found.command))
        return 0
    if "version" in found.steps:
        say(f"cloudq {__version__}")
        return 0
    if found.command is None:
        say_block(help_of(None))
        return 0
    for remark in found.notes:
        note(remark)
    move(found.steps)
    given = context.obj if isinstance(context.obj, Target) else Target()
    return _run(found, found.command.name, found.target(given))


def _run(found: Asked, name: str, target: Target) -> int:
    if name == "multi":
        return several(found.rest, target)
    hostname = _hostname(found)
    if is_parent(found.steps, hostname):
        return 0
    if name == "result":
        return own.result(target, found.rest, found.steps)
    if name == "purge":
        own.purge(target, found.steps)
    elif name == "report":
        own.report(target)
    elif name == "shell":
        own.shell(target, found.steps)
    else:
        if "purge" in found.steps:
            _purge_first(found, target)
        return main(_words(found, hostname), target)
    return 0


def _words(found: Asked, hostname: str) -> list[str]:
    """Return the words of cloudq's own command."""
    assert found.command is not None
    words = [*found.command.to, *found.words]
    if "list" in found.steps:
        return [*found.command.to, "--help"]
    if "dump" in found.steps:
        words[0] = "events"
    if "pidfile" in found.steps:
        words += ["--pidfile", in_file_name(found.steps["pidfile"], hostname)]
    return [*words, *(["--", *found.rest] if found.rest else [])]


def _purge_first(found: Asked, target: Target) -> None:
    """Empty the queues of a worker before it starts, in a process that ends before."""
    command = [sys.executable, "-m", "cloudq", "celery", "purge", "--force"]
    options = {"-A": target.path, "-b": target.broker, "--result-backend": target.backend}
    for option, value in options.items():
        command += [option, value] if value else []
    for option in ("--queues", "--exclude-queues"):
        if option in found.words:
            command += [option, found.words[found.words.index(option) + 1]]
    subprocess.run(command, check=True)


def _hostname(found: Asked) -> str:
    words = found.words
    if "--hostname" in words:
        return words[words.index("--hostname") + 1]
    return f"celery@{socket.gethostname()}"


def add_to(program: typer.Typer) -> None:
    """Add `celery` to the commands of `cloudq`."""
    program.command(
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "help_option_names": [],
        }
    )(celery)
