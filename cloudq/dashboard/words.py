"""Puts values into words and HTML: times, durations, counts, and the text of strangers."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from math import isfinite

from markupsafe import Markup, escape

from cloudq.amounts import lasting
from cloudq.text import block, masked, one_line, text_of

DASH = Markup('<span class="none">&ndash;</span>')
"""Stands where there is nothing to tell."""


def shown(value: object) -> Markup | str | float:
    """Return any value as text that is safe to escape: one line, no secrets, no hidden signs.

    Everything that a template writes passes through here, so that none can be forgotten.
    """
    if isinstance(value, Markup):
        return value
    if value is None:
        return DASH
    return value if isinstance(value, int | float) else one_line(masked(text_of(value)))


def keep(value: object) -> Markup:
    """Return text that a form sends back as it is; hidden signs are written as numbers."""
    text = escape(text_of(value))
    if text.isprintable():
        return text
    return Markup("".join(each if each.isprintable() else f"&#{ord(each)};" for each in text))


def lines(value: object) -> Markup:
    """Return text with its line breaks, for a `<pre>`."""
    return escape(block(masked(text_of(value))))


def when(moment: float | None) -> Markup:
    """Write a moment (epoch seconds) as an element that the page's script turns into local time."""
    if moment is None or not isfinite(moment):
        return DASH
    try:
        at = datetime.fromtimestamp(moment, UTC)
    except (OverflowError, OSError, ValueError):
        return DASH
    exact = at.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.isoformat(timespec="milliseconds"), exact, exact
    )


def duration(seconds: float | None) -> Markup | str:
    """Write a time span in at most two units: 40ms, 4.2s, 3m 20s, 5h 1m, 2d 3h."""
    return DASH if seconds is None or not isfinite(seconds) else lasting(seconds)


def since(moment: float | None) -> Markup | str:
    """Write the time that has passed since a moment."""
    return duration(None if moment is None else time.time() - moment)


def number(value: float | None) -> Markup | str:
    """Write a count with thousands apart, or a rate with as many digits as are of use."""
    if value is None or not isfinite(value):
        return DASH
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def dollars(value: float | None) -> Markup | str:
    """Write an amount of money."""
    if value is None or not isfinite(value):
        return DASH
    if value == 0:
        return "$0"
    if value < 0.000001:
        return "< $0.000001"
    return (
        f"${value:,.2f}" if value >= 0.1 else f"${value:.2g}" if value >= 0.001 else f"${value:f}"
    )


def size(value: float | None) -> Markup | str:
    """Write a number of bytes."""
    if value is None or not isfinite(value):
        return DASH
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.3g} {unit}"
        value /= 1000
    return DASH


def plural(count: float | None, word: str, many: str | None = None) -> str:
    """Write a count with its noun."""
    amount = 0 if count is None else count
    return f"{number(amount)} {word if amount == 1 else many or word + 's'}"
