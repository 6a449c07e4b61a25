"""Real drivers that end the program at a chosen call, before or after it took effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cloudq.driver import Limits
from cloudq.driver.ends import Died

# The calls that change something, or give a lease.
CALLS = (
    "send",
    "receive",
    "ack",
    "release",
    "extend",
    "schedule",
    "unschedule",
    "scheduled",
    "peek",
)


class Killed(Died):
    """Stands for a SIGKILL: the program does nothing after it."""


@dataclass
class Fuse:
    """Blows at call number `at` (from 0) of all the drivers that share it, `after` it or before.

    `calls` are the names of the calls that came.
    """

    at: int = -1
    after: bool = False
    only: tuple[str, ...] = CALLS
    calls: list[str] = field(default_factory=list)
    blown: bool = False

    def call(self, name: str, work: Callable[[], Any]) -> Any:
        if self.blown:
            raise Killed
        if name not in self.only:
            return work()
        number = len(self.calls)
        self.calls.append(name)
        if number == self.at and not self.after:
            self.blown = True
            raise Killed
        answer = work()
        if number == self.at:
            self.blown = True
            raise Killed
        return answer


def fused(
    driver: Any,
    fuse: Fuse,
    *,
    limits: Callable[[Limits], Limits] = lambda limits: limits,
    without: tuple[str, ...] = (),
    **instead: Callable[..., Any],
) -> Any:
    """The driver behind a fuse, with other limits, `without` some methods, others in place."""

    def method(name: str) -> Callable[..., Any]:
        def call(_: Any, *args: Any, **named: Any) -> Any:
            real = instead.get(name) or getattr(driver, name)
            return fuse.call(name, lambda: real(*args, **named))

        return call

    # A class of its own, since a protocol is looked for in the class.
    names = [n for n in dir(driver) if not n.startswith("_") and callable(getattr(driver, n))]
    methods: dict[str, Any] = {name: method(name) for name in names if name not in without}
    methods["limits"] = lambda _, queue: limits(driver.limits(queue))
    # A test closes what it has opened.
    methods["close"] = lambda _: None
    methods["error_code"] = lambda _, error: driver.error_code(error)
    return type("Fused", (), methods)()
