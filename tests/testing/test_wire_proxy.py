"""The proxy before a service over TCP breaks connections as it says, at requests alone."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread

import pytest

from cloudq.testing import Fault, WireFaultProxy
from cloudq.testing.waiting import eventually
from cloudq_azure.faults import frame


class Service(ThreadingTCPServer):
    """Answers each line with that line, twice."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Lines)
        self.lines: list[bytes] = []


class _Lines(StreamRequestHandler):
    def handle(self) -> None:
        service = self.server
        assert isinstance(service, Service)
        for line in self.rfile:
            service.lines.append(line)
            self.wfile.write(line * 2)


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as made:
        thread = Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def proxy(service: Service) -> Iterator[WireFaultProxy]:
    port = int(service.server_address[1])
    with WireFaultProxy("127.0.0.1", port, seed=4, slow=0.2) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: WireFaultProxy) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=60)) as client:
        yield client


def ask(client: socket.socket, line: bytes = b"hello\n") -> bytes:
    """Send a line, and read what comes: all of the answer, or until the connection ends."""
    client.sendall(line)
    found = b""
    while len(found) < 2 * len(line) and (data := client.recv(1 << 16)):
        found += data
    return found


def read_all(client: socket.socket) -> None:
    """Read until the connection ends."""
    while client.recv(1 << 16):
        pass


def test_without_chances_it_passes_all_on(proxy: WireFaultProxy, client: socket.socket) -> None:
    assert ask(client) == b"hello\n" * 2
    assert (proxy.requests, proxy.counts.total()) == (1, 0)


def test_a_reset_before_the_effect_leaves_none(
    proxy: WireFaultProxy, client: socket.socket, service: Service
) -> None:
    proxy.chances = {Fault.RESET_BEFORE: 1.0}
    with pytest.raises(ConnectionResetError):
        ask(client)
    assert (service.lines, proxy.counts) == ([], {Fault.RESET_BEFORE: 1})


def test_a_reset_after_the_effect_loses_the_answer(
    proxy: WireFaultProxy, client: socket.socket, service: Service
) -> None:
    proxy.chances = {Fault.RESET_AFTER: 1.0}
    with pytest.raises(ConnectionResetError):
        ask(client)
    assert service.lines == [b"hello\n"]


def test_half_of_an_answer_that_is_cut_comes(proxy: WireFaultProxy, client: socket.socket) -> None:
    proxy.chances = {Fault.CUT: 1.0}
    assert ask(client) == b"hello\n"


def test_a_slow_answer_is_late(proxy: WireFaultProxy, client: socket.socket) -> None:
    proxy.chances = {Fault.SLOW: 1.0}
    began = time.monotonic()
    assert ask(client) == b"hello\n" * 2
    assert time.monotonic() - began >= 0.2


def test_what_it_cannot_do_does_not_come(proxy: WireFaultProxy, client: socket.socket) -> None:
    proxy.chances = {Fault.THROTTLED: 1.0}
    assert ask(client) == b"hello\n" * 2
    assert proxy.counts.total() == 0


def test_only_requests_fail(proxy: WireFaultProxy, client: socket.socket, service: Service) -> None:
    def lines(data: bytes) -> tuple[int, bool] | None:
        end = data.find(b"\n") + 1
        return (end, data.startswith(b"ask")) if end else None

    proxy.frames = lines
    proxy.chances = {Fault.RESET_BEFORE: 1.0}
    client.sendall(b"hel")
    client.sendall(b"lo\nthere\nask")
    eventually(lambda: service.lines == [b"hello\n", b"there\n"])
    assert proxy.requests == 0
    client.sendall(b" this\n")
    with pytest.raises(ConnectionResetError):
        read_all(client)
    assert service.lines == [b"hello\n", b"there\n"]


def test_the_proxys_end_ends_its_connections(service: Service) -> None:
    port = int(service.server_address[1])
    with WireFaultProxy("127.0.0.1", port) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port), timeout=60)
        assert ask(client) == b"hello\n" * 2
    with closing(client):
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"AMQP\x03\x01\x00\x00more", (8, False)),
        (b"AMQP", None),
        (b"\x00\x00\x00\x08\x02\x00\x00\x00", (8, False)),  # keeps the connection
        (b"\x00\x00\x00\x0b\x02\x01\x00\x00\x00\x53\x12", (11, False)),  # of the login
        (b"\x00\x00\x00\x0b\x02\x00\x00\x00\x00\x53\x10", (11, False)),  # open
        (b"\x00\x00\x00\x0b\x02\x00\x00\x00\x00\x53\x12", (11, False)),  # attach
        (b"\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x53\x14\xc0more", (12, True)),  # transfer
        (b"\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x53\x14", None),
        (b"\x00\x00\x00\x01nonsense", (12, False)),
    ],
)
def test_frames_of_amqp_are_told_apart(data: bytes, found: tuple[int, bool] | None) -> None:
    assert frame(data) == found


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize(
    ("fields", "is_request"),
    [
        (b"\x40\x52\x01\x43\x70\x00\x00\x01\x00\x43\x52\x09\x52\x05\x40\x41", True),
        (b"\x40\x52\x01\x43\x52\x02\x43\x43\x43\x43\x56\x01\x42", True),
        (b"\x40\x52\x01\x43\x52\x02\x43\x43\x43\x43\x42\x41", False),
        (b"\x40\x52\x41\x43\x52\x41", False),
        (b"", False),
    ],
)
def test_a_flow_is_a_request_where_it_asks_for_what_is_there(
    fields: bytes, is_request: bool, short: bool
) -> None:
    count = 10
    head = bytes([0xC0, len(fields) + 1, count])
    if not short:
        head = b"\xd0" + (len(fields) + 4).to_bytes(4, "big") + count.to_bytes(4, "big")
    body = b"\x00\x53\x13" + head + fields
    data = (len(body) + 8).to_bytes(4, "big") + b"\x02\x00\x00\x00" + body
    assert frame(data + b"more") == (len(data), is_request)
