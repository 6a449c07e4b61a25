"""Turns the values of Celery's options into cloudq's."""

from __future__ import annotations

import socket

# Replies come with a worker's next heartbeat.
_SHORTEST_WAIT = 10.0
_LEVELS = {
    "DEBUG": "debug",
    "INFO": "info",
    "WARN": "warning",
    "WARNING": "warning",
    "ERROR": "error",
    "CRITICAL": "error",
    "FATAL": "error",
}
_POOLS = {
    "prefork": "processes",
    "processes": "processes",
    "threads": "threads",
    "solo": "solo",
    "gevent": "gevent",
    # Pools of cloudq's own.
    "asyncio": "asyncio",
}


def level(text: str) -> str:
    """Read a level of the log, in capitals or not."""
    if text.upper() not in _LEVELS:
        raise ValueError(f"give one of {', '.join(_LEVELS)}")
    return _LEVELS[text.upper()]


def pool(text: str) -> str:
    """Read the name of a pool."""
    if text == "eventlet":
        raise ValueError("eventlet is not maintained any more: use gevent, asyncio or threads")
    if text not in _POOLS:
        raise ValueError(f"pools cannot be written: give one of {', '.join(_POOLS)}")
    return _POOLS[text]


def seconds(text: str) -> float:
    """Read a number of seconds above zero."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise ValueError("give a number of seconds above 0")
    return number


def is_fork(text: str) -> bool:
    """Read a start method of processes."""
    if text not in ("fork", "spawn"):
        raise ValueError("give fork or spawn")
    return text == "fork"


def yes(text: str) -> str:
    """Read the presence of `--task-events`."""
    return "tracked"


def names(text: str) -> list[str]:
    """Read names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def scale(text: str) -> str:
    """Read `MAX,MIN`; a worker keeps one process at least."""
    most, _, least = text.partition(",")
    return f"{most},{'1' if least.strip() in ('', '0') else least.strip()}"


def wait(text: str) -> str:
    """Read the time to wait for replies, which a heartbeat here needs."""
    return str(max(seconds(text), _SHORTEST_WAIT))


def node(text: str) -> str:
    """Read the name of a worker: `w1@%h`; a host alone stands for `celery@HOST`."""
    name, at, host = text.rpartition("@")
    here = socket.gethostname()
    filled = host.replace("%h", here).replace("%d", here.partition(".")[2])
    filled = filled.replace("%n", name or "celery")
    return f"{name if at else 'celery'}@{filled or here}".replace("%h", here)


def in_file_name(pattern: str, name: str) -> str:
    """Fill the name of a file for a worker of this name.

    A worker's processes share its files, so their numbers (%i, %I) are those of its first.
    """
    before, _, host = name.rpartition("@")
    parts = {
        "%n": before or name,
        "%h": host,
        "%p": name,
        "%d": host.partition(".")[2],
        "%i": "0",
        "%I": "",
        "%%": "%",
    }
    for mark, text in parts.items():
        pattern = pattern.replace(mark, text)
    return pattern
