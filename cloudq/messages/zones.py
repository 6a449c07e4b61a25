"""Dates and times as ISO 8601 text, with the zone's name in the suffix of RFC 9557."""

from __future__ import annotations

from datetime import datetime, time, timezone, tzinfo
from functools import cache
from typing import TYPE_CHECKING

from cloudq.driver.forks import imported
from cloudq.errors import EncodeError

if TYPE_CHECKING:  # few messages have a zone
    from zoneinfo import ZoneInfo

# RFC 9557 leaves keys that start with _ to the program.
_FOLD = "_fold=1"


def write_datetime(value: datetime) -> str:
    """Write a datetime: `2030-01-01T12:00:00+01:00[Europe/Vienna]`. Raises `EncodeError`."""
    zone = value.tzinfo
    if (zone is None or type(zone) is timezone) and not value.fold:
        return datetime.isoformat(value)
    name = zone_name(zone)
    if name is not None and not isinstance(zone, _zone_info()):
        value = value.astimezone(_zone_info()(name))  # the library's own rules may differ
    return datetime.isoformat(value) + _suffix(name, value.fold)


def write_time(value: time) -> str:
    """Write a time: `12:00:00[Europe/Vienna]`. Raises `EncodeError`."""
    return time.isoformat(value) + _suffix(zone_name(value.tzinfo), value.fold)


def read_datetime(text: str) -> datetime:
    """Read what `write_datetime` wrote, or any ISO 8601 text. Raises `ValueError`.

    The zone's rules of this machine count, not the offset in the text; that says only which of
    two equal times of a clock is meant.
    """
    if not text.endswith("]"):
        return datetime.fromisoformat(text)
    clock, zone, fold = _parts(text)
    value = datetime.fromisoformat(clock)
    made = value.replace(tzinfo=zone or value.tzinfo, fold=fold)
    if zone is None or fold or value.tzinfo is None:
        return made
    second = made.replace(fold=1)
    offset = value.utcoffset()
    return second if made.utcoffset() != offset == second.utcoffset() else made


def read_time(text: str) -> time:
    """Read what `write_time` wrote, or any ISO 8601 text. Raises `ValueError`."""
    if not text.endswith("]"):
        return time.fromisoformat(text)
    clock, zone, fold = _parts(text)
    value = time.fromisoformat(clock)
    return value.replace(tzinfo=zone or value.tzinfo, fold=fold)


def zone_name(zone: tzinfo | None) -> str | None:
    """Return the name of a zone; None for a fixed offset. Raises `EncodeError` if it has none."""
    if zone is None or type(zone) is timezone:
        return None
    name = getattr(zone, "key", None)
    if name is None and zone.utcoffset(None) is not None:
        return None  # a fixed offset of another library
    name = name or getattr(zone, "zone", None)  # pytz calls it zone
    if isinstance(name, str):
        try:
            _zone(name)
        except ValueError:
            pass
        else:
            return name
    raise EncodeError(
        f"a time in the zone {zone!r} cannot be sent, for the zone has no name that others know: "
        'use zoneinfo.ZoneInfo("Europe/Vienna") or UTC'
    )


def _suffix(name: str | None, fold: int) -> str:
    return (f"[{name}]" if name else "") + (f"[{_FOLD}]" if fold else "")


def _parts(text: str) -> tuple[str, ZoneInfo | None, int]:
    """Return the clock, the zone and the fold."""
    clock, *tags = text[:-1].split("[")
    zone: ZoneInfo | None = None
    fold = 0
    for place, tag in enumerate(tags, 1):
        if place < len(tags) and not tag.endswith("]"):
            raise ValueError(f"{text[:60]!r} is no time")
        found = tag.removesuffix("]")
        if found == _FOLD:
            fold = 1
        elif place == 1 and "=" not in found:
            zone = _zone(found.removeprefix("!"))
        elif "=" not in found or found.startswith("!"):  # "!": not to be passed over
            raise ValueError(f"{text[:60]!r} says more than this release reads")
    return clock, zone, fold


@cache
def _zone_info() -> type[ZoneInfo]:
    found: type[ZoneInfo] = imported("zoneinfo").ZoneInfo
    return found


def _zone(name: str) -> ZoneInfo:
    try:
        return _zone_info()(name)
    except (KeyError, ValueError, OSError) as error:  # OSError: a folder of zones
        raise ValueError(f"there is no time zone {name[:60]!r} here") from error
