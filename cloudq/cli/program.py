"""Registers the commands, runs one, and turns an error into one line and an exit code."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

import cloudq
from cloudq.cli.coercion import spare_pydantic
from cloudq.cli.options import AppOption, BackendOption, BrokerOption, DebugOption, Target
from cloudq.cli.output import complain, complain_of, say, say_block
from cloudq.cli.overview import EXIT_CODES
from cloudq.driver import Code
from cloudq.errors import (
    CloudQError,
    ConfigurationError,
    EncodeError,
    InvalidArguments,
    ServiceError,
    UnknownTask,
    install_hint,
)
from cloudq.text import describe, text_of

# The commands in the order of the help (groups come last there), each with its module, whose
# `add_to` adds it. Only the module of the command that is asked for is imported; for the help, all.
COMMANDS = {
    **{
        name: f"cloudq.cli.commands.{name}"
        for name in (
            *("worker", "beat", "schedules", "multi", "call", "result", "graph", "workflows"),
            *("queues", "dead", "inspect", "control", "status", "top", "cost", "events", "tasks"),
            *("migrate", "sweep", "keys", "dashboard", "audit", "brokers", "doctor", "demo"),
            "celery",
        )
    },
    "deploy": "cloudq_deploy.command",
    "init": "cloudq_deploy.command",
}
# Options of the program itself that are followed by a value.
_WITH_VALUE = frozenset({"-A", "--app", "-b", "--broker", "--backend"})

_HELP = ("-h", "--help")

_WRONG_USE = (ConfigurationError, InvalidArguments, UnknownTask, EncodeError)
# Errors of a service about names and rights, which are a matter of configuration.
_WRONG_NAME = frozenset(
    {
        *(Code.NOT_FOUND, Code.EXISTS, Code.INVALID, Code.UNSUPPORTED),
        *(Code.CREDENTIALS, Code.DENIED),
    }
)

OK, FAILED, UNUSABLE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141


def _version(asked: bool) -> None:
    if asked:
        say(f"cloudq {cloudq.__version__}")
        raise typer.Exit


def root(
    context: typer.Context,
    app: AppOption = None,
    broker: BrokerOption = None,
    backend: BackendOption = None,
    debug: DebugOption = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run, inspect and deploy tasks on the queues of SQS, Pub/Sub, Service Bus or SQLite."""
    given = Target(app=app, broker=broker, backend=backend)
    context.obj = given.over(context.obj) if isinstance(context.obj, Target) else given


def program(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """Make the program with the commands of these names; `deploy` and `init` if installed."""
    cli = typer.Typer(
        name="cloudq",
        help=cloudq.__doc__,
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": list(_HELP), "max_content_width": 100},
        epilog=EXIT_CODES,
    )
    cli.callback()(root)
    for module in dict.fromkeys(COMMANDS[name] for name in names):
        try:
            import_module(module).add_to(cli)
        except ModuleNotFoundError:
            if module != COMMANDS["deploy"]:
                raise
    return cli


def main(argv: Sequence[str] | None = None, target: Target | None = None) -> int:
    """Run one command and return its exit code; an error is one line on standard error.

    What the words do not say of the app is taken from `target`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        command = typer.main.get_command(_program_for(arguments))
        _prepare(command)
        if argv is None:
            # What is imported stays: the collector need not look through it, not at the end either.
            gc.freeze()
            gc.enable()
        code = command.main(arguments, prog_name="cloudq", standalone_mode=False, obj=target)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nothing is left to flush at exit: whoever read our output has gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # user modules and SDKs run in here
        if "--debug" in arguments and not isinstance(error, typer.TyperException | typer.Abort):
            complain_of(error)
        return _report(error)
    return code if isinstance(code, int) else OK


def _program_for(arguments: Sequence[str]) -> typer.Typer:
    """Make the program with the command that is asked for alone, or with all.

    Raises `ConfigurationError` when its package is not installed.
    """
    name = _asked(arguments)
    if name is None:
        return program(() if "--version" in arguments else COMMANDS)
    try:
        import_module(COMMANDS[name])
    except ModuleNotFoundError as error:
        if COMMANDS[name] != COMMANDS["deploy"]:
            raise
        raise ConfigurationError(
            f"`cloudq {name}` needs the deploy extra ({error.name}): {install_hint('deploy')}"
        ) from error
    return program([name])


def _prepare(command: Any) -> None:
    """Have options read without pydantic, and their help shown as it is written.

    No `<bool>` stands behind those without a value, and nothing in brackets passes for a style.
    """
    context = typer.Context(command, help_option_names=list(_HELP))
    for option in command.get_params(context):
        if getattr(option, "is_flag", False):
            option.metavar = ""
        if getattr(option, "help", None):
            option.help = option.help.replace("[", r"\[")
        spare_pydantic(option)
    for inner in getattr(command, "commands", {}).values():
        _prepare(inner)


def _asked(arguments: Sequence[str]) -> str | None:
    """The name of the command that is asked for; None if it is none of ours."""
    words = iter(arguments)
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word if word in COMMANDS else None
    return None


def _report(error: Exception) -> int:
    if isinstance(error, typer.TyperException):
        return _usage(error)
    if isinstance(error, typer.Abort):
        complain("nothing was done", kind="aborted")
        return FAILED
    if isinstance(error, CloudQError):
        complain(describe(error))
        return UNUSABLE if _is_wrong_use(error) else FAILED
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        complain(f"{error.filename}: {error.strerror}")
        return UNUSABLE
    said = f"{type(error).__name__}: {text_of(error)}"
    complain(f"{said} (unexpected; --debug shows the traceback)")
    return FAILED


def _is_wrong_use(error: CloudQError) -> bool:
    """Tell whether the words or the settings are wrong, and not a service, a task or a wait."""
    if isinstance(error, ServiceError):
        return error.code in _WRONG_NAME
    return isinstance(error, _WRONG_USE)


def _usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    # pydantic puts "Value error, " before the message of a check.
    message = error.format_message().replace("Value error, ", "")
    if context is not None and type(error).__name__ == "NoArgsIsHelpError":
        say_block(message)
        return OK
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    complain(message.rstrip(".") + _misplaced(error, context) + hint)
    return UNUSABLE


def _misplaced(error: typer.TyperException, context: typer.Context | None) -> str:
    """Say where an option belongs that stands behind a group and before the group's command."""
    option = getattr(error, "option_name", None)
    commands = getattr(context.command, "commands", None) if context is not None else None
    if context is None or option not in _WITH_VALUE or not commands:
        return ""
    return f"; options follow the command: {context.info_name} {next(iter(commands))} {option}"
