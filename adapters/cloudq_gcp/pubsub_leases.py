"""Leases messages for as long as is wanted, in one request where the subscription does so."""

# The SDK is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Lock

from cloudq.driver.log import Log
from cloudq_gcp.errors import REQUEST_ERRORS
from cloudq_gcp.messages import Received
from cloudq_gcp.pubsub_requests import Requests

log = Log("cloudq.pubsub")

# Seconds for which a look at a subscription is believed: somebody may change its ack deadline.
_FRESH = 60.0
# Seconds without a look after one that failed. Some workers may not look, and looks have a quota.
_WITHOUT = 600.0
# Seconds for a look: the messages that wait for it are leased for ten at least.
_PATIENCE = 4.0
# Subscriptions to know, before those whose looks are stale are forgotten.
_MOST = 1_000


class Leasing:
    """Pulls from subscriptions, and knows the ack deadlines of those that it may look at.

    Safe to use from many threads.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._lock = Lock()
        self._known: dict[str, tuple[int | None, float]] = {}

    def pull(self, subscription: str, count: int, wait: float, lease: int) -> Sequence[Received]:
        """Lease up to `count` messages for `lease` s, waiting up to `wait` s for the first.

        A pull leases for the subscription's ack deadline; where that is another or is not known,
        a second request makes the leases as long as they are to be.
        """
        received = self._requests.pull(subscription, count, wait)
        if not received or self._ack_deadline(subscription) == lease:
            return received
        ids = [message.ack_id for message in received]
        lost = {failure.index for failure in self._requests.modify(subscription, ids, lease)}
        return [message for index, message in enumerate(received) if index not in lost]

    def forget(self, subscription: str) -> None:
        """Look again at a subscription that was made or deleted."""
        with self._lock:
            self._known.pop(subscription, None)

    def _ack_deadline(self, subscription: str) -> int | None:
        """The seconds for which the subscription leases messages; None if that is not known."""
        with self._lock:
            known, until = self._known.get(subscription, (None, 0.0))
            if time.monotonic() < until:
                return known
            self._remember(subscription, None, _FRESH)  # one looks, and the others do without
        found, seconds = None, _WITHOUT
        try:
            found, seconds = self._requests.ack_deadline(subscription, _PATIENCE), _FRESH
        except REQUEST_ERRORS as error:
            log.debug("the ack deadline of %s is not known: %s", subscription, error)
        with self._lock:
            self._remember(subscription, found, seconds)
        return found

    def _remember(self, subscription: str, found: int | None, seconds: float) -> None:
        now = time.monotonic()
        if len(self._known) >= _MOST:
            self._known = {name: each for name, each in self._known.items() if each[1] > now}
        self._known[subscription] = found, now + seconds
