"""Stores new joins and sends messages, before a commit writes records."""

from __future__ import annotations

from dataclasses import replace

from cloudq.broker.broker import Broker
from cloudq.canvas.join_items import store_joins
from cloudq.driver import Item
from cloudq.errors import (
    BackendError,
    BrokerError,
    ConfigurationError,
    EncodeError,
    PublishError,
)
from cloudq.execution.settlement import NEVER, Batch, Settled
from cloudq.execution.spoiled import kept, unsendable
from cloudq.results.backend import Backend


def store_new_joins(batch: Batch, backend: Backend) -> None:
    """Store new joins before their members are sent."""
    waiting: list[Settled] = []
    items: list[Item] = []
    for pair in batch.ready:
        plan = pair[1].starts
        if plan is not None and plan.items:
            waiting.append(pair)
            items += plan.items
    if not waiting:
        return
    try:
        store_joins(items, backend)
    except BackendError as error:
        batch.fail(waiting, error)


def send_outgoing(batch: Batch, broker: Broker) -> None:
    """Send copies, and the messages that an end starts."""
    sending = [
        pair for pair in batch.ready if pair[1].resend is not None or pair[1].starts is not None
    ]
    messages = [message for _, settlement in sending for message in settlement.outgoing]
    if not messages:
        return
    refused: set[int] = set()
    error: BrokerError | None = None
    try:
        broker.send(messages)
    except PublishError as partly:
        error = partly
        refused = {id(messages[rejected.index]) for rejected in partly.rejected}
        never = {id(messages[r.index]): r for r in partly.rejected if r.code in NEVER}
        batch.ready = [unsendable(pair, never) for pair in batch.ready] if never else batch.ready
        sending = [pair for pair in batch.ready if pair[1].outgoing]
    except BrokerError as whole:
        error = whole
        refused = {id(message) for message in messages}
    except (EncodeError, ConfigurationError) as never:
        # Nothing was sent, since one message can never be: a retry is too long for the queue, say.
        if len(batch.ready) == 1:
            batch.ready = [kept(batch.ready[0], never, broker.clock())]
        else:
            _send_singly(batch, broker)
        return
    unsent = [pair for pair in sending if any(id(m) in refused for m in pair[1].outgoing)]
    if unsent:
        batch.fail(unsent, error)
    batch.ready = [_without_messages(pair) for pair in batch.ready]


def _send_singly(batch: Batch, broker: Broker) -> None:
    """Send one outcome's messages at a time, so that the one at fault stops no other."""
    pairs, batch.ready = batch.ready, []
    for pair in pairs:
        single = Batch(ready=[pair])
        send_outgoing(single, broker)
        batch.ready += single.ready
        batch.failed += single.failed
        batch.error = batch.error or single.error


def _without_messages(pair: Settled) -> Settled:
    delivery, settlement = pair
    if not settlement.outgoing:
        return pair
    return delivery, replace(settlement, resend=None, starts=None)
