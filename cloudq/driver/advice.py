"""Says what to do about an error of a service."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from cloudq.driver.values import Code

_ADVICE = {
    Code.DENIED: "the credentials in use may not do this: ask for the permission named below",
    Code.CREDENTIALS: "no usable credentials: set them up for this service, then try again",
    Code.THROTTLED: "the service asks to slow down: try again later",
    Code.UNREACHABLE: "no answer: check the URL, the region and the network",
    Code.INVALID: "the service calls the request invalid",
}


@runtime_checkable
class Advising(Protocol):
    """A driver that knows better than `explain` what to do about its errors."""

    def advice(self, error: Exception) -> str:
        """Say what to do about an error, "" if there is nothing to say."""
        ...


def explain(
    tried: str, code: Code, error: Exception, *, missing: str, driver: object = None
) -> str:
    """Return one line: what was tried, what to do about it, and what the service said.

    `missing` says what to do where the queue or table does not exist, unless the driver does.
    """
    advice = missing if code is Code.NOT_FOUND else _ADVICE.get(code, "")
    if isinstance(driver, Advising):
        advice = driver.advice(error)
    return f"cannot {tried}: {advice}{' - ' if advice else ''}{error}"
