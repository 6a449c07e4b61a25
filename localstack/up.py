"""The AWS services that cloudq needs, on this machine, without docker.

    python localstack/up.py                # ministack on 127.0.0.1:4566, until Ctrl-C
    python localstack/up.py --port 0       # on a free port
    python localstack/up.py --detach       # in the background; --stop ends it
    python localstack/up.py --localstack   # LocalStack itself; SQS only

The server lives in a virtual environment of its own, because it pins its own botocore. That is
made once, under `.state/` of the repository or under `$CLOUDQ_STATE`.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REGION = "us-east-1"
TABLE = "cloudq"
_HOST = "127.0.0.1"

# The server is a child on a leash: when whoever started it dies, even by SIGKILL, the pipe on its
# standard input closes and it stops. Without a leash (--detach) standard input is the null device,
# and the watch is not started.
_LEASH = """
import os, runpy, signal, sys, threading
def watch():
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
if sys.argv.pop(1) == "leash":
    threading.Thread(target=watch, daemon=True).start()
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


class UpError(Exception):
    """The server could not be installed or started; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """One kind of server: what to install, which module to run, and what it cannot do."""

    name: str
    packages: tuple[str, ...]
    module: str
    lacks: str
    dynamodb: bool
    patience: float  # seconds until it must be healthy

    def environment(self, port: int, folder: Path) -> dict[str, str]:
        """Its settings, as environment variables."""
        if self.name == "ministack":
            # IOT_MTLS_ENABLED opens a second, fixed port; two servers would fight over it.
            return {
                "BIND_HOST": _HOST,
                "GATEWAY_PORT": str(port),
                "IOT_MTLS_ENABLED": "0",
                "LOG_LEVEL": "WARNING",
                "MINISTACK_REGION": REGION,
                "TMPDIR": str(folder),
            }
        return {
            "DISABLE_EVENTS": "1",
            "DNS_ADDRESS": "0",
            "GATEWAY_LISTEN": f"{_HOST}:{port}",
            "LOCALSTACK_HOST": f"{_HOST}:{port}",
            "SERVICES": "sqs",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "SQS_ENDPOINT_STRATEGY": "path",
            "TMPDIR": str(folder),
        }


MINISTACK = Flavour(
    name="ministack",
    packages=("ministack==1.5.33", "boto3==1.43.106", "aws-sam-translator>=1.90"),
    module="ministack",
    lacks="queue move tasks; purges are immediate; delays over 900 s are taken",
    dynamodb=True,
    patience=30,
)
LOCALSTACK = Flavour(
    name="localstack",
    packages=(
        "localstack-core[runtime]==4.13.1",
        "cbor2<6",
        "pyopenssl<26",
        "localstack-twisted==25.5.0",
    ),
    module="localstack.runtime.main",
    lacks="DynamoDB and Lambda (they want a download or docker), schedules never fire: SQS only",
    dynamodb=False,
    patience=90,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A running server."""

    url: str
    port: int
    pid: int
    log: Path
    flavour: Flavour

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs in its environment to work on this server."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "CLOUDQ_BROKER": "sqs://",
            "CLOUDQ_BACKEND": f"dynamodb://{TABLE}" if self.flavour.dynamodb else "none",
        }


def state() -> Path:
    """The folder that the virtual environments, logs and pid files are in."""
    folder = Path(os.environ.get("CLOUDQ_STATE") or HERE.parent / ".state").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def install(flavour: Flavour) -> Path:
    """The Python of the server's own environment, made first if need be. Raises `UpError`."""
    pins = hashlib.sha256("\n".join((sys.version, *flavour.packages)).encode()).hexdigest()[:10]
    home = state() / f"{flavour.name}-{pins}"
    python, done = home / "bin" / "python", home / "installed"
    if done.exists():
        return python
    with (state() / f"{flavour.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # parallel test workers all come here at once
        if done.exists():
            return python
        print(f"installing {flavour.name} into {home} (once)", file=sys.stderr, flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(home)], "making a virtual environment")
        _run([str(python), "-m", "pip", "install", "-q", *flavour.packages], "pip install")
        done.touch()
    return python


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise UpError(
            f"{what} failed. It needs a network, or a package mirror that pip is told of"
            f" (PIP_INDEX_URL, pip.conf):\n{tail}"
        )


def launch(
    flavour: Flavour, port: int, *, leash: bool = True
) -> tuple[Endpoint, subprocess.Popen[bytes]]:
    """Start the server and wait until it is healthy. Port 0: a free one. Raises `UpError`."""
    python = install(flavour)
    if port and _taken(port):
        raise UpError(
            f"port {port} is taken: is a server running already? stop it"
            f" (python localstack/up.py --stop --port {port}), or use --port 0"
        )
    port = port or _free_port()
    folder = state() / "run" / f"{flavour.name}-{port}"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    command = [str(python), "-c", _LEASH, "leash" if leash else "free", flavour.module]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if leash else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=_server_environment(flavour.environment(port, folder)),
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop it
        )
    url = f"http://{_HOST}:{port}"
    endpoint = Endpoint(url=url, port=port, pid=process.pid, log=log, flavour=flavour)
    try:
        _await_health(endpoint, process)
    except BaseException:
        stop(process)
        raise
    return endpoint, process


