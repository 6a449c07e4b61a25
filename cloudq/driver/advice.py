"""Says what to do about an error of a service."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from cloudq.driver.values import Code
from cloudq.text import describe


@runtime_checkable
class Advising(Protocol):
    """A driver that knows what to do about its service's errors better than their codes tell."""

    def advice(self, error: Exception) -> str | None:
        """Return what to do about the error; None for the advice that goes by its code."""
        ...


_ADVICE = {
    Code.DENIED: "the credentials in use may not do this: ask for the permission named below",
    Code.CREDENTIALS: "no usable credentials: set them up for this service, then try again",
    Code.THROTTLED: "the service asks to slow down: try again later",
    Code.UNREACHABLE: "no answer: check the URL, the region and the network",
    Code.INVALID: "the service calls the request invalid",
}


def explain(tried: str, code: Code, error: Exception, *, missing: str, driver: object) -> str:
    """Return one line: what was tried, what to do about it, and what the service said.

    `missing` says what to do where the queue or table does not exist, unless the driver does.
    """
    own = driver.advice(error) if isinstance(driver, Advising) else None
    advice = own or (missing if code is Code.NOT_FOUND else _ADVICE.get(code, ""))
    return f"cannot {tried}: {advice}{' - ' if advice else ''}{describe(error)}"
