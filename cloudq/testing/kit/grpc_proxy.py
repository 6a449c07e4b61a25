"""A proxy before a service that speaks gRPC, which fails calls by chance, as networks do."""

# grpc is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import grpc

from cloudq.testing.kit.dice import REFUSED, Fault, Proxy

# Calls under way at a time; of these many may be pulls, which wait.
_CALLS = 256
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 4 << 20),
    ("grpc.so_reuseport", 0),
    # As a server of a cloud's does, and not as one that takes pings for an attack.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
# What gRPC itself adds to the metadata of a call.
_OWN = ("grpc-", "user-agent", "te", "content-type", ":")

Part = tuple[bytes | None, Callable[[bytes], bytes]]
Batches = Callable[[str, bytes, Callable[[int], int]], Part | None]


class GrpcFaultProxy(Proxy):
    """Passes calls on to the server at `upstream`, and lets each fail with these `chances`.

    As `FaultProxy` does for HTTP; give its `address` as that of an emulator. It takes all methods
    of all services, those with streams too. An error is INTERNAL, a throttle RESOURCE_EXHAUSTED,
    a reset UNAVAILABLE; one after the effect is, every other time, DEADLINE_EXCEEDED. Of a stream
    that is cut half of the messages come. `slow` is in seconds.

    `batches` is given the method's path, the request's bytes and a function that chooses one of so
    many elements, and returns the request without one of them (None if it had no other) and what
    adds to the answer that this one has failed; None for a call that is no batch.
    `cloudq_gcp.faults.held_back` knows those of Firestore. It needs `grpcio`.
    """

    def __init__(
        self,
        upstream: str,
        *,
        seed: int = 0,
        chances: Mapping[Fault, float] | None = None,
        slow: float = 1.0,
        batches: Batches | None = None,
    ) -> None:
        super().__init__(seed=seed, chances=chances, slow=slow)
        self._batches = batches
        self._channel = grpc.insecure_channel(upstream, options=_OPTIONS)
        self._threads = ThreadPoolExecutor(_CALLS, thread_name_prefix="grpc-proxy")
        self._server = grpc.server(self._threads, options=_OPTIONS)
        self._server.add_generic_rpc_handlers((_Every(self),))
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def address(self) -> str:
        """The proxy's own host and port."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Begin to take requests."""
        self._server.start()

    def stop(self) -> None:
        """End, with all calls."""
        # First, since it ends the calls for which threads still wait.
        self._channel.close()
        self._server.stop(None).wait()
        self._threads.shutdown()

    def answers(
        self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Answer one call, by the service or by a fault."""
        first = next(requests, b"")
        part = self._batches(method, first, self.choose) if self._batches is not None else None
        fault = self.fault(in_parts=part is not None)
        if fault is not None and fault in REFUSED:
            if fault is Fault.EMPTY:
                yield b""
            else:
                _fail(context, _CODES[fault])
            return
        if fault is Fault.SLOW:
            time.sleep(self.slow)
        if fault is Fault.PARTIAL and part is not None:
            rest, told = part
            answer = b"" if rest is None else b"".join(self._passed(method, iter([rest]), context))
            yield told(answer)
            return
        found = self._passed(method, chain([first], requests), context)
        if fault is Fault.RESET_AFTER:
            for _ in found:
                pass
            late = self.choose(2)
            _fail(context, grpc.StatusCode.DEADLINE_EXCEEDED if late else _CODES[fault])
        elif fault is Fault.CUT:
            messages = list(found)
            yield from messages[: len(messages) // 2]
            _fail(context, _CODES[fault])
        else:
            yield from found

    def _passed(
        self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        metadata = tuple(
            (name, value)
            for name, value in context.invocation_metadata() or ()
            if not name.startswith(_OWN)
        )
        # Streams serve for calls of every kind.
        call: Any = self._channel.stream_stream(method)(
            requests, timeout=context.time_remaining(), metadata=metadata
        )
        context.add_callback(call.cancel)
        try:
            yield from call
        except grpc.RpcError:
            told = call.trailing_metadata() or ()
            context.set_trailing_metadata(tuple(each for each in told if each[0].endswith("-bin")))
            _fail(context, call.code(), call.details())


_CODES = {
    Fault.ERROR: grpc.StatusCode.INTERNAL,
    Fault.THROTTLED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Fault.RESET_BEFORE: grpc.StatusCode.UNAVAILABLE,
    Fault.RESET_AFTER: grpc.StatusCode.UNAVAILABLE,
    Fault.CUT: grpc.StatusCode.INTERNAL,
}


def _fail(context: grpc.ServicerContext, code: grpc.StatusCode, why: str = "as planned") -> None:
    context.set_code(code)
    context.set_details(why)


class _Every(grpc.GenericRpcHandler):
    def __init__(self, proxy: GrpcFaultProxy) -> None:
        self._proxy = proxy

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = str(handler_call_details.method)

        def answers(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            return self._proxy.answers(method, requests, context)

        return grpc.stream_stream_rpc_method_handler(answers)
