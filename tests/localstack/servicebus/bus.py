"""Microsoft's SDK on a stand-in of Service Bus, set to wait little."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUnknownVariableType=false, reportPrivateUsage=false
from __future__ import annotations

import gc
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

from azure.core.pipeline.transport import RequestsTransport
from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiver,
    ServiceBusSender,
)
from azure.servicebus.management import ServiceBusAdministrationClient

from cloudq.testing.waiting import PATIENCE
from tests.servers import unique

WAIT = PATIENCE
"""Seconds after which what must come is missing."""
GLIMPSE = 0.3
"""Seconds for which one looks for what must not come."""


class PlainTransport(RequestsTransport):
    """The SDK speaks https to the administration of a namespace; the stand-in has http."""

    def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **kwargs)


def connection_string(port: int, key: str = "any", secret: str = "any") -> str:
    """The connection string for the SDK."""
    return (
        f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName={key};SharedAccessKey={secret};"
        "UseDevelopmentEmulator=true"
    )


class Bus:
    """Senders and receivers on one stand-in. Closing them takes the SDK long: it is done aside."""

    def __init__(self, port: int, admin_port: int, key: str = "any", secret: str = "any") -> None:
        self.port, self.admin_port = port, admin_port
        self.admin = ServiceBusAdministrationClient.from_connection_string(
            connection_string(admin_port, key, secret), transport=PlainTransport(), retry_total=0
        )
        self.client = ServiceBusClient.from_connection_string(
            connection_string(port, key, secret),
            retry_total=0,
            socket_timeout=0.02,
            keep_alive=0,  # no thread whose end is waited for, where the SDK lets one choose
        )
        self._opened: list[ServiceBusSender | ServiceBusReceiver] = []
        self._closing: list[Future[None]] = []
        self._threads = ThreadPoolExecutor(12)
        self._senders: dict[str, Future[ServiceBusSender]] = {}
        self._receivers: dict[str, list[Future[ServiceBusReceiver]]] = {}

    def queue(self, *, warm: int = 1, **properties: Any) -> str:
        """A new queue; durations are timedeltas or seconds.

        The SDK takes half a second to open anything, so a sender and `warm` receivers are opened
        ahead. They have no credit until they are used.
        """
        name = unique("q")
        for key in ("lock_duration", "duplicate_detection_history_time_window"):
            if key in properties and not isinstance(properties[key], timedelta):
                properties[key] = timedelta(seconds=properties[key])
        self.admin.create_queue(name, **properties)
        if warm:
            self._senders[name] = self._threads.submit(self._sender, name)
        if not properties.get("requires_session"):
            ahead = [self._threads.submit(self._receiver, name) for _ in range(warm)]
            self._receivers[name] = ahead
        return name

    def sender(self, queue: str) -> ServiceBusSender:
        """An open sender; the same one for as long as there is one."""
        ahead = self._senders.get(queue)
        if ahead is None or ahead.exception() or not ahead.result()._running:
            sender = self._sender(queue)
            self._senders[queue] = ahead = Future()
            ahead.set_result(sender)
        return ahead.result()

    def own_sender(self, queue: str) -> ServiceBusSender:
        """An open sender, another one each time: threads cannot share one."""
        return self._sender(queue)

    def _sender(self, queue: str) -> ServiceBusSender:
        sender = self.client.get_queue_sender(queue)
        self._opened.append(sender)
        sender.__enter__()
        return sender

    def receiver(self, queue: str, **options: Any) -> ServiceBusReceiver:
        """An open receiver, another one each time."""
        ahead = self._receivers.get(queue)
        return ahead.pop().result() if ahead and not options else self._receiver(queue, **options)

    def refused(self, queue: str, **options: Any) -> None:
        """Open a receiver that cannot be, and raise why."""
        # With a prefetch the SDK starts no thread, for which it would wait a second.
        self._receiver(queue, prefetch_count=1, **options)

    def _receiver(self, queue: str, **options: Any) -> ServiceBusReceiver:
        receiver = self.client.get_queue_receiver(queue, **options)
        self._opened.append(receiver)
        receiver.__enter__()
        return receiver

    def dead(self, queue: str) -> ServiceBusReceiver:
        """An open receiver of a dead-letter queue."""
        return self.receiver(queue, sub_queue="deadletter")

    def send(self, queue: str, *bodies: str, **properties: Any) -> None:
        """Send one message, or a batch."""
        messages = [ServiceBusMessage(body, **properties) for body in bodies]
        self.sender(queue).send_messages(messages if len(messages) > 1 else messages[0])

    def counts(self, queue: str) -> tuple[int, int, int]:
        """Active, scheduled and dead messages."""
        found = self.admin.get_queue_runtime_properties(queue)
        return (
            found.active_message_count or 0,
            found.scheduled_message_count or 0,
            found.dead_letter_message_count or 0,
        )

    def control(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Call the stand-in's own control."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.admin_port}/{path}",
            None if body is None else json.dumps(body).encode(),
            method=method,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=WAIT) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{error.code}: {error.read().decode()}") from None

    def fault(self, **wanted: Any) -> None:
        """Ask for trouble."""
        self.control("POST", "_faults", wanted)

    def stats(self) -> dict[str, int]:
        """The stand-in's counts."""
        return self.control("GET", "_stats")

    def settle(self) -> None:
        """Let all senders and receivers of a test close, without waiting for them."""
        ahead: list[Future[Any]] = [*self._senders.values(), *chain(*self._receivers.values())]
        wait(ahead)
        closing = [self._threads.submit(_quietly, handler.close) for handler in self._opened]
        self._closing = [future for future in [*self._closing, *closing] if not future.done()]
        for each in (self._opened, self._senders, self._receivers):
            each.clear()

    def finish(self) -> None:
        """Wait for them. What the SDK leaves open of a cut connection is collected here."""
        wait(self._closing)
        gc.collect()

    def close(self) -> None:
        """Close everything."""
        self.settle()
        self.finish()
        self._threads.shutdown()
        self.client.close()
        self.admin.close()


def _quietly(close: Callable[[], None]) -> None:
    # A test may have cut the connection of what it leaves behind.
    try:
        close()
    except Exception as error:
        print(f"closing: {error}")


def one(receiver: ServiceBusReceiver, within: float = WAIT) -> ServiceBusReceivedMessage:
    """The next message, which must come."""
    found = receiver.receive_messages(1, max_wait_time=within)
    assert found, f"no message within {within} s"
    return found[0]


def nothing(receiver: ServiceBusReceiver, within: float = GLIMPSE) -> None:
    """No message comes for a while."""
    assert receiver.receive_messages(1, max_wait_time=within) == []


def many(receiver: ServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    """As many messages, which must come, in the order in which they do."""
    found: list[ServiceBusReceivedMessage] = []
    deadline = datetime.now(UTC) + timedelta(seconds=WAIT)
    while len(found) < count and datetime.now(UTC) < deadline:
        found += receiver.receive_messages(count - len(found), max_wait_time=1)
    assert len(found) == count
    return found


def bodies(messages: Sequence[ServiceBusReceivedMessage]) -> list[str]:
    """Their texts."""
    return [str(message) for message in messages]


def soon(seconds: float) -> datetime:
    """A time to come."""
    return datetime.now(UTC) + timedelta(seconds=seconds)
