"""Azure Service Bus on this machine, for tests: queues over AMQP 1.0, in memory.

    python -m localstack.servicebus                      # AMQP on 5672, administration on 5300
    python -m localstack.servicebus --port 0 --admin-port 0 --queue jobs:lock=30,max_deliveries=5

It prints one line of JSON with its ports when it is ready, and ends on SIGTERM or Ctrl-C.
Connect with Endpoint=sb://127.0.0.1:PORT;SharedAccessKeyName=any;SharedAccessKey=any;\
UseDevelopmentEmulator=true
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Sequence

from localstack.servicebus import admin
from localstack.servicebus.connection import Connection, drop_all
from localstack.servicebus.namespace import Namespace
from localstack.servicebus.settings import Settings, parse_queue
from localstack.servicebus.tokens import Keys

HOST = "127.0.0.1"
_QUEUE_HELP = (
    "make a queue; options: lock=SECONDS, max_deliveries=N, sessions, dedup[=SECONDS], ttl=SECONDS,"
    " dead_letter_expired, max_size_mb=N"
)


def _queue(text: str) -> tuple[str, Settings]:
    try:
        return parse_queue(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _key(text: str) -> tuple[str, str]:
    name, given, secret = text.partition("=")
    if not (name and given and secret):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SECRET")
    return name, secret


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m localstack.servicebus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=5672, help="AMQP; 0 = a free one")
    parser.add_argument("--admin-port", type=int, default=5300, help="HTTP; 0 = a free one")
    parser.add_argument(
        "--queue", type=_queue, action="append", default=[], metavar="NAME[:...]", help=_QUEUE_HELP
    )
    parser.add_argument(
        "--tier",
        choices=("standard", "premium"),
        default="standard",
        help="messages of 256 KB, or of 1 MB (and more where a queue says so)",
    )
    parser.add_argument(
        "--key",
        type=_key,
        action="append",
        default=[],
        metavar="NAME=SECRET",
        help="let in only those who sign with such a key (default: everybody)",
    )
    parser.add_argument(
        "--deny", action="store_true", help="turn down every token, until DELETE /_faults"
    )
    return parser.parse_args(given)


async def run(options: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    loop = asyncio.get_running_loop()
    everyone: set[Connection] = set()
    namespace = Namespace(
        tier=options.tier, keys=Keys(dict(options.key)), drop=lambda: drop_all(everyone)
    )
    for name, settings in options.queue:
        namespace.create(name, settings)
    if options.deny:
        namespace.faults.add({"kind": "deny"})
    listener = await loop.create_server(
        lambda: Connection(namespace, everyone), HOST, options.port, backlog=512
    )
    port: int = listener.sockets[0].getsockname()[1]
    web = admin.serve(namespace, HOST, options.admin_port, loop)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    print(json.dumps({"port": port, "admin_port": web.server_port}), flush=True)
    await stopped.wait()
    listener.close()
    drop_all(everyone)
    await asyncio.to_thread(web.shutdown)
    web.server_close()


def main() -> int:
    """Run the command line, and return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    options = arguments()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(options))
    except OSError as error:
        print(f"localstack.servicebus: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
