"""`cloudq inspect`: asks live workers about their state."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cloudq.app import CloudQ
from cloudq.cli.options import JsonOption, Target, common, refuse_memory, refuse_missing
from cloudq.cli.output import complain, emit, note, say
from cloudq.cli.readers import is_cloud
from cloudq.errors import ConfigurationError
from cloudq.messages.values import is_list, is_object
from cloudq.monitoring.command_registry import BUILTIN, Kind, Spec
from cloudq.monitoring.heartbeats import Heartbeat
from cloudq.operations import task_actions
from cloudq.operations.audit import local_actor
from cloudq.operations.workers import log_told

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARGUMENTS", help="Its own arguments.", show_default=False),
]
Destination = Annotated[
    str | None,
    typer.Option(
        "-d", "--destination", metavar="NAME,...", help="Ask only these workers. Default: all."
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "-t",
        "--timeout",
        min=0,
        metavar="SECONDS",
        help="Time to wait for replies. Default: one heartbeat interval plus 5 s.",
    ),
]


def usage(kind: Kind) -> str:
    """List the built-in commands of a kind, for the help."""
    lines = [f"{spec.usage()}: {spec.help}" for spec in BUILTIN if spec.kind == kind]
    return "\n".join(lines)


@common
def inspect(
    target: Target,
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="One of the commands below.")],
    words: Words = None,
    destination: Destination = None,
    timeout: Timeout = None,
    json: JsonOption = False,
) -> int:
    """Ask live workers about their state.

    A worker replies at its next heartbeat. --json prints one object, from worker to reply. The
    exit code is 1 if no worker has replied.
    """
    return ask(target, "inspect", command, words or [], destination, timeout, json=json)


def ask(
    target: Target,
    kind: Kind,
    command: str,
    words: list[str],
    destination: str | None,
    timeout: float | None,
    *,
    json: bool,
) -> int:
    """Send a command, print the replies, and return the exit code."""
    app = target.open()
    refuse_memory(app)
    with app:
        spec = _find(app, kind, command)
        arguments = spec.parse(words)
        refuse_missing(app.conf.backend_url)
        if spec.name == "revoke":
            return _revoke(app, arguments["task_id"], json=json)
        chosen = chosen_workers(app, destination)
        name, sent = _recorded(app, spec, arguments)
        found: dict[str, Any] = {}
        if chosen:
            found = app.control.call(
                name,
                sent,
                destination=[heart.hostname for heart in chosen],
                timeout=timeout,
                # Replies may take seconds, so each is shown as it arrives.
                heard=None if json else _show,
            )
            if kind == "control":
                names = None if destination is None else [heart.hostname for heart in chosen]
                by = local_actor()
                log_told(app, spec.name, arguments, found, by=by, workers=names)
    if json:
        emit(found)
    if not chosen:
        complain(nobody(app), kind="note")
        return 1
    silent = [heart.hostname for heart in chosen if heart.hostname not in found]
    for name in silent:
        complain(f"{name} did not reply in time; use --timeout to wait longer", kind="note")
    failed = any(isinstance(reply, dict) and "error" in reply for reply in found.values())
    return 1 if failed or not found else 0


def nobody(app: CloudQ) -> str:
    """Say that no worker is there, and what else may run tasks."""
    if is_cloud(app):
        return (
            "no live worker found in this store (cloud functions have no heartbeat and cannot be "
            "asked; they do obey revocations)"
        )
    return "no live worker found in this store: `cloudq worker` starts one"


def _revoke(app: CloudQ, ids: list[str], *, json: bool) -> int:
    """Record revocations; no worker has to reply."""
    known = app.AsyncResult(ids[0]).backend.records(ids) if ids else {}
    ended = task_actions.revoke(app, ids, by=local_actor()).ended
    done = {id: id not in ended for id in ids}
    if json:
        emit(done)
        return 0
    for id, revoked in done.items():
        say(f"{id}: {'revoked' if revoked else 'has already finished'}")
    new = [id for id in ids if id not in known and done[id]]
    if new:
        note(f"nothing is recorded of {', '.join(new)}: it will not start, if there is such a task")
    return 0


def _recorded(app: CloudQ, spec: Spec, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Record the revocations of a terminate; return the command to send to workers."""
    if spec.name != "terminate":
        return spec.name, arguments
    app.control.revoke(arguments["task_id"], signal=arguments["signal"])
    return "revoke", {**arguments, "terminate": True}


def chosen_workers(app: CloudQ, destination: str | None) -> list[Heartbeat]:
    """Return the live workers named. Raises `ConfigurationError` for one that is not alive."""
    alive = app.control.heartbeats.alive()
    if destination is None:
        return alive
    names = [name.strip() for name in destination.split(",") if name.strip()]
    known = {heart.hostname: heart for heart in alive}
    missing = [name for name in names if name not in known]
    if missing or not names:
        living = ", ".join(known) or "none"
        raise ConfigurationError(
            f"no live worker {', '.join(missing) or '?'}; live workers: {living}"
        )
    return [known[name] for name in names]


def _find(app: CloudQ, kind: Kind, name: str) -> Spec:
    spec = app.control.registry.find(name, kind)
    if spec.kind != kind:
        raise ConfigurationError(
            f"{name} is not a command of {kind}: use cloudq {spec.kind} {name}"
        )
    return spec


def _show(hostname: str, reply: Any) -> None:
    if is_object(reply):
        pairs = reply
        if set(pairs) == {"ok"}:
            text = str(pairs["ok"])
            if "\n" in text:
                say(f"{hostname}:")
                for line in text.splitlines():
                    say(f"  {line}")
            else:
                say(f"{hostname}: {text}")
            return
        if set(pairs) == {"error"}:
            complain(f"{hostname}: {pairs['error']}")
            return
        say(f"{hostname}:" if pairs else f"{hostname}: nothing")
        for name, value in pairs.items():
            say(f"  {name}: {_flat(value)}")
        return
    entries = reply if is_list(reply) else [reply]
    say(f"{hostname}: {len(entries) or 'nothing'}")
    for entry in entries:
        say(f"  {_flat(entry)}")


def _flat(value: Any) -> str:
    """Write a part of a reply as one line; a task as its id and name."""
    if not is_object(value):
        return str(value)
    pairs = value
    request = pairs.get("request") or pairs
    if "id" in request and "name" in request:
        return f"{request['id']}  {request['name']}"
    return ", ".join(f"{name}={each}" for name, each in pairs.items())


def add_to(program: typer.Typer) -> None:
    """Add `inspect` to the commands of `cloudq`."""
    program.command(epilog=usage("inspect"))(inspect)