def _server_environment(settings: Mapping[str, str]) -> dict[str, str]:
    # Variables of the user's own AWS or CloudQ setup would change how the server behaves.
    ours = ("AWS_", "CLOUDQ_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | dict(settings)


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_HOST, port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _await_health(endpoint: Endpoint, process: subprocess.Popen[bytes]) -> None:
    # Proxies of the environment must not see a request to this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + endpoint.flavour.patience
    while time.monotonic() < deadline and process.poll() is None:
        with (
            suppress(urllib.error.URLError, OSError),
            opener.open(f"{endpoint.url}/_localstack/health", timeout=2),
        ):
            return
        time.sleep(0.05)
    ended = process.poll()
    what = "never became healthy" if ended is None else f"ended with status {ended}"
    tail = "\n".join(endpoint.log.read_text(errors="replace").splitlines()[-20:])
    raise UpError(f"{endpoint.flavour.name} {what}; the end of {endpoint.log}:\n{tail}")


def stop(process: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """End the server and the processes it started; waits until it has gone."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # function workers that it left behind
    if process.stdin:
        process.stdin.close()


@contextmanager
def start(
    *, port: int = 0, flavour: Flavour = MINISTACK, seeded: bool = False
) -> Iterator[Endpoint]:
    """A server for the length of the `with` block, on a free port by default."""
    for attempt in range(3):
        try:
            endpoint, process = launch(flavour, port)
            break
        except UpError:
            # Another process can take the free port between the look and the start.
            if port or attempt == 2:
                raise
    try:
        if seeded:
            seed(endpoint)
        yield endpoint
    finally:
        stop(process)
    shutil.rmtree(endpoint.log.parent, ignore_errors=True)  # kept after an error, for its log


def seed(endpoint: Endpoint) -> None:
    """Make the queues and the table of `seed.py`, with the Python that runs this."""
    done = subprocess.run(
        [sys.executable, str(HERE / "seed.py")],
        env=os.environ | endpoint.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UpError(f"seeding failed:\n{done.stderr.strip()}")


def _pid_file(flavour: Flavour, port: int) -> Path:
    return state() / f"{flavour.name}-{port}.pid"


def _detach(flavour: Flavour, port: int, *, seeded: bool) -> Endpoint:
    endpoint, process = launch(flavour, port, leash=False)
    try:
        if seeded:
            seed(endpoint)
    except UpError:
        stop(process)
        raise
    _pid_file(flavour, endpoint.port).write_text(str(endpoint.pid))
    return endpoint


def _stop_detached(flavour: Flavour, port: int) -> str:
    file = _pid_file(flavour, port)
    if not file.exists():
        raise UpError(f"no {flavour.name} was detached on port {port}: {file} is not there")
    pid = int(file.read_text())
    command = ["ps", "-o", "command=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if flavour.module not in shown:  # the number may belong to somebody else by now
        file.unlink()
        return f"{flavour.name} (pid {pid}) had ended before"
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while _taken(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    if _taken(port):
        os.kill(pid, signal.SIGKILL)
    file.unlink()
    return f"stopped {flavour.name} (pid {pid}) on port {port}"


def _describe(endpoint: Endpoint, *, seeded: bool) -> str:
    flavour = endpoint.flavour
    rows = [
        ("server", f"{flavour.name} (pid {endpoint.pid})"),
        ("endpoint", endpoint.url),
        ("health", f"{endpoint.url}/_localstack/health"),
        ("log", str(endpoint.log)),
        ("lacks", flavour.lacks),
    ]
    if seeded:
        queues = [f"{endpoint.url}/000000000000/{name}" for name in ("default", "high")]
        rows += [("queue", url) for url in (*queues, f"{endpoint.url}/000000000000/orders.fifo")]
        rows += [("table", TABLE)] if flavour.dynamodb else []
    table = [f"{name:10}{value}" for name, value in rows]
    exports = [f"export {name}={value}" for name, value in endpoint.environment.items()]
    return "\n".join([*table, "", *exports])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=4566, help="0 = a free one (default 4566)")
    parser.add_argument("--localstack", action="store_true", help="LocalStack itself: SQS only")
    parser.add_argument("--no-seed", action="store_true", help="make no queues and no table")
    parser.add_argument("--detach", action="store_true", help="leave it running in the background")
    parser.add_argument("--stop", action="store_true", help="stop what --detach left running")
    return parser.parse_args()


def main() -> int:
    """Run the command line; the exit status."""
    arguments = _arguments()
    flavour = LOCALSTACK if arguments.localstack else MINISTACK
    seeded = not arguments.no_seed
    try:
        if arguments.stop:
            print(_stop_detached(flavour, arguments.port))
        elif arguments.detach:
            print(_describe(_detach(flavour, arguments.port, seeded=seeded), seeded=seeded))
        else:
            _foreground(flavour, arguments.port, seeded=seeded)
    except UpError as error:
        print(f"up.py: {error}", file=sys.stderr)
        return 1
    return 0


def _foreground(flavour: Flavour, port: int, *, seeded: bool) -> None:
    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    with suppress(KeyboardInterrupt), start(port=port, flavour=flavour, seeded=seeded) as endpoint:
        print(_describe(endpoint, seeded=seeded), "\nCtrl-C stops it", sep="\n", flush=True)
        with suppress(KeyboardInterrupt):
            while _alive(endpoint.pid):
                time.sleep(0.5)
            raise UpError(f"{flavour.name} ended by itself; see {endpoint.log}")


def _alive(pid: int) -> bool:
    # A child that ended stays in the process table until it is waited for.
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


if __name__ == "__main__":
    sys.exit(main())
