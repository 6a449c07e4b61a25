"""Servers that all processes of a test run share.

The process that leads the run has them: with xdist the one that starts the others, else the only
one. It starts a server when the first test asks for it, and ends all of them after the last test.
Other processes ask it on a port, a line for a question: the name of a server. The answer is a
line too, with the server's endpoint or the reason why there is none.
"""

from __future__ import annotations

import json
import socket
import socketserver
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest

from localstack.azure import BLOBS, TABLES
from localstack.google import FIRESTORE, PUBSUB
from localstack.servers import HOST, Endpoint, Spec, UpError, start
from tests.servers import SERVER, lacking

SHARED = (PUBSUB, FIRESTORE, TABLES, BLOBS)
"""The servers that are dear to start, and where no test minds what others have made.

Each process has the others to itself: they cost little, and tests count or order faults there."""

_ADDRESS = "cloudq_servers"


class Shared:
    """One server, started for the first who asks."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._lock = Lock()
        self._running = ExitStack()
        self._endpoint: Endpoint | None = None
        self._lack = ""

    def endpoint(self) -> Endpoint:
        """Return the server; who asks while it starts waits. Raises `UpError`, each time alike."""
        with self._lock:
            if not (self._endpoint or self._lack):
                try:
                    self._endpoint = self._running.enter_context(start(self._spec))
                except UpError as error:
                    self._lack = str(error)
            if self._endpoint is None:
                raise UpError(self._lack)
            return self._endpoint

    def close(self) -> None:
        """End the server, and start none any more."""
        with self._lock:
            self._endpoint, self._lack = None, "the test run is over"
            self._running.close()


class Host:
    """The shared servers, in the process that leads the run."""

    def __init__(self, *specs: Spec) -> None:
        self._servers = {spec.name: Shared(spec) for spec in specs}
        self._open = ExitStack()
        self._address = ""

    def endpoint(self, name: str) -> Endpoint:
        """Return a server of this name, started if it is not yet. Raises `UpError`."""
        return self._servers[name].endpoint()

    def address(self) -> str:
        """Return the host and port where other processes can ask; the port is opened once."""
        if not self._address:
            service = self._open.enter_context(_Service((HOST, 0), partial(_Answer, self)))
            Thread(target=service.serve_forever, args=(0.1,), daemon=True).start()
            self._open.callback(service.shutdown)
            self._address = f"{HOST}:{service.server_address[1]}"
        return self._address

    def close(self) -> None:
        """End all servers, and answer nobody any more."""
        with self._open:
            for server in self._servers.values():
                self._open.callback(server.close)


class _Service(socketserver.ThreadingTCPServer):
    # Who asks when all is over, or has given up, is not waited for.
    daemon_threads = True
    block_on_close = False


class _Answer(socketserver.StreamRequestHandler):
    """Answers one question of another process."""

    def __init__(self, host: Host, *connection: Any) -> None:
        self._host = host
        super().__init__(*connection)

    def handle(self) -> None:
        name = self.rfile.readline().decode().strip()
        try:
            answer = asdict(self._host.endpoint(name))
        except UpError as error:
            answer = {"error": str(error)}
        self.wfile.write(json.dumps(answer, default=str).encode() + b"\n")


def asked(address: str, name: str) -> Endpoint:
    """Ask the process that leads the run for a server. Raises `UpError`."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port))) as channel, channel.makefile("rwb") as lines:
        lines.write(name.encode() + b"\n")
        lines.flush()
        answer: Mapping[str, Any] = json.loads(lines.readline())
    if "error" in answer:
        raise UpError(answer["error"])
    return Endpoint(**{**answer, "log": Path(answer["log"])})


_HOST = pytest.StashKey[Host]()


def pytest_configure(config: pytest.Config) -> None:
    """Lead the run, if no other process does; the clean-up comes after xdist's processes."""
    if not _given(config):
        config.stash[_HOST] = host = Host(*SHARED)
        config.add_cleanup(host.close)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of xdist, before it starts, where to ask."""
    node.workerinput[_ADDRESS] = node.config.stash[_HOST].address()


def _given(config: pytest.Config) -> Mapping[str, Any]:
    """Return what xdist hands to this process from the one that leads the run."""
    return getattr(config, "workerinput", {})


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config, isolated: pytest.MonkeyPatch) -> Callable[[Spec], Endpoint]:
    """Starts a server that other processes use too, or finds it started."""

    def server(spec: Spec) -> Endpoint:
        sys.audit(SERVER, spec.services)
        given = _given(pytestconfig)
        try:
            if given:
                return asked(given[_ADDRESS], spec.name)
            return pytestconfig.stash[_HOST].endpoint(spec.name)
        except UpError as error:
            lacking(f"no local {spec.services}: {error}")

    return server
