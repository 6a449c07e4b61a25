"""The settings of a queue, with Azure's names, defaults and limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

FOREVER = 922_337_203_685.0
"""The service's longest duration, in whole seconds; it means never."""

Status = Literal["Active", "Disabled", "SendDisabled", "ReceiveDisabled"]
STATUSES: tuple[Status, ...] = ("Active", "Disabled", "SendDisabled", "ReceiveDisabled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The properties of a queue that affect its behaviour. Durations are in seconds."""

    lock: float = 60.0
    max_deliveries: int = 10
    sessions: bool = False
    dedup: bool = False
    dedup_window: float = 600.0
    ttl: float = FOREVER
    dead_letter_expired: bool = False
    max_size_mb: int = 1024
    max_message_kb: int | None = None
    status: Status = "Active"
    batched: bool = True
    express: bool = False
    partitioned: bool = False
    auto_delete: float = FOREVER
    metadata: str | None = None

    def __post_init__(self) -> None:
        # Azure wants 5 s at least for a lock and 20 s for a window; tests want less.
        if not 0.1 <= self.lock <= 300:
            raise ValueError(f"LockDuration is 0.1 s to 5 minutes, not {self.lock} s")
        if not 1 <= self.max_deliveries <= 2000:
            raise ValueError(f"MaxDeliveryCount is 1 to 2000, not {self.max_deliveries}")
        if not 0.1 <= self.dedup_window <= 7 * 86_400:
            raise ValueError(
                f"DuplicateDetectionHistoryTimeWindow is 0.1 s to 7 days, not {self.dedup_window} s"
            )
        if not (self.ttl > 0 and math.isfinite(self.ttl)):
            raise ValueError(f"DefaultMessageTimeToLive is more than 0, not {self.ttl} s")
        if self.status not in STATUSES:
            raise ValueError(f"Status is one of {', '.join(STATUSES)}, not {self.status}")

    def fixed(self, other: Settings) -> str | None:
        """Return the name of a property that differs but that Azure does not allow to change."""
        for name, shown in _FIXED.items():
            if getattr(self, name) != getattr(other, name):
                return shown
        return None


_FIXED = {
    "sessions": "RequiresSession",
    "dedup": "RequiresDuplicateDetection",
    "partitioned": "EnablePartitioning",
}


def parse_queue(text: str) -> tuple[str, Settings]:
    """Parse a queue of the command line: `NAME[:lock=30,max_deliveries=10,sessions,dedup=600]`.

    Raises `ValueError` with what is wrong.
    """
    name, _, options = text.partition(":")
    if not name:
        raise ValueError(f"{text!r} has no name")
    settings = Settings()
    for option in filter(None, options.split(",")):
        key, given, value = option.partition("=")
        settings = _set(settings, key, value if given else None)
    return name, settings


def _set(settings: Settings, key: str, value: str | None) -> Settings:
    if key == "sessions":
        return replace(settings, sessions=True)
    if key == "dead_letter_expired":
        return replace(settings, dead_letter_expired=True)
    if key == "dedup":
        return replace(settings, dedup=True, dedup_window=float(value or 600))
    if key in ("lock", "ttl"):
        return replace(settings, **{key: float(value or "")})
    if key in ("max_deliveries", "max_size_mb"):
        return replace(settings, **{key: int(value or "")})
    raise ValueError(
        f"{key!r} is none of lock, max_deliveries, sessions, dedup, ttl, dead_letter_expired,"
        " max_size_mb"
    )
