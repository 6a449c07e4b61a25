"""The fields of a message: their bounds, their defaults and what they are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

MOST = 2**31 - 1
"""The bound of every count in a message: fences, which are made of counts, fit into 53 bits."""
END_OF_TIME = 253_402_300_799  # Python's datetime ends with the year 9999
LONGEST_LIMIT = 36_525 * 86_400.0
"""The longest time limit: a century, in seconds."""

# No name has a control character: names are keys of stores, and stand in logs and terminals.
NAME = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
SLOT = r"^[0-9]{1,9}@[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,255}$"

BOUNDS: Mapping[str, Mapping[str, Any]] = {
    "Name": {"max_length": 255, "pattern": NAME},
    "SlotText": {"pattern": SLOT},
    "Key": {"max_length": 2048},
    # A queue may be known by its URL.
    "QueueName": {"max_length": 2048, "pattern": NAME},
    "Word": {"max_length": 32, "pattern": NAME},
    "Version": {"ge": -MOST, "le": MOST},
    "Count": {"ge": 0, "le": MOST},
    "Time": {"ge": 0, "lt": END_OF_TIME, "allow_inf_nan": False},
    "Limit": {"gt": 0, "le": LONGEST_LIMIT, "allow_inf_nan": False},
    # W3C's baggage may have 8,192 bytes.
    "HeaderText": {"max_length": 16_384},
    "Headers": {"max_length": 256},
}
"""The bounds of each kind of field, under pydantic's names."""


class Field:
    """The default of a field, its meaning and its kind."""

    __slots__ = ("default", "description", "factory", "is_optional", "kind", "min_length", "take")

    def __init__(self, default: Any, factory: Any, description: str, min_length: int) -> None:
        self.default, self.factory = default, factory
        self.description, self.min_length = description, min_length
        self.kind, self.is_optional = "", False
        self.take: Callable[[Any], Any]

    @property
    def is_required(self) -> bool:
        """True where a message cannot do without it."""
        return self.default is ... and self.factory is None

    def fresh(self) -> Any:
        """Return the default; a list or a dict is a new one."""
        return self.default if self.factory is None else self.factory()


def field(
    *, default: Any = ..., default_factory: Any = None, description: str = "", min_length: int = 0
) -> Any:
    """Declare a field of a message as an attribute; the hint names its kind."""
    return Field(default, default_factory, description, min_length)
