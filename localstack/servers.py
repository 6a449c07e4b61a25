"""Starts one server on this machine, waits until it answers, and ends it in any case."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"

# Settings of the user's own clouds, which would change how a server or a test behaves.
FOREIGN = (
    *("AWS_", "AZURE_", "SERVICEBUS_"),
    *("FIRESTORE_", "GCLOUD_", "GCP_", "GOOGLE_", "PUBSUB_"),
    "CLOUDQ_",
)

# A server is on a leash: when whoever started it dies, even by SIGKILL, the pipe on the standard
# input closes, and the watch ends the server and what it started. The watch is a fork made before
# the server takes this process over, so it works for a program in any language.
_LEASH = """
import os, signal, sys, time
server = os.getpid()
if os.fork():
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.execvp(sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
os.dup2(1, 2)
while os.read(0, 1024):
    pass
os.killpg(0, signal.SIGTERM)
deadline = time.monotonic() + 5
while os.getppid() == server and time.monotonic() < deadline:
    time.sleep(0.05)
os.killpg(0, signal.SIGKILL)
"""


class UpError(Exception):
    """The server could not be installed or started; the message says what to do."""


class EndedError(UpError):
    """The server ended by itself before it was ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One kind of server: its command, its readiness check, and its limits."""

    name: str
    cloud: str
    services: str
    lacks: str
    ports: tuple[int, ...]
    """The ports that `up.py` uses; the first is that of the service itself."""
    command: Callable[[Sequence[int]], Sequence[str]]
    """The command line for these ports. Installs what is missing first, or raises `UpError`."""
    exports: Callable[[Sequence[int]], Mapping[str, str]]
    """Environment variables that a program needs to use the server."""
    settings: Callable[[Sequence[int], Path], Mapping[str, str]] = lambda _ports, _folder: {}
    """The server's own environment, for these ports and its working folder."""
    scheme: str = "http"
    health: str = ""
    """The path that answers 200 when it is ready. Without one, open ports are enough."""
    patience: float = 120.0
    """Seconds until it must be ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A running server."""

    name: str
    url: str
    port: int
    pid: int
    log: Path
    environment: Mapping[str, str]
    lacks: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The process of an endpoint's server."""

    spec: Spec
    ports: Sequence[int]
    endpoint: Endpoint
    process: subprocess.Popen[bytes]

    def ready(self) -> Server:
        """Wait until it answers, and return it; otherwise stop it and raise `UpError`."""
        try:
            self._await()
        except BaseException:
            self.stop()
            raise
        return self

    def _await(self) -> None:
        deadline = time.monotonic() + self.spec.patience
        while time.monotonic() < deadline and self.process.poll() is None:
            if all(taken(port) for port in self.ports) and self._healthy():
                return
            time.sleep(0.05)
        ended = self.process.poll()
        what = "never became healthy" if ended is None else f"ended with status {ended}"
        tail = "\n".join(self.endpoint.log.read_text(errors="replace").splitlines()[-20:])
        message = f"{self.spec.name} {what}; the end of {self.endpoint.log}:\n{tail}"
        raise UpError(message) if ended is None else EndedError(message)

    def _healthy(self) -> bool:
        return not self.spec.health or _answers(self.endpoint.url + self.spec.health)

    def stop(self, grace: float = 5.0) -> None:
        """Stop it and its child processes, and wait until they have ended."""
        process = self.process
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its watch, and function workers it left
        if process.stdin:
            process.stdin.close()

    def forget(self) -> None:
        """Delete its log and its other files."""
        shutil.rmtree(self.endpoint.log.parent, ignore_errors=True)


def state() -> Path:
    """Return the folder of installed servers, logs and pid files."""
    folder = Path(os.environ.get("CLOUDQ_STATE") or ROOT / ".state").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def install(name: str, pins: Sequence[str], make: Callable[[Path], None]) -> Path:
    """Return the folder of a server's packages; `make` fills it once for each set of `pins`."""
    digest = hashlib.sha256("\n".join(pins).encode()).hexdigest()[:10]
    home = state() / f"{name}-{digest}"
    done = home / "installed"
    if done.exists():
        return home
    with (state() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # parallel test workers all come here at once
        if done.exists():
            return home
        print(f"installing {name} into {home} (once)", file=sys.stderr, flush=True)
        make(home)
        done.touch()
    return home


def run(command: Sequence[str], what: str, hint: str = "") -> str:
    """Run a command and return its output. If it fails, raises `UpError` with the output's end."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise UpError(f"{what} failed. {hint}".rstrip() + f"\n{tail}")
    return done.stdout


def python_module(
    name: str,
    module: str,
    packages: tuple[str, ...],
    arguments: Callable[[Sequence[int]], Sequence[str]] = lambda _: (),
) -> Callable[[Sequence[int]], list[str]]:
    """Return the command of a server in Python, in a virtual environment of its own."""

    def make(home: Path) -> None:
        run([sys.executable, "-m", "venv", "--clear", str(home)], "making a virtual environment")
        run(
            [str(home / "bin" / "python"), "-m", "pip", "install", "-q", *packages],
            "pip install",
            "It needs a network, or a package mirror that pip is told of"
            " (PIP_INDEX_URL, pip.conf):",
        )

    def command(ports: Sequence[int]) -> list[str]:
        home = install(name, (sys.version, *packages), make)
        return [str(home / "bin" / "python"), "-m", module, *arguments(ports)]

    return command


def spawn(spec: Spec, port: int, *, leash: bool = True) -> Server:
    """Start the server without waiting for it. Port 0: a free one. Raises `UpError`."""
    ports = _ports(spec, port)
    command = [*spec.command(ports)]
    if leash:
        command = [sys.executable, "-I", "-S", "-c", _LEASH, *command]
    folder = state() / "run" / f"{spec.name}-{ports[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if leash else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=_server_environment(spec.settings(ports, folder)),
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop it
        )
    endpoint = Endpoint(
        name=spec.name,
        url=f"{spec.scheme}://{HOST}:{ports[0]}",
        port=ports[0],
        pid=process.pid,
        log=log,
        environment=spec.exports(ports),
        lacks=spec.lacks,
    )
    return Server(spec=spec, ports=ports, endpoint=endpoint, process=process)


def check_ports(spec: Spec, port: int) -> None:
    """Raise `UpError` if a port of a server is taken: to be known before it is installed."""
    _ports(spec, port)


def launch(spec: Spec, port: int = 0, *, leash: bool = True) -> Server:
    """Start a server and wait until it is ready. Port 0: a free one. Raises `UpError`."""
    for _ in range(0 if port else 2):
        # Another process can take the free port between the look and the start.
        with suppress(EndedError):
            return spawn(spec, port, leash=leash).ready()
    return spawn(spec, port, leash=leash).ready()


@contextmanager
def start(spec: Spec, *, port: int = 0) -> Generator[Endpoint]:
    """Run a server during the `with` block, on a free port by default."""
    server = launch(spec, port)
    try:
        yield server.endpoint
    finally:
        server.stop()
    server.forget()  # not after an error: the log is wanted


def _ports(spec: Spec, port: int) -> tuple[int, ...]:
    """Choose its ports: the usual ones, the given one, or free ones."""
    usual = port == spec.ports[0]
    wanted = spec.ports if usual else (port, *(0 for _ in spec.ports[1:]))
    for number in wanted:
        if number and taken(number):
            raise UpError(
                f"port {number} is taken: is a server running already? stop it"
                f' (make localstack ARGS="{spec.cloud} --stop", or Ctrl-C where it runs), or take'
                f' a free port (make localstack ARGS="{spec.cloud} --port 0")'
            )
    return tuple(number or _free_port() for number in wanted)


def _server_environment(settings: Mapping[str, str]) -> dict[str, str]:
    foreign = (*FOREIGN, "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | dict(settings)


def taken(port: int) -> bool:
    """Tell whether something listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    # Proxies of the environment must not see a request to this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(urllib.error.URLError, OSError), opener.open(url, timeout=2):
        return True
    return False
