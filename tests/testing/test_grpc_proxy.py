"""The proxy before a service of gRPC fails calls as it says, and leaves the others as they are."""

# grpc is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.cloud.firestore_v1.types import BatchWriteRequest, BatchWriteResponse, Write
from grpc import StatusCode

from cloudq.testing import Fault, GrpcFaultProxy
from cloudq_gcp.faults import held_back


class Service(grpc.GenericRpcHandler):
    """Echoes unary calls, sends what `Count` asks for, and refuses all else."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes, dict[str, Any]]] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        name = str(handler_call_details.method).rpartition("/")[2]
        made = {"Echo": grpc.unary_unary_rpc_method_handler(self._echo)}
        made["Count"] = grpc.unary_stream_rpc_method_handler(self._count)
        made["BatchWrite"] = grpc.unary_unary_rpc_method_handler(self._write)
        return made.get(name)

    def _called(self, body: bytes, context: grpc.ServicerContext) -> None:
        told: Any = context.invocation_metadata() or ()
        self.calls.append((body, dict(told)))

    def _echo(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        self._called(body, context)
        if body == b"refuse":
            context.set_trailing_metadata((("why-bin", b"\x00so"), ("other", "x")))
            context.abort(StatusCode.NOT_FOUND, "not here")
        return body

    def _count(self, body: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._called(body, context)
        for n in range(int(body)):
            yield b"%d" % n

    def _write(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        self._called(body, context)
        writes: Any = BatchWriteRequest.deserialize(body).writes
        answer: Any = BatchWriteResponse(write_results=[{} for _ in writes])
        answer.status = [{"code": 0, "message": write.delete} for write in writes]
        return BatchWriteResponse.serialize(answer)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def proxy(service: Service) -> Iterator[GrpcFaultProxy]:
    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        made = GrpcFaultProxy(f"127.0.0.1:{port}", seed=4, slow=0.2, batches=held_back)
        with made as proxy:
            yield proxy
        server.stop(None).wait()


@pytest.fixture
def channel(proxy: GrpcFaultProxy) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(proxy.address) as channel:
        yield channel


def echo(channel: grpc.Channel, body: bytes = b"x", timeout: float = 30) -> bytes:
    call: Any = channel.unary_unary("/some.Service/Echo")
    return bytes(call(body, timeout=timeout, metadata=(("authorization", "Bearer me"),)))


def counted(channel: grpc.Channel, count: int) -> tuple[list[bytes], StatusCode]:
    call: Any = channel.unary_stream("/some.Service/Count")(b"%d" % count, timeout=30)
    found: list[bytes] = []
    try:
        found += call
    except grpc.RpcError:
        return [*found], call.code()
    return found, StatusCode.OK


def refused(channel: grpc.Channel, body: bytes = b"x") -> StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        echo(channel, body)
    error: Any = caught.value
    return error.code()


def test_without_chances_it_passes_all_on(
    proxy: GrpcFaultProxy, channel: grpc.Channel, service: Service
) -> None:
    assert echo(channel, b"hello") == b"hello"
    body, metadata = service.calls[0]
    assert (body, metadata["authorization"]) == (b"hello", "Bearer me")
    assert counted(channel, 3) == ([b"0", b"1", b"2"], StatusCode.OK)
    assert (proxy.requests, proxy.counts.total()) == (2, 0)


def test_a_refusal_of_the_service_is_passed_on_whole(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        echo(channel, b"refuse")
    error: Any = caught.value
    assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "not here")
    assert ("why-bin", b"\x00so") in [tuple(each) for each in error.trailing_metadata()]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.ERROR, StatusCode.INTERNAL),
        (Fault.THROTTLED, StatusCode.RESOURCE_EXHAUSTED),
        (Fault.RESET_BEFORE, StatusCode.UNAVAILABLE),
    ],
)
def test_what_fails_before_the_effect_has_none(
    proxy: GrpcFaultProxy,
    channel: grpc.Channel,
    service: Service,
    fault: Fault,
    code: StatusCode,
) -> None:
    proxy.chances = {fault: 1.0}
    assert refused(channel) == code
    assert (service.calls, proxy.counts) == ([], {fault: 1})


def test_a_lost_answer_is_of_a_call_that_was_made(
    proxy: GrpcFaultProxy, channel: grpc.Channel, service: Service
) -> None:
    proxy.chances = {Fault.RESET_AFTER: 1.0}
    codes = {refused(channel) for _ in range(20)}
    assert codes == {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED}
    assert len(service.calls) == 20


def test_half_of_a_stream_that_is_cut_comes(
    proxy: GrpcFaultProxy, channel: grpc.Channel, service: Service
) -> None:
    proxy.chances = {Fault.CUT: 1.0}
    assert counted(channel, 4) == ([b"0", b"1"], StatusCode.INTERNAL)
    assert refused(channel) == StatusCode.INTERNAL
    assert len(service.calls) == 2


def test_an_empty_answer_is_a_success(
    proxy: GrpcFaultProxy, channel: grpc.Channel, service: Service
) -> None:
    proxy.chances = {Fault.EMPTY: 1.0}
    assert (echo(channel), service.calls) == (b"", [])


def test_a_slow_answer_is_late(proxy: GrpcFaultProxy, channel: grpc.Channel) -> None:
    proxy.chances = {Fault.SLOW: 1.0}
    began = time.monotonic()
    assert echo(channel) == b"x"
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("size", [1, 5])
def test_a_batch_of_writes_may_fail_in_one(
    proxy: GrpcFaultProxy, channel: grpc.Channel, service: Service, size: int
) -> None:
    proxy.chances = {Fault.PARTIAL: 1.0}
    request: Any = BatchWriteRequest(writes=[Write(delete=f"d/{n}") for n in range(size)])
    call: Any = channel.unary_unary("/google.firestore.v1.Firestore/BatchWrite")
    found: Any = BatchWriteResponse.deserialize(
        call(BatchWriteRequest.serialize(request), timeout=30)
    )
    failed = [place for place, status in enumerate(found.status) if status.code]
    assert (len(found.status), len(found.write_results), len(failed)) == (size, size, 1)
    told = [status.message for status in found.status]
    wanted = [f"d/{n}" for n in range(size)]
    wanted[failed[0]] = "as planned"
    assert told == wanted
    assert len(service.calls) == (size > 1)
    assert (echo(channel), proxy.counts.total()) == (b"x", 1)  # it is no batch
