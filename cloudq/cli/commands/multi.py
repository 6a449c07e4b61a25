"""`cloudq multi`: starts and stops several workers on this machine together."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cloudq.amounts import seconds
from cloudq.cli.options import Target
from cloudq.cli.output import complain, say, say_block
from cloudq.cli.pidfile import holder
from cloudq.errors import ConfigurationError
from cloudq.text import AsIs, one_line

# Seconds for a worker to import its app and write its pidfile.
_STARTING = 30.0
_PER_NODE = re.compile(r"(--?[a-zA-Z][\w-]*):([\w.,-]+)(=.*)?")


class Verb(StrEnum):
    """The actions on workers."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    KILL = "kill"
    SHOW = "show"
    SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One worker: its name, the options of the `program` that it runs, and its files."""

    name: str
    options: Sequence[str]
    pidfile: Path
    logfile: Path
    program: Sequence[str] = ("worker",)

    @property
    def command(self) -> list[str]:
        """The command line that runs this worker."""
        here = socket.gethostname()
        whole = self.name if "@" in self.name else f"{self.name}@{here}"
        own = ["-n", whole.replace("%h", here), "--pidfile", str(self.pidfile)]
        return [sys.executable, "-m", "cloudq", *self.program, *self.options, *own]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The parsed command line; a stop may take `timeout` seconds."""

    names: Sequence[str]
    options: Sequence[str]
    own: Sequence[tuple[str, Sequence[str]]]
    pidfile: str = "%n.pid"
    logfile: str = "%n.log"
    timeout: float = 60.0
    program: Sequence[str] = ("worker",)

    def nodes(self) -> list[Node]:
        """Return the workers, each with its own options after the shared ones."""
        return [
            Node(
                name=name,
                options=[*self.options, *self._own(place, name)],
                pidfile=Path(_filled(self.pidfile, name)).absolute(),
                logfile=Path(_filled(self.logfile, name)).absolute(),
                program=self.program,
            )
            for place, name in enumerate(self.names, 1)
        ]

    def _own(self, place: int, name: str) -> list[str]:
        return [
            word
            for whose, words in self.own
            if any(_means(part, place, name) for part in whose.split(","))
            for word in words
        ]


def multi(
    context: typer.Context,
    verb: Annotated[Verb, typer.Argument(help="Action on the workers.")],
) -> int:
    """Run several workers in the background, on this machine.

    cloudq multi start 3 -A shop.tasks:app -Q default --pidfile run/%n.pid --logfile run/%n.log

    After the verb come names or a number of workers, then options of cloudq worker for all of
    them; -t:2 8 or --queues:mail,2-3 x apply to some. %n is a worker's name. Stopping lets running
    tasks finish, for up to --timeout seconds. systemd prints a unit file for such a worker.
    """
    order = parsed(context.args)
    target = context.obj if isinstance(context.obj, Target) else Target()
    order = replace(order, options=[*_named(target), *order.options])
    return carry_out(verb, order)


def carry_out(verb: Verb, order: Order) -> int:
    """Do to the workers what the verb says; return the exit code."""
    if verb is Verb.SYSTEMD:
        # It is a file to be used, so the URLs that were given stand in it whole.
        say_block(AsIs(unit(order)))
        return 0
    steps = [_stop, _start] if verb is Verb.RESTART else [_STEPS[verb]]
    fine = True
    for node in order.nodes():
        fine = all(step(node, order) for step in steps) and fine
    return 0 if fine else 1


def parsed(words: Sequence[str], prefix: str = "worker") -> Order:
    """Read names, or a number of names with this prefix, then options.

    Raises `ConfigurationError`.
    """
    left = list(words)
    names: list[str] = []
    while left and not left[0].startswith("-"):
        names.append(left.pop(0))
    if len(names) == 1 and names[0].isdigit():
        names = [f"{prefix}{number}" for number in range(1, int(names[0]) + 1)]
    names = names or [f"{prefix}1"]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"multi: a name is given twice: {' '.join(names)}")
    order = Order(names=names, options=[], own=[])
    options: list[str] = []
    own: list[tuple[str, Sequence[str]]] = []
    while left:
        word = left.pop(0)
        key, equals, value = word.partition("=")
        if key in ("--pidfile", "--logfile", "--timeout"):
            value = value if equals else _next(left, key)
            changed = _seconds(value) if key == "--timeout" else value
            order = replace(order, **{key.removeprefix("--"): changed})
        elif found := _PER_NODE.fullmatch(word):
            given = found[3][1:] if found[3] else _next(left, word)
            own.append((found[2], [found[1], given]))
        else:
            options.append(word)
    return replace(order, options=options, own=own)


def unit(order: Order) -> str:
    """Write a systemd unit that runs one such worker; `%i` is the instance's name."""
    command = [sys.executable, "-m", "cloudq", "worker", *order.options, "-n", "%i@%H"]
    return f"""\
# /etc/systemd/system/cloudq@.service: systemctl enable --now cloudq@{one_line(order.names[0])}
[Unit]
Description=cloudq worker %i
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
WorkingDirectory={Path.cwd()}
ExecStart={one_line(shlex.join(command))}
# SIGTERM lets running tasks finish. Only the supervisor gets it.
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec={order.timeout:g}
Restart=always
RestartSec=5
# Exit code 2 is a configuration error: restarting would not help.
RestartPreventExitStatus=2

[Install]
WantedBy=multi-user.target"""


def _start(node: Node, order: Order) -> bool:
    pid = holder(node.pidfile)
    if pid is not None:
        complain(f"{node.name} is already running, with pid {pid}", kind="multi")
        return False
    for file in (node.pidfile, node.logfile):
        file.parent.mkdir(parents=True, exist_ok=True)
    with node.logfile.open("ab") as log:
        process = subprocess.Popen(
            node.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def is_decided() -> bool:
        return holder(node.pidfile) == process.pid or process.poll() is not None

    if not _until(is_decided):
        complain(
            f"{node.name} did not start within {_STARTING:g} s: see {node.logfile}", kind="multi"
        )
        return False
    if process.poll() is not None:
        lines = node.logfile.read_text(errors="replace").strip().splitlines()
        said = lines[-1] if lines else "it logged nothing"
        complain(f"{node.name} ended while starting: {said}", kind="multi")
        return False
    say(f"{node.name}: started, pid {process.pid}")
    # It outlives this command, which does not wait for it.
    process.returncode = 0
    return True


def _stop(node: Node, order: Order) -> bool:
    return _end(node, order, signal.SIGTERM)


def _kill(node: Node, order: Order) -> bool:
    return _end(node, order, signal.SIGKILL)


def _end(node: Node, order: Order, number: signal.Signals) -> bool:
    pid = holder(node.pidfile)
    if pid is None:
        say(f"{node.name}: not running")
        return True
    os.kill(pid, number)

    def has_ended() -> bool:
        return holder(node.pidfile) != pid

    if not _until(has_ended, order.timeout):
        complain(f"{node.name}: pid {pid} is still running after {order.timeout:g} s", kind="multi")
        return False
    say(f"{node.name}: stopped")
    return True


def _show(node: Node, order: Order) -> bool:
    pid = holder(node.pidfile)
    say(f"{node.name} ({f'pid {pid}' if pid else 'down'}): {shlex.join(node.command)}")
    return True


_STEPS: dict[Verb, Callable[[Node, Order], bool]] = {
    Verb.START: _start,
    Verb.STOP: _stop,
    Verb.KILL: _kill,
    Verb.SHOW: _show,
}


def _until(condition: Callable[[], bool], within: float = _STARTING) -> bool:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _named(target: Target) -> list[str]:
    """Return the options that were given before the command, as words."""
    given = {"-A": target.app, "--broker": target.broker, "--backend": target.backend}
    return [word for option, value in given.items() if value for word in (option, value)]


def _means(part: str, place: int, name: str) -> bool:
    first, dash, last = part.partition("-")
    if dash and first.isdigit() and last.isdigit():
        return int(first) <= place <= int(last)
    return part in (name, str(place))


def _filled(pattern: str, name: str) -> str:
    before, _, host = name.partition("@")
    here = socket.gethostname()
    return pattern.replace("%n", before).replace("%h", host.replace("%h", here) or here)


def _next(left: list[str], option: str) -> str:
    if not left:
        raise ConfigurationError(f"multi: {option} needs a value")
    return left.pop(0)


def _seconds(text: str) -> float:
    try:
        given = float(text)
    except ValueError as error:
        raise ConfigurationError(f"multi: --timeout {text} is not a number of seconds") from error
    return seconds(given, "multi: --timeout", ConfigurationError)


def add_to(program: typer.Typer) -> None:
    """Add `multi` to the commands of `cloudq`."""
    program.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
        multi
    )
