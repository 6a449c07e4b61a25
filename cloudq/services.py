"""What an app reaches outside of itself: the time, and the drivers behind its URLs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cloudq.clock import Clock, real_time
from cloudq.driver import BackendDriver, BrokerDriver
from cloudq.driver.loader import open_backend, open_broker, open_scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Real ones by default; `cloudq.testing` puts others in their place.

    `clock` tells epoch seconds: delays, leases, expiry and records go by it. `sleep` waits before
    a service that was busy is asked again. Time limits of running tasks stay on the real clock,
    as does every wait for a thread or a process.
    """

    clock: Clock = real_time
    sleep: Callable[[float], None] = time.sleep
    open_broker: Callable[[str], BrokerDriver] = open_broker
    open_backend: Callable[[str], BackendDriver] = open_backend
    open_scheduler: Callable[[str], object] = open_scheduler
