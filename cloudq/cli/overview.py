"""The help of `cloudq` itself, made without loading the commands, which takes ten times as long."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from textwrap import wrap

SECTIONS: Mapping[str, Mapping[str, str]] = {
    "Run": {
        "worker": "Run tasks until stopped.",
        "beat": "Send periodic tasks when they are due.",
        "multi": "Run several workers in the background.",
        "call": "Send one call of a task.",
        "demo": "See a real worker at work: index files, fail, retry.",
    },
    "Look": {
        "top": "Show queues, workers, running tasks and failures, live.",
        "dashboard": "Show the same in a browser, and act on it.",
        "status": "Show the workers, as of their last heartbeats.",
        "result": "Show states and results of tasks, or wait for them.",
        "tasks": "List finished and failed tasks, show one, run some again.",
        "graph": "Show the workflow of a task.",
        "workflows": "List groups and chords under way, and who is missing.",
        "events": "Follow the events of tasks.",
        "cost": "Show what tasks cost, and what would save.",
        "audit": "Show what operators did, and when.",
    },
    "Operate": {
        "queues": "List, make, look into, pause, empty and delete queues.",
        "dead": "List, send again, export and delete dead letters.",
        "schedules": "Show and change periodic tasks.",
        "inspect": "Ask live workers about their state.",
        "control": "Tell live workers to do something; revoke tasks.",
        "migrate": "Move queued tasks to another broker.",
        "sweep": "Delete expired results, where the store does not.",
    },
    "Set up": {
        "doctor": "Check settings, app, broker and backend.",
        "keys": "Make, list, check and change encryption keys.",
        "brokers": "List brokers and backends with their limits.",
        "celery": "Take Celery's command line: celery -A proj worker -l INFO.",
        "init": "Make a new project with tasks, tests and a deployment.",
        "deploy": "Plan, build and apply the cloud resources of an app.",
    },
}
"""Every command with what it does, under what people want to do."""

OPTIONS: Mapping[str, str] = {
    "-A, --app MODULE[:NAME]": "The app. Default: CLOUDQ_APP, [tool.cloudq] app of "
    "pyproject.toml, the app in tasks.py or app.py.",
    "-b, --broker URL": "Use this broker instead of the app's.",
    "--backend URL": "Use this result backend instead of the app's.",
    "--debug": "Show the traceback of an error.",
    "--version": "Print the version.",
    "-h, --help": "Show this, or the help of a command: cloudq COMMAND --help.",
}

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 130 interrupted."

_ABOUT = "A task queue on the queues that your cloud already offers, or on a SQLite file."
# Commands of an extra, by a module that is there with it alone.
_NEEDS = {"init": "uv", "deploy": "uv"}
_MARGIN = 26


def overview(width: int | None = None, *, bold: bool | None = None) -> str:
    """Return the help, `width` characters wide; by default as wide as the terminal, 100 at most."""
    wide = min(width or shutil.get_terminal_size().columns, 100)
    is_bold = sys.stdout.isatty() if bold is None else bold
    lines = ["Usage: cloudq [OPTIONS] COMMAND [ARGS]...", ""]
    lines += wrap(_ABOUT, wide)
    for title, entries in {**SECTIONS, "Options": OPTIONS}.items():
        lines += ["", f"\x1b[1m{title}\x1b[0m" if is_bold else title]
        for name, text in entries.items():
            lines += _entry(name, text, wide)
    return "\n".join([*lines, "", *wrap(EXIT_CODES, wide)])


def _entry(name: str, text: str, wide: int) -> Iterator[str]:
    missing = name in _NEEDS and find_spec(_NEEDS[name]) is None
    said: Sequence[str] = wrap(
        f"{text} Needs the extra deploy." if missing else text, max(20, wide - _MARGIN)
    )
    first = f"  {name:{_MARGIN - 3}} "
    yield f"{first}{said[0]}"
    for line in said[1:]:
        yield f"{'':{_MARGIN}}{line}"
