"""Runs one batch of SQS messages in a Lambda, and answers message by message.

Lambda deletes every message that its answer, a partial batch response, does not name, so a message
is named until its outcome is durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from threading import RLock, Thread
from typing import Any, cast

from cloudq.driver import Delivery
from cloudq.driver.log import Log
from cloudq.errors import BackendError
from cloudq.execution.bundles import in_order, whole_of, wholes
from cloudq.execution.commit import dispose
from cloudq.execution.deadline import released
from cloudq.execution.interrupt import Alarm
from cloudq.execution.invocation import KEPT, Invocation
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action, Settled, Settlement
from cloudq_aws.messages import ID, receipt_of

log = Log("cloudq.lambda")

Record = Mapping[str, Any]
"""One message in Lambda's event."""

# What a record raises that lacks its receipt, queue or body, or has others than texts there.
_LACKING = (KeyError, TypeError, AttributeError)
# No count and no time of SQS has more digits.
_DIGITS = 18


class SqsBatch:
    """Runs the tasks of one event, given as its `records`.

    `threads` tasks run at a time, on queues without order; `prefix` is that of the broker.
    """

    def __init__(
        self,
        invocation: Invocation,
        records: Sequence[Record],
        *,
        threads: int = 1,
        prefix: str = "",
    ) -> None:
        self._invocation = invocation
        self._records = records
        self._executor = invocation.executor
        self._deadline = invocation.deadline
        self._threads = threads
        self._prefix = prefix
        self._deliveries: dict[str, Delivery] = {}  # by receipt
        self._odd: dict[int, str] = {}  # reasons, by the identity of a record
        # What a record has: one call, or those of a bundle; by receipt.
        self._opened: dict[str, deque[tuple[Delivery, Job | Settlement]]] = {}
        self._pending: deque[Settled] = deque()
        self._reported: dict[str, str] = {}  # reasons, by receipt
        self._settling = RLock()
        self._watch: Alarm | None = None
        self._late = False
        self._ordered = False
        self._blocked: set[str] = set()  # groups with a message that stays
        self._unsure: dict[str, Delivery] = {}  # the last message not settled yet, by group

    # ---- the life of a batch

    def answer(self) -> dict[str, Any]:
        """Run the batch, and return the response that names the messages to be kept."""
        self._open()
        try:
            self._run_all()
        finally:
            if self._watch is not None:
                self._watch.cancel()
            self._settle()
        # One without an id brings the whole batch back: else Lambda would delete it.
        kept = [record.get("messageId") or "" for record in self._records if self._stays(record)]
        return {"batchItemFailures": [{"itemIdentifier": id} for id in kept]}

    def _open(self) -> None:
        lease = self._deadline.remaining()
        for record in self._records:
            try:
                delivery = to_delivery(record, self._prefix, lease)
            except _LACKING as error:
                named = f"{type(error).__name__}: {error}"
                self._odd[id(record)] = f"its record is none that SQS makes ({named})"
                log.error("message %s: %s", record.get("messageId"), self._odd[id(record)])
                continue
            self._deliveries[receipt_of(delivery)] = delivery
        deliveries = list(self._deliveries.values())
        broker = self._invocation.broker
        queues = {delivery.queue for delivery in deliveries}
        self._ordered = any(broker.limits(queue).ordered for queue in queues)
        try:
            jobs, settled = self._executor.open(deliveries)
        except BackendError as down:
            log.error("all %d messages of a batch stay: %s", len(deliveries), down)
            self._reported = dict.fromkeys(self._deliveries, str(down))
            return
        for delivery, opened in in_order([*((job.delivery, job) for job in jobs), *settled]):
            self._opened.setdefault(receipt_of(delivery), deque()).append((delivery, opened))
        until = self._deadline.until_late()
        if isfinite(until):
            self._watch = Alarm(self._start_late)
            self._executor.alarms.set(until, self._watch)

    def _run_all(self) -> None:
        """Run the batch: one by one on ordered queues, else several at a time."""
        whole = filter(self._is_whole, self._records)
        # A bundle is processed as often as it has calls, so that the threads share them.
        records = (record for record in whole for _ in range(self._calls_of(record)))
        if self._threads == 1 or self._ordered:
            for record in records:
                self._run(record)
            return
        with ThreadPoolExecutor(self._threads, thread_name_prefix="cloudq") as pool:
            list(pool.map(self._run, records))

    def _calls_of(self, record: Record) -> int:
        return len(self._opened.get(record["receiptHandle"], ()))

    def _is_whole(self, record: Record) -> bool:
        """Tell whether a record can be run; where it cannot, the later ones of its group wait."""
        if id(record) not in self._odd:
            return True
        group = _text(_inside(record, "attributes").get("MessageGroupId"))
        if group is not None:
            self._blocked.add(group)
        return False

    def _stays(self, record: Record) -> bool:
        return id(record) in self._odd or record["receiptHandle"] in self._reported

    # ---- one message

    def _run(self, record: Record) -> None:
        """Run the next call of a message, or report it if its handling fails.

        It may fail in cloudq, or in a key function.
        """
        receipt = record["receiptHandle"]
        try:
            self._handle(receipt)
        except Exception as error:
            log.error("message %s could not be run", record["messageId"], exc_info=error)
            self._report(self._deliveries[receipt], f"{type(error)}: {error}")

    def _handle(self, receipt: str) -> None:
        """Decide the settlement of a message's next call; run its task if it is to be run."""
        try:
            delivery, opened = self._opened[receipt].popleft()
        except (KeyError, IndexError):  # the store is down, or this lease was there before
            return
        group = delivery.group if self._ordered else None
        whole = whole_of(delivery)
        if group is not None and (self._unsure.get(group, whole) is not whole or self._late):
            # Should its predecessor not settle after all, this one must not have run.
            self._settle()
        settlement = self._settlement(opened, group)
        self._pending.append((delivery, settlement))
        if group is not None and settlement.action in KEPT:
            self._blocked.add(group)
        elif group is not None:
            self._unsure[group] = whole
        if self._late:
            self._settle(delete=True)

    def _settlement(self, opened: Job | Settlement, group: str | None) -> Settlement:
        if isinstance(opened, Settlement):
            return opened
        if group in self._blocked:
            return released(opened, "an earlier message of its group comes first")
        return self._invocation.run_job(opened)

    # ---- what is done about them

    def _start_late(self) -> None:
        # In a thread of its own: it takes requests, and other alarms must ring meanwhile.
        Thread(target=self._run_late, name="late", daemon=True).start()

    def _run_late(self) -> None:
        # A task that cannot be interrupted may take the whole invocation down. What has finished
        # by now is deleted from the queue here, since then no response does it.
        self._late = True
        self._settle(delete=True)

    def _settle(self, *, delete: bool = False) -> None:
        """Make the outcomes durable and act on them; Lambda acks, unless `delete` is given."""
        with self._settling:
            self._unsure.clear()
            pairs = _drained(self._pending)
            if not pairs:
                return
            batch = self._invocation.commit(pairs)
            for delivery, _ in batch.failed:
                self._report(whole_of(delivery), f"not recorded: {batch.error}")
            ready, refused = wholes(batch.ready, self._invocation.broker)
            for each in refused:
                self._report(whole_of(each.delivery), each.reason)
            for delivery, settlement in ready:
                if settlement.action in KEPT:
                    self._report(delivery, settlement.reason)
            self._dispose(ready, delete=delete)

    def _dispose(self, ready: Sequence[Settled], *, delete: bool) -> None:
        acked = {receipt_of(delivery) for delivery, s in ready if s.action is Action.ACK}
        acted = [pair for pair in ready if delete or pair[1].action is not Action.ACK]
        for refused in dispose(acted, self._invocation.broker):
            receipt = receipt_of(refused.delivery)
            if receipt not in acked and receipt not in self._reported:
                self._report(refused.delivery, refused.reason)

    def _report(self, delivery: Delivery, reason: str) -> None:
        log.warning("message %s stays in %s: %s", delivery.id, delivery.queue, reason)
        self._reported[receipt_of(delivery)] = reason
        if self._ordered and delivery.group is not None:
            self._blocked.add(delivery.group)


