"""The tasks that the workflows of tests are made of, here and in the workers that run them."""

from __future__ import annotations

import os
from typing import Any

from cloudq import CloudQ, chord, group


class Tasks:
    """Tasks of an app that keep what they did, in `runs`."""

    def __init__(self, app: CloudQ) -> None:
        self.runs: list[Any] = []
        runs = self.runs

        @app.task(name="add")
        def add(x: int, y: int) -> int:
            runs.append(("add", x, y))
            return x + y

        @app.task(name="total")
        def total(values: list[int]) -> int:
            runs.append(("total", values))
            return sum(values)

        @app.task(name="same")
        def same(value: Any = None) -> Any:
            runs.append(("same", value))
            return value

        @app.task(name="fail", max_retries=0)
        def fail(*_: Any) -> None:
            raise ValueError("on purpose")

        @app.task(name="seen")
        def seen(request: dict[str, Any], error: str, traceback: str) -> None:
            runs.append(("seen", request["id"], error))

        @app.task(name="told")
        def told(id: str) -> None:
            runs.append(("told", id))

        @app.task(name="replaced", bind=True)
        def replaced(self: Any, how: str, *_: Any) -> None:
            ways = {
                "task": add.s(1, 2),
                "chain": add.s(1, 2) | add.s(3),
                "group": group(add.s(1, 2), add.s(3, 4)),
                "chord": chord([add.s(1, 2), add.s(3, 4)], total.s()),
                "itself": self.s("chord"),
            }
            self.replace(ways[how])

        @app.task(name="more", bind=True)
        def more(self: Any) -> int:
            self.add_to_chord(add.s(10, 10))
            self.add_to_chord(add.s(1, 1) | add.s(2))
            return 1

        @app.task(name="look", bind=True)
        def look(self: Any, *_: Any) -> dict[str, Any]:
            request = self.request
            return {
                "id": request.id,
                "root": request.root_id,
                "parent": request.parent_id,
                "group": request.group,
                "headers": dict(request.headers),
            }

        self.add, self.total, self.same, self.fail = add, total, same, fail
        self.seen, self.told, self.replaced, self.more = seen, told, replaced, more
        self.look = look


app = CloudQ("flows")
tasks = Tasks(app)


def note_in(ledger: str | os.PathLike[str], entry: str) -> None:
    """Append a line to a ledger; whole, whoever else appends."""
    opened = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(opened, f"{entry}\n".encode())
    os.close(opened)


@app.task(name="square")
def square(number: int) -> int:
    return number * number


@app.task(name="body", bind=True)
def body(self: Any, values: list[int], chord: int) -> list[int]:
    """Writes that it has run, and for which delivery of its message."""
    note_in(os.environ["DRILL_LEDGER"], f"body {chord} {self.request.attempts}")
    return [chord, sum(values), len(values)]
