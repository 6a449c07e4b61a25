"""A wire to a gRPC server that tests can listen to, and cut: a proxy for unary calls."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)

Answer = Callable[[str, bytes, grpc.ServicerContext], bytes | None]
"""Answers a call of this name and request, refuses it by its context, or lets it pass (None)."""


@dataclass
class Wire(grpc.GenericRpcHandler):
    """A record of the traffic, and the `answer` to all that follows. `port` is its own."""

    upstream: grpc.Channel
    port: int = 0
    calls: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    answer: Answer | None = None

    def names(self) -> list[str]:
        """The names of the calls so far."""
        return [name for name, _ in self.calls]

    def requests(self, name: str) -> list[bytes]:
        """The requests of the calls of this name."""
        return [body for called, body in self.calls if called == name]

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = str(details.method)
        name = method.rpartition("/")[2]

        def call(body: bytes, context: grpc.ServicerContext) -> bytes:
            self.calls.append((name, body))
            answer = self.answer(name, body, context) if self.answer else None
            return self._pass(method, body, context) if answer is None else answer

        return grpc.unary_unary_rpc_method_handler(call)

    def _pass(self, method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return self.upstream.unary_unary(method)(body, timeout=context.time_remaining())
        except grpc.RpcError as error:
            details = [pair for pair in error.trailing_metadata() or () if pair[0].endswith("-bin")]
            context.set_trailing_metadata(tuple(details))
            context.abort(error.code(), error.details() or "")


@contextmanager
def wired(upstream: str) -> Generator[Wire]:
    """A wire to the server at `HOST:PORT`, for the length of the block."""
    with (
        grpc.insecure_channel(upstream, options=_OPTIONS) as channel,
        ThreadPoolExecutor(8) as pool,
    ):
        wire = Wire(upstream=channel)
        server = grpc.server(pool, options=_OPTIONS)
        server.add_generic_rpc_handlers((wire,))
        wire.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield wire
        finally:
            # First, since it ends the calls upstream for which the pool's threads still wait.
            channel.close()
            server.stop(None).wait()


def refuse_leases(context: grpc.ServicerContext, leases: dict[str, str]) -> NoReturn:
    """Refuse as an exactly-once subscription does: what each lease of a request met."""
    detail = Packed()
    detail.Pack(
        ErrorInfo(
            reason="EXACTLY_ONCE_ACKID_FAILURE", domain="pubsub.googleapis.com", metadata=leases
        )
    )
    status = Status(code=Code.INVALID_ARGUMENT, message="Some leases failed", details=[detail])
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError
