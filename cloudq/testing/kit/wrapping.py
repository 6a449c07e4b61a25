"""A driver with some of its methods replaced, whichever optional protocols it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def wrapped(driver: Any, methods: Mapping[str, Callable[..., Any]]) -> Any:
    """The driver with these in place of its own; methods that it does not have are not added."""
    names = [name for name in dir(driver) if not name.startswith("_")]
    members: dict[str, Any] = {name: getattr(driver, name) for name in names}
    members |= {name: method for name, method in methods.items() if name in members}
    # A class of its own, since a protocol is looked for in the class.
    return type(
        f"Wrapped{type(driver).__name__}",
        (),
        {n: staticmethod(m) if callable(m) else m for n, m in members.items()},
    )()
