"""The loop of `cloudq top`: looks again and again, redraws, and obeys keys."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from rich.live import Live

from cloudq.app import CloudQ
from cloudq.cli.output import console
from cloudq.cli.top.keys import BACKSPACE, ENTER, ESCAPE, Keys
from cloudq.cli.top.screen import View, drawn
from cloudq.operations.overview import Overview, Snapshot, overview

HELP = "q quit  s sort  / filter  p pause  r look now"
# Seconds that a key or a finished look waits to be seen.
_TICK = 0.1


def watch(app: CloudQ, every: float, cost: str) -> None:
    """Show the app on the whole terminal until `q`, looking again after `every` seconds."""
    output = console()
    view: View | None = View()
    look: Future[Overview] | None = None
    seen: Overview | None = None
    before: Snapshot | None = None
    due, changed = 0.0, True
    with (
        ThreadPoolExecutor(1, thread_name_prefix="look") as pool,
        Keys() as keys,
        Live(console=output, screen=True, auto_refresh=False) as live,
    ):
        while True:
            pressed = keys.read(_TICK)
            if pressed:
                view = obeyed(view, pressed)
                changed = True
                if view is None:
                    return
                if "r" in pressed and view.typing is None:
                    due = 0.0
            if look is None and time.monotonic() >= due and not view.paused:
                look = pool.submit(overview, app, before)
            if look is not None and look.done():
                seen, look = look.result(), None
                before, due, changed = seen.snapshot, time.monotonic() + every, True
            if changed and seen is not None:
                size = output.size
                foot = _foot(view, every, cost)
                live.update(
                    drawn(seen, view, app.name, width=size.width, height=size.height, foot=foot),
                    refresh=True,
                )
                changed = False


def obeyed(view: View, pressed: str) -> View | None:
    """Return the view after these keys; None when it is to end."""
    for key in pressed:
        if view.typing is not None:
            view = _typed(view, key)
        elif key == "q":
            return None
        elif key == "s":
            view = view.next_sort()
        elif key == "p":
            view = replace(view, paused=not view.paused)
        elif key in "/f":
            view = replace(view, typing="")
        elif key == ESCAPE:
            view = replace(view, filter="")
    return view


def _typed(view: View, key: str) -> View:
    typing = view.typing or ""
    if key == ENTER:
        return replace(view, filter=typing, typing=None)
    if key == ESCAPE:
        return replace(view, typing=None)
    if key == BACKSPACE:
        return replace(view, typing=typing[:-1])
    return replace(view, typing=typing + key) if key.isprintable() else view


def _foot(view: View, every: float, cost: str) -> str:
    if view.typing is not None:
        return f"filter: {view.typing}_   Enter keeps it, Esc leaves it"
    kept = f"filter {view.filter!r} (Esc clears)  " if view.filter else ""
    return f"{kept}{HELP}  every {every:g} s{cost}"
