"""A proxy before a service of any protocol over TCP, which breaks connections by chance."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from socketserver import BaseRequestHandler, TCPServer

from cloudq.testing.kit.dice import RESET, Fault, Proxy, Quiet

_MADE = frozenset({Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.SLOW, Fault.CUT})
_CHUNK = 1 << 16

Frames = Callable[[bytes], tuple[int, bool] | None]


class WireFaultProxy(Proxy):
    """Passes bytes on to the service at `host` and `port`, and breaks connections by chance.

    As `FaultProxy` does for HTTP; give its `port`, on 127.0.0.1, as the service's. It makes resets
    before and after a request, and answers that are slow or cut, for all that goes over the
    connection. `frames` finds the requests: it is given bytes of a client, and returns how many
    of them its first frame has and whether that is a request; None if it is not whole yet. Without
    it what a client sends at once is a request. `cloudq_azure.faults.frame` is that of AMQP 1.0.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        seed: int = 0,
        chances: Mapping[Fault, float] | None = None,
        slow: float = 1.0,
        frames: Frames | None = None,
    ) -> None:
        super().__init__(seed=seed, chances=chances, slow=slow)
        self.frames = frames
        self._server = _Server(self, (host, port))
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="wire-proxy", daemon=True
        )

    @property
    def port(self) -> int:
        """The proxy's own port."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to take requests."""
        self._thread.start()

    def stop(self) -> None:
        """End, with all connections."""
        self._server.shutdown()
        self._server.end_all()
        self._server.server_close()
        self._thread.join()


class _Server(Quiet, TCPServer):
    def __init__(self, proxy: WireFaultProxy, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy
        self.upstream = upstream
        self.pairs: set[_Pair] = set()

    def end_all(self) -> None:
        """End all connections."""
        for pair in list(self.pairs):
            pair.end()


class _Pair:
    """A client's connection and its own one to the service."""

    def __init__(self, client: socket.socket, service: socket.socket) -> None:
        self.client, self.service = client, service
        self.fate: Fault | None = None
        """What becomes of the next answer."""
        self._ended = False
        self._lock = threading.Lock()

    def end(self, *, reset: bool = False) -> None:
        """End both connections, the client's by a reset if that is wanted. Once: the first way."""
        with self._lock:
            ended, self._ended = self._ended, True
        if ended:
            return
        with suppress(OSError):
            if reset:
                self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            # It wakes who reads, without whom the connection would stay open.
            self.client.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
        self.client.close()
        with suppress(OSError):
            self.service.shutdown(socket.SHUT_RDWR)
        self.service.close()

    def answers(self) -> None:
        """Pass on what the service sends, until one of the two is gone or the fate is met."""
        with suppress(OSError):
            while data := self.service.recv(_CHUNK):
                if self.fate is Fault.RESET_AFTER:
                    return self.end(reset=True)
                if self.fate is Fault.CUT:
                    self.client.sendall(data[: len(data) // 2])
                    break
                self.client.sendall(data)
        return self.end()


class _Handler(BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        client: socket.socket = self.request
        with suppress(OSError):
            service = socket.create_connection(server.upstream)
            for each in (client, service):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, service)
            server.pairs.add(pair)
            reader = threading.Thread(target=pair.answers, daemon=True)
            reader.start()
            try:
                self._requests(server.proxy, pair)
            finally:
                pair.end()
                reader.join()
                server.pairs.discard(pair)

    def _requests(self, proxy: WireFaultProxy, pair: _Pair) -> None:
        left = b""
        while data := pair.client.recv(_CHUNK):
            left += data
            while left:
                found = proxy.frames(left) if proxy.frames is not None else (len(left), True)
                if found is None:
                    break
                frame, left = left[: found[0]], left[found[0] :]
                if not found[1]:
                    pair.service.sendall(frame)
                elif not self._request(proxy, pair, frame):
                    return

    def _request(self, proxy: WireFaultProxy, pair: _Pair, frame: bytes) -> bool:
        """Pass a request on; False if the connection is broken in its place."""
        fault = proxy.fault(in_parts=False, of=_MADE)
        if fault is Fault.RESET_BEFORE:
            pair.end(reset=True)
            return False
        if fault is Fault.SLOW:
            time.sleep(proxy.slow)
        elif fault is not None:
            pair.fate = fault
        pair.service.sendall(frame)
        return True
