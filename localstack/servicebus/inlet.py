"""Incoming links of clients: their messages go into a queue, or are requests to a desk."""

from __future__ import annotations

from collections.abc import Callable

from localstack.servicebus import errors, frames
from localstack.servicebus.desk import refused
from localstack.servicebus.errors import Refusal
from localstack.servicebus.faults import Fault
from localstack.servicebus.frames import Attach, Flow, Transfer
from localstack.servicebus.message import (
    BATCH_FORMAT,
    Request,
    read,
    read_batch,
    read_request,
)
from localstack.servicebus.namespace import Queue
from localstack.servicebus.values import DecodeError
from localstack.servicebus.wire import Wire, address, terminus

_CREDIT = 1000


class Inlet:
    """An incoming link. Its subclasses decide what becomes of the messages."""

    def __init__(self, wire: Wire, asked: Attach) -> None:
        self.wire = wire
        self.asked = asked
        self.handle = asked.handle
        self.address = address(asked.target)
        self._most: int | None = None
        self._count = asked.initial_count or 0
        self._credit = _CREDIT
        self._parts: list[bytes] = []
        self._size = 0
        self._first: Transfer | None = None

    def begin(self, most: int | None, properties: bytes) -> None:
        """Attach the link and grant credit for messages."""
        self._most = most
        source = terminus(0x28, self.asked.source)
        target = terminus(0x29, self.asked.target)
        answer = frames.attached(
            self.asked, source=source, target=target, max_message=most, properties=properties
        )
        self.wire.write(answer)
        self._grant()

    def _grant(self) -> None:
        self._credit = _CREDIT
        self.wire.say(self.handle, count=self._count, credit=_CREDIT)

    def flow(self, said: Flow) -> None:
        """Answer a sender's flow frame if it asks for that; the rest of the frame is ignored."""
        if said.echo:
            self._grant()

    def leave(self) -> None:
        """End the link on this side."""

    def transfer(self, part: Transfer, payload: bytes) -> None:
        """Join the parts of a message."""
        first = self._first or part
        self._first = first
        self._size += len(payload)
        if self._most is None or self._size <= self._most:
            self._parts.append(payload)
        if part.more:
            return
        data, size = b"".join(self._parts), self._size
        self._parts, self._size, self._first = [], 0, None
        if part.aborted or first.delivery is None:
            return
        self._count += 1
        self._credit -= 1
        self._take(first, data, size)
        if self._credit < _CREDIT // 2:
            self._grant()

    def _take(self, first: Transfer, data: bytes, size: int) -> None:
        outcome = frames.ACCEPTED
        try:
            if not self.receive(first, data, size):
                return
        except Refusal as refusal:
            outcome = frames.rejected(refusal.condition, refusal.description)
        except DecodeError as error:
            outcome = frames.rejected(errors.DECODE_ERROR, str(error))
        if not first.settled and first.delivery is not None:
            self.wire.write(frames.settled(frames.RECEIVER, first.delivery, outcome))

    def receive(self, first: Transfer, data: bytes, size: int) -> bool:
        """Handle a message; return False if the connection was cut. Raises `Refusal`."""
        raise NotImplementedError


class QueueInlet(Inlet):
    """An incoming link to a queue."""

    def __init__(self, wire: Wire, asked: Attach, queue: Queue) -> None:
        super().__init__(wire, asked)
        self._queue = queue

    def receive(self, first: Transfer, data: bytes, size: int) -> bool:
        """Queue the message, or the messages of a batch."""
        self.wire.namespace.stats["transfers"] += 1
        fault = self.wire.strike("transfer", self._queue.name)
        if fault and not fault.after:
            return False
        batch = first.format == BATCH_FORMAT
        most = self._queue.most_batch_bytes if batch else self._queue.most_bytes
        if size > most:
            raise Refusal(
                errors.TOO_LARGE,
                f"The received message (delivery-id:{first.delivery}, size:{size} bytes) exceeds"
                f" the limit ({most} bytes) currently allowed on the link.",
            )
        messages = read_batch(data) if batch else [read(data)]
        if self.wire.namespace.find(self._queue.name) is not self._queue:
            raise errors.missing(self._queue.name)
        self._queue.send(messages)
        self.wire.namespace.stats["messages"] += len(messages)
        if fault:
            self.wire.peer.drop()
        return not fault


class DeskInlet(Inlet):
    """An incoming link to a desk."""

    def __init__(
        self,
        wire: Wire,
        asked: Attach,
        queue: Queue | None,
        answer: Callable[[Request], bytes],
        respond: Callable[[Inlet, Request, bytes], None],
    ) -> None:
        super().__init__(wire, asked)
        self._queue = queue
        self._answer = answer
        self._respond = respond

    def receive(self, first: Transfer, data: bytes, size: int) -> bool:
        """Answer the request."""
        request = read_request(data)
        fault: Fault | None = None
        try:
            if self._queue is not None:
                self.wire.namespace.stats["management"] += 1
                fault = self.wire.strike("management", self._queue.name)
                if fault and not fault.after:
                    return False
            answer = self._answer(request)
        except Refusal as refusal:
            answer = refused(request, refusal)
        if fault:
            self.wire.peer.drop()
            return False
        self._respond(self, request, answer)
        return True
