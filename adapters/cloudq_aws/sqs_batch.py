"""Runs one batch of SQS messages in a Lambda, and answers message by message.

The batch processor of Powertools makes the partial batch response; its content is decided here.
Lambda deletes every message that is not reported, so a message is reported until its outcome is
durable.
"""

# Powertools is typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from threading import RLock, Timer
from typing import Any, cast

from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    ExceptionInfo,
    FailureResponse,
)
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from cloudq.driver import Delivery
from cloudq.errors import BackendError
from cloudq.execution.commit import dispose
from cloudq.execution.deadline import released
from cloudq.execution.invocation import KEPT, Invocation, NotSettled
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action, Settled, Settlement
from cloudq_aws.messages import ID, receipt_of

log = logging.getLogger("cloudq.lambda")


# What a record raises that lacks its receipt, queue or body, or has others than texts there.
_LACKING = (KeyError, TypeError, AttributeError)


class SqsBatch(BatchProcessor):
    """Runs the tasks of one event. Use as `with batch(records=..., handler=batch.run)`.

    `threads` tasks run at a time, on queues without order; `prefix` is that of the broker.
    """

    def __init__(
        self,
        invocation: Invocation,
        *,
        threads: int = 1,
        prefix: str = "",
    ) -> None:
        super().__init__(EventType.SQS, raise_on_entire_batch_failure=False)
        self._invocation = invocation
        self._executor = invocation.executor
        self._deadline = invocation.deadline
        self._threads = threads
        self._prefix = prefix
        self._deliveries: dict[str, Delivery] = {}  # by receipt
        self._odd: dict[int, str] = {}  # reasons, by the identity of a record
        self._opened: dict[str, Job | Settlement] = {}  # by receipt
        self._pending: deque[Settled] = deque()
        self._reported: dict[str, str] = {}  # reasons, by receipt
        self._settling = RLock()
        self._watch: Timer | None = None
        self._late = False
        self._ordered = False
        self._blocked: set[str] = set()  # groups with a message that stays
        self._unsure: set[str] = set()  # groups with a message that is not settled yet

    # ---- the life of a batch, as Powertools calls it

    def _prepare(self) -> None:
        super()._prepare()
        for record in self._records:
            try:
                delivery = to_delivery(SQSRecord(record), self._prefix, self._deadline.remaining())
            except _LACKING as error:
                named = f"{type(error).__name__}: {error}"
                self._odd[id(record)] = f"its record is none that SQS makes ({named})"
                log.error("message %s: %s", record.get("messageId"), self._odd[id(record)])
                continue
            self._deliveries[receipt_of(delivery)] = delivery
        deliveries = list(self._deliveries.values())
        broker = self._invocation.broker
        self._ordered = any(broker.limits(delivery.queue).ordered for delivery in deliveries)
        try:
            jobs, settled = self._executor.open(deliveries)
        except BackendError as down:
            log.error("all %d messages of a batch stay: %s", len(deliveries), down)
            self._reported = dict.fromkeys(self._deliveries, str(down))
            return
        self._opened |= {receipt_of(job.delivery): job for job in jobs}
        self._opened |= {receipt_of(delivery): settlement for delivery, settlement in settled}
        until = self._deadline.until_late()
        if isfinite(until):
            self._watch = Timer(until, self._run_late)
            self._watch.daemon = True
            self._watch.start()

    def process(self) -> list[tuple[Any, ...]]:
        """Run the batch: one by one on ordered queues, else several at a time."""
        records = [record for record in self._records if id(record) not in self._odd]
        if self._threads == 1 or self._ordered:
            return [self._process_record(record) for record in records]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="cloudq") as pool:
            return list(pool.map(self._process_record, records))

    def _clean(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._settle()
        for record in self._records:
            odd = self._odd.get(id(record))
            reason = odd or self._reported.get(record["receiptHandle"])
            if reason is not None:
                error = NotSettled(reason)
                # One without an id brings the whole batch back: else Lambda would delete it.
                named = {**record, "messageId": record.get("messageId") or ""}
                super().failure_handler(SQSRecord(named), (NotSettled, error, None))
        super()._clean()

    def failure_handler(self, record: SQSRecord, exception: ExceptionInfo) -> FailureResponse:
        """Report a message whose handling failed, in cloudq or in a task's key function."""
        log.error("message %s could not be run", record.message_id, exc_info=exception[1])
        reason = f"{exception[0]}: {exception[1]}"
        self._report(self._deliveries[record.receipt_handle], reason)
        return "fail", reason, record

    @property
    def _records(self) -> Sequence[dict[str, Any]]:
        return cast("Sequence[dict[str, Any]]", self.records)

    # ---- one message

    def run(self, record: SQSRecord) -> None:
        """Decide one message's settlement; run its task if it is to be run."""
        opened = self._opened.pop(record.receipt_handle, None)
        # The store is down: the whole batch is reported. Or this lease was there before.
        if opened is None:
            return
        delivery = self._deliveries[record.receipt_handle]
        group = delivery.group if self._ordered else None
        if group is not None and (group in self._unsure or self._late):
            # Should its predecessor not settle after all, this one must not have run.
            self._settle()
        settlement = self._settlement(opened, group)
        self._pending.append((delivery, settlement))
        if group is not None:
            (self._blocked if settlement.action in KEPT else self._unsure).add(group)
        if self._late:
            self._settle(delete=True)

    def _settlement(self, opened: Job | Settlement, group: str | None) -> Settlement:
        if isinstance(opened, Settlement):
            return opened
        if group in self._blocked:
            return released(opened, "an earlier message of its group comes first")
        return self._invocation.run_job(opened)

    # ---- what is done about them

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
                self._report(delivery, f"not recorded: {batch.error}")
            for delivery, settlement in batch.ready:
                if settlement.action in KEPT:
                    self._report(delivery, settlement.reason)
            self._dispose(batch.ready, delete=delete)

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


def to_delivery(record: SQSRecord, prefix: str, lease: float) -> Delivery:
    """Return a record of the event as the SQS driver would have received it."""
    fields = cast("Mapping[str, object]", record.raw_event)
    if fields.get("eventSource") != "aws:sqs":
        raise TypeError("its eventSource is not aws:sqs")
    id = _text(_inside(_inside(fields, "messageAttributes"), ID).get("stringValue"))
    attributes = _inside(fields, "attributes")
    sent = _number(attributes.get("SentTimestamp"))
    return Delivery(
        queue=record.event_source_arn.rpartition(":")[2].removeprefix(prefix),
        id=id or record.message_id,
        body=record.body.encode(errors="replace"),
        receipt=record.receipt_handle,
        attempts=max(1, _number(attributes.get("ApproximateReceiveCount")) or 1),
        lease=lease,
        group=_text(attributes.get("MessageGroupId")),
        sent_at=None if sent is None else sent / 1000,
    )


def _inside(fields: Mapping[str, object], name: str) -> Mapping[str, object]:
    inside = fields.get(name)
    return cast("Mapping[str, object]", inside) if isinstance(inside, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    """Read a number that SQS sends as text; None where there is none."""
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value) else None


def _drained(pending: deque[Settled]) -> list[Settled]:
    # Other threads go on appending.
    return [pending.popleft() for _ in range(len(pending))]
