"""Deliveries: the limits on how often one message is delivered, and those that stay unsettled."""

from __future__ import annotations

from dataclasses import dataclass

from cloudq.driver import Code, Delivery

# A retry of an ordered group puts the messages received along with it back, so that many
# deliveries of one message are no deaths of workers there.
_ORDERED_PATIENCE = 10
_SPARE = 10


def allowed_deliveries(most: int, *, ordered: bool) -> int:
    """Deliveries after which the app gives a message up; `most` is the setting `max_deliveries`."""
    return most * (_ORDERED_PATIENCE if ordered else 1)


def queue_deliveries(most: int, *, ordered: bool) -> int:
    """Deliveries after which the queue itself dead-letters a message.

    More than the app allows, so that the app records a failure before the message is gone.
    """
    return allowed_deliveries(most, ordered=ordered) + _SPARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """One delivery that a batched call did not settle, with the reason."""

    delivery: Delivery
    code: Code
    reason: str
