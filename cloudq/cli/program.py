"""Registers the commands, runs one, and turns an error into one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

import cloudq
from cloudq.cli.commands import (
    beat,
    brokers,
    call,
    control,
    dead,
    demo,
    doctor,
    events,
    graph,
    inspect,
    migrate,
    multi,
    queues,
    result,
    schedules,
    status,
    sweep,
    tasks,
    worker,
)
from cloudq.cli.options import AppOption, BackendOption, BrokerOption, DebugOption, Target
from cloudq.cli.output import complain
from cloudq.errors import CloudQError, ConfigurationError, install_hint

# Commands of the deploy package: imported only when one of them, or the help, is asked for.
_DEPLOY = "cloudq_deploy.command"
_DEPLOY_COMMANDS = frozenset({"deploy", "init"})

OK, FAILED, UNUSABLE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141

cli = typer.Typer(
    name="cloudq",
    help=cloudq.__doc__,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 130 interrupted.",
)
cli.command()(worker.worker)
cli.command()(beat.beat)
cli.add_typer(schedules.cli, name="schedules")
cli.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    multi.multi
)
cli.command(cls=call.CallCommand)(call.call)
cli.command()(result.result)
cli.command()(graph.graph)
cli.add_typer(queues.cli, name="queues")
cli.add_typer(dead.cli, name="dead")
cli.command(epilog=inspect.usage("inspect"))(inspect.inspect)
cli.command(epilog=inspect.usage("control"))(control.control)
cli.command()(status.status)
cli.command()(events.events)
cli.add_typer(tasks.cli, name="tasks")
cli.command()(migrate.migrate)
cli.command()(sweep.sweep)
cli.command()(brokers.brokers)
cli.command()(doctor.doctor)
cli.command()(demo.demo)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cloudq {cloudq.__version__}")
        raise typer.Exit


@cli.callback()
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
    context.obj = Target(app=app, broker=broker, backend=backend)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one line on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _add_deploy(arguments)
        command = typer.main.get_command(cli)
        code = command.main(arguments, prog_name="cloudq", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nothing is left to flush at exit: whoever read our output has gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # user modules and SDKs run in here
        if "--debug" in arguments and not isinstance(error, typer.TyperException | typer.Abort):
            traceback.print_exc()
        return _report(error)
    return code if isinstance(code, int) else OK


def _add_deploy(arguments: Sequence[str]) -> None:
    """Add the deploy commands if one of them or the help is asked for.

    Raises `ConfigurationError` when one is asked for and its package is not installed.
    """
    named = {group.name for group in cli.registered_groups}
    if "deploy" in named or not (
        not arguments or {*_DEPLOY_COMMANDS, "-h", "--help"} & {*arguments}
    ):
        return
    try:
        import_module(_DEPLOY).add_to(cli)
    except ModuleNotFoundError as error:
        asked = next((word for word in arguments if word in _DEPLOY_COMMANDS), None)
        if asked is not None:
            raise ConfigurationError(
                f"`cloudq {asked}` needs the deploy extra ({error.name}): {install_hint('deploy')}"
            ) from error


def _report(error: Exception) -> int:
    if isinstance(error, typer.TyperException):
        return _usage(error)
    if isinstance(error, typer.Abort):
        complain("nothing was done", kind="aborted")
        return FAILED
    if isinstance(error, CloudQError):
        complain(str(error))
        return UNUSABLE
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        complain(f"{error.filename}: {error.strerror}")
        return UNUSABLE
    complain(f"{type(error).__name__}: {error} (unexpected; --debug shows the traceback)")
    return FAILED


def _usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    # pydantic puts "Value error, " before the message of a check.
    message = error.format_message().replace("Value error, ", "")
    if context is not None and type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return OK
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    complain(message.rstrip(".") + hint)
    return UNUSABLE
