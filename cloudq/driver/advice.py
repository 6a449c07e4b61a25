"""Says what to do about an error of a queue service."""

from __future__ import annotations

from cloudq.driver import Code

_ADVICE = {
    Code.NOT_FOUND: 'there is no such queue: "cloudq queues create NAME" makes one, '
    "or check the name, the region and the account",
    Code.DENIED: "the credentials in use may not do this: ask for the permission named below",
    Code.CREDENTIALS: "no usable credentials: set them up for this service, then try again",
    Code.THROTTLED: "the service asks to slow down: try again later",
    Code.UNREACHABLE: "no answer: check the URL, the region and the network",
    Code.INVALID: "the service calls the request invalid",
}


def explain(verb: str, name: str, url: str, code: Code, error: Exception) -> str:
    """One line: what was tried on what, what to do about it, and what the service said."""
    advice = _ADVICE.get(code, "")
    return f"cannot {verb} {name!r} on {url}: {advice}{' - ' if advice else ''}{error}"
