"""The command line: `python -m localstack.servicebus`."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import ServiceBusAuthenticationError

from cloudq.testing.waiting import PATIENCE
from localstack.servers import ROOT
from localstack.servicebus.settings import Settings, parse_queue
from tests.localstack.servicebus.bus import Bus, one

# The SDK does not close the socket of a connection that the service has cut.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

COMMAND = (sys.executable, "-m", "localstack.servicebus")


@contextmanager
def serving(*options: str) -> Generator[tuple[subprocess.Popen[str], int, int]]:
    """A server of one's own: its process, its AMQP port and its HTTP port."""
    command = [*COMMAND, "--port", "0", "--admin-port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            yield process, ready["port"], ready["admin_port"]
        finally:
            process.terminate()
            process.wait(PATIENCE)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    command = [*COMMAND, *options]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_on_a_signal_with_clients_on_it(number: signal.Signals) -> None:
    with (
        serving() as (process, port, _),
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        assert client.recv(1) == b""


def test_queues_keys_and_the_tier_are_options() -> None:
    options = ("--queue", "jobs:lock=30,max_deliveries=5,dedup=60", "--queue", "s:sessions")
    secret = ("--tier", "premium", "--key", "root=c2VjcmV0")
    with serving(*options, *secret) as (_, port, admin_port):
        bus = Bus(port, admin_port, "root", "c2VjcmV0")
        queue = bus.admin.get_queue("jobs")
        assert (queue.lock_duration, queue.max_delivery_count) == (timedelta(seconds=30), 5)
        assert queue.duplicate_detection_history_time_window == timedelta(seconds=60)
        assert bus.admin.get_queue("s").requires_session is True
        assert bus.admin.get_namespace_properties().messaging_sku == "Premium"
        body = b"x" * 900 * 1024  # a standard namespace takes 256 KB
        bus.sender("jobs").send_messages(ServiceBusMessage(body))
        assert b"".join(one(bus.receiver("jobs")).body) == body
        bus.control("POST", "_reset")
        assert list(bus.admin.list_queues()) == []
        bus.close()
        for name, key in (("root", "d3Jvbmc="), ("nobody", "c2VjcmV0")):
            stranger = Bus(port, admin_port, name, key)
            with pytest.raises(ServiceBusAuthenticationError):
                stranger.own_sender("jobs")
            with pytest.raises(ClientAuthenticationError):
                stranger.admin.get_queue("jobs")
            stranger.close()


def test_a_server_that_denies_all() -> None:
    with serving("--deny", "--queue", "q") as (_, port, admin_port):
        bus = Bus(port, admin_port)
        for _ in range(2):
            with pytest.raises(ServiceBusAuthenticationError):
                bus.own_sender("q")
        bus.control("DELETE", "_faults")
        bus.own_sender("q")
        bus.close()


def test_a_port_that_is_taken_is_said_in_a_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for ports in ((port, "0"), ("0", port)):
            done = run("--port", ports[0], "--admin-port", ports[1])
            assert done.returncode == 1
            assert done.stdout == ""
            assert "in use" in done.stderr
            assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("queue", "problem"),
    [
        (":lock=3", "no name"),
        ("q:speed=3", "'speed' is none of"),
        ("q:lock=soon", "soon"),
        ("q:lock=600", "LockDuration"),
        ("q:max_deliveries", "''"),
    ],
)
def test_a_queue_that_cannot_be_is_refused(queue: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_queue(queue)


def test_a_queue_on_the_command_line() -> None:
    assert parse_queue("q") == ("q", Settings())
    assert parse_queue("q:dedup,ttl=5,dead_letter_expired,max_size_mb=2,lock=0.5") == (
        "q",
        Settings(dedup=True, ttl=5, dead_letter_expired=True, max_size_mb=2, lock=0.5),
    )


def test_help_explains() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "UseDevelopmentEmulator=true" in done.stdout
    assert "max_deliveries=N" in done.stdout


def test_an_option_that_makes_no_sense_is_said() -> None:
    done = run("--queue", "q:speed=3")
    assert done.returncode == 2
    assert "'speed' is none of lock, max_deliveries" in done.stderr