def to_delivery(record: Record, prefix: str, lease: float) -> Delivery:
    """Return a record of the event as the SQS driver would have received it."""
    if record.get("eventSource") != "aws:sqs":
        raise TypeError("its eventSource is not aws:sqs")
    receipt = _text(record["receiptHandle"])
    # Of two messages with no receipt one would be taken for the other, and be deleted unrun.
    if not receipt:
        raise TypeError("its receiptHandle is no text")
    id = _text(_inside(_inside(record, "messageAttributes"), ID).get("stringValue"))
    attributes = _inside(record, "attributes")
    sent = _number(attributes.get("SentTimestamp"))
    return Delivery(
        queue=record["eventSourceARN"].rpartition(":")[2].removeprefix(prefix),
        id=id or record["messageId"],
        body=record["body"].encode(errors="replace"),
        receipt=receipt,
        attempts=max(1, _number(attributes.get("ApproximateReceiveCount")) or 1),
        lease=lease,
        group=_text(attributes.get("MessageGroupId")),
        sent_at=None if sent is None else sent / 1000,
    )


_NOTHING: Record = {}


def _inside(fields: Record, name: str) -> Record:
    inside = fields.get(name)
    # Most are dicts, which is told in less time than that they are mappings.
    is_known = type(inside) is dict or isinstance(inside, Mapping)
    return cast("Record", inside) if is_known else _NOTHING


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    """Read a number that SQS sends as text; None where there is none."""
    if not isinstance(value, str) or not (value.isascii() and value.isdecimal()):
        return None
    return int(value) if len(value) <= _DIGITS else None


def _drained(pending: deque[Settled]) -> list[Settled]:
    # Other threads go on appending.
    return [pending.popleft() for _ in range(len(pending))]
