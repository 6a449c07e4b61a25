"""Tries a request again that failed alone, soon, when the SDK would wait long or not try.

The SDK pays for each retry from a budget, which is spent after some dozens of failures in excess of
what the successes earn. From then on an error that one more try would mend reaches the caller. And
it waits for up to 2 s after a throttled request, and the whole batch with it. Both are right in an
outage, and wrong while most requests are answered.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError

from cloudq.clock import Clock, grown
from cloudq.driver import Code
from cloudq_aws.errors import error_code

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.model import OperationModel

# The first pause before another try, in seconds, which doubles; chance takes up to all of it off.
_PAUSES = {Code.UNREACHABLE: 0.05, Code.THROTTLED: 0.2}
_LONGEST = 1.0
# A failure this many seconds after the service's last answer is taken for an outage: it is the
# SDK's then.
_OUTAGE_AFTER = 5.0


class Retries:
    """The retries of one client while the service answers other requests.

    Each request is tried `attempts` times at most.
    """

    def __init__(self, attempts: int, *, now: Clock = time.monotonic) -> None:
        self._attempts = attempts
        self._now = now
        self._answered = now()

    def watch(self, client: BaseClient) -> None:
        """Have a client ask here first; its own rules count where there is no answer."""
        name = client.meta.service_model.service_id.hyphenize()
        # The stubs know no handler that answers.
        handler = cast("Any", self._needs_retry)
        client.meta.events.register_first(f"needs-retry.{name}", handler)

    def _needs_retry(
        self,
        *,
        response: tuple[Any, Mapping[str, Any]] | None,
        operation: OperationModel,
        attempts: int,
        caught_exception: Exception | None,
        **_: object,
    ) -> float | None:
        error = caught_exception
        if response is not None and "Error" in response[1]:
            error = ClientError(cast("Any", response[1]), operation.name)
        pause = _PAUSES.get(error_code(error)) if error is not None else None
        if pause is None:
            if response is not None:
                self._answered = self._now()
            return None
        if attempts >= self._attempts or self._now() - self._answered > _OUTAGE_AFTER:
            return None
        return random.random() * grown(pause, attempts - 1, _LONGEST)
