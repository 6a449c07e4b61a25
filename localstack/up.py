"""The clouds' services that cloudq needs, on this machine, without docker.

    python localstack/up.py                # all that can run here, until Ctrl-C
    python localstack/up.py aws google     # these clouds only, or single servers: pubsub
    python localstack/up.py --port 0       # on free ports
    python localstack/up.py --detach       # in the background; --stop ends it
    python localstack/up.py --localstack   # for AWS, LocalStack itself; SQS only

Servers that are not installed here are installed once, under `.state/` of the repository or under
`$CLOUDQ_STATE`. One that cannot run here is told, and the others come up.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

if not __package__:  # run as a file; the folder of one has a google.py and an azure.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from localstack import detached
from localstack.aws import LOCALSTACK, MINISTACK
from localstack.azure import BLOBS, SERVICEBUS, TABLES
from localstack.google import FIRESTORE, PUBSUB, STORAGE
from localstack.servers import (
    FOREIGN,
    ROOT,
    EndedError,
    Endpoint,
    Server,
    Spec,
    UpError,
    check_ports,
    launch,
    spawn,
)

CLOUDS = {"aws": "AWS", "google": "Google Cloud", "azure": "Azure"}
SPECS = (MINISTACK, LOCALSTACK, PUBSUB, FIRESTORE, STORAGE, TABLES, BLOBS, SERVICEBUS)
NAMES = (*CLOUDS, *(spec.name for spec in SPECS))


def bring_up(specs: Sequence[Spec], port: int | None, *, leash: bool) -> list[Server]:
    """Start the servers in parallel; reports those that cannot run here, and skips them."""
    spawned: list[Server] = []
    ready: list[Server] = []
    free: list[Spec] = []
    for spec in specs:  # all of them, before anything is installed
        try:
            check_ports(spec, spec.ports[0] if port is None else port)
            free.append(spec)
        except UpError as error:
            _complain(f"{spec.name} is left out: {error}")
    try:
        for spec in free:
            try:
                spawned.append(spawn(spec, spec.ports[0] if port is None else port, leash=leash))
            except UpError as error:
                _complain(f"{spec.name} is left out: {error}")
        for server in spawned:
            try:
                ready.append(_ready(server, leash=leash, anywhere=port == 0))
            except UpError as error:
                _complain(f"{server.spec.name} is left out: {error}")
    except BaseException:
        _stop([*spawned, *ready])
        raise
    return ready


def _ready(server: Server, *, leash: bool, anywhere: bool) -> Server:
    try:
        return server.ready()
    except EndedError:
        if not anywhere:
            raise
    return launch(server.spec, leash=leash)  # its free port may have been taken meanwhile


def _stop(servers: Sequence[Server]) -> None:
    running = [server for server in servers if server.process.poll() is None]
    for server in running:
        server.process.terminate()
    for server in servers:
        server.stop()
    for server in running:  # the log of one that ended by itself is wanted
        server.forget()


def seed(*endpoints: Endpoint) -> str:
    """Make the queues and the store of `seed.py`, with the Python that runs this; tells which.

    Raises `UpError`.
    """
    # Settings of the user's own could lead to a real account.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    for endpoint in endpoints:
        environment |= endpoint.environment
    done = subprocess.run(
        [sys.executable, str(ROOT / "localstack" / "seed.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UpError(f"seeding failed: {last}")
    return done.stdout.strip()


def _by_cloud(servers: Sequence[Server]) -> Mapping[str, list[Endpoint]]:
    found: dict[str, list[Endpoint]] = {}
    for server in servers:
        found.setdefault(server.spec.cloud, []).append(server.endpoint)
    return found


def _seed_all(servers: Sequence[Server]) -> bool:
    """Seed each cloud, and tell whether all succeeded."""
    seeded = ("CLOUDQ_BROKER", "CLOUDQ_BACKEND")
    found = {
        cloud: endpoints
        for cloud, endpoints in _by_cloud(servers).items()
        if any(name in endpoint.environment for endpoint in endpoints for name in seeded)
    }
    with ThreadPoolExecutor() as pool:
        seeding = {cloud: pool.submit(seed, *endpoints) for cloud, endpoints in found.items()}
    well = True
    for cloud, done in seeding.items():
        try:
            done.result()
        except UpError as error:
            well = False
            _complain(f"{CLOUDS[cloud]} is up, but has no queues: {error}")
    return well


def _describe(servers: Sequence[Server]) -> str:
    lines: list[str] = []
    width = max(len(server.spec.name) for server in servers) + 2
    for server in servers:
        endpoint = server.endpoint
        log = endpoint.log
        if log.is_relative_to(Path.cwd()):
            log = log.relative_to(Path.cwd())
        lines += [
            f"{endpoint.name:{width}}{endpoint.url:25} pid {endpoint.pid:<8} {log}",
            f"{'':{width}}has {server.spec.services}",
            f"{'':{width}}lacks {endpoint.lacks}",
        ]
    for cloud, endpoints in _by_cloud(servers).items():
        lines += ["", f"# {CLOUDS[cloud]}"]
        for endpoint in endpoints:
            exports = endpoint.environment.items()
            lines += [f"export {name}={shlex.quote(value)}" for name, value in exports]
    return "\n".join(lines)


def _complain(message: str) -> None:
    print(f"up.py: {message}", file=sys.stderr, flush=True)


def _chosen(names: Sequence[str], *, localstack: bool) -> list[Spec]:
    """Return the servers of these names; without names, one for each service."""
    left_out = MINISTACK if localstack else LOCALSTACK
    return [
        spec
        for spec in SPECS
        if spec.name in names or (spec is not left_out and (not names or spec.cloud in names))
    ]


def _foreground(servers: Sequence[Server]) -> int:
    """Wait for Ctrl-C, report servers that end earlier, and return the exit status."""
    running = list(servers)
    with suppress(KeyboardInterrupt):
        print("\nCtrl-C stops it" if len(servers) == 1 else "\nCtrl-C stops them", flush=True)
        while running:
            time.sleep(0.5)
            for server in [one for one in running if one.process.poll() is not None]:
                _complain(f"{server.spec.name} ended by itself; see {server.endpoint.log}")
                running.remove(server)
        return 1
    return 0


def _up(specs: Sequence[Spec], arguments: argparse.Namespace) -> int:
    servers = bring_up(specs, arguments.port, leash=not arguments.detach)
    if not servers:
        return 1
    kept = False
    try:
        seeded = arguments.no_seed or _seed_all(servers)
        print(_describe(servers), flush=True)
        if not arguments.detach:
            return _foreground(servers)
        for server in servers:
            detached.write_down(server)
        kept = True
        return 0 if seeded else 1
    finally:
        if not kept:
            _stop(servers)


def _stop_detached(specs: Sequence[Spec], port: int | None) -> int:
    told = list(detached.stop([spec.name for spec in specs], port))
    if not told:
        _complain("nothing like that was left running by --detach")
    for line in told:
        print(line)
    return 0 if told else 1


def _name(value: str) -> str:
    if value not in NAMES:
        raise argparse.ArgumentTypeError(f"{value} is none of {', '.join(NAMES)}")
    return value


def _arguments() -> tuple[argparse.Namespace, list[Spec]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", type=_name, metavar="name", help=", ".join(NAMES))
    parser.add_argument("--port", type=int, help="of a single server; 0 = free ones, for all")
    parser.add_argument("--localstack", action="store_true", help="LocalStack itself for AWS")
    parser.add_argument("--no-seed", action="store_true", help="make no queues and no stores")
    parser.add_argument("--detach", action="store_true", help="leave it running in the background")
    parser.add_argument("--stop", action="store_true", help="stop what --detach left running")
    arguments = parser.parse_args()
    if arguments.stop and not arguments.names and not arguments.localstack:
        return arguments, list(SPECS)
    specs = _chosen(arguments.names, localstack=arguments.localstack)
    if arguments.port and len(specs) > 1 and not arguments.stop:
        parser.error(f"--port {arguments.port} is for one server: name it, e.g. {specs[0].name}")
    return arguments, specs


def main() -> int:
    """Run the command line, and return the exit status."""
    arguments, specs = _arguments()

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    with suppress(KeyboardInterrupt):
        if arguments.stop:
            return _stop_detached(specs, arguments.port)
        return _up(specs, arguments)
    return 130  # interrupted before all were up


if __name__ == "__main__":
    sys.exit(main())
