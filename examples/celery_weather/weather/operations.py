"""A script for those who run the workers: `python -m weather.operations`."""

import json
import sys

from weather.celery import app

TASK = "weather.reports.tasks.lines"


def status():
    """Ask the workers for all that they say of themselves."""
    inspect = app.control.inspect(timeout=12)
    replies = {
        "ping": inspect.ping(),
        "queues": inspect.active_queues(),
        "registered": inspect.registered(),
        "stats": inspect.stats(),
        "active": inspect.active(),
        "reserved": inspect.reserved(),
        "scheduled": inspect.scheduled(),
        "revoked": inspect.revoked(),
    }
    name = next(iter(replies["ping"]))
    return {
        "ping": replies["ping"][name],
        "queues": sorted(queue["name"] for queue in replies["queues"][name]),
        "registered": sorted(t for t in replies["registered"][name] if "weather" in t)[:3],
        "processes": replies["stats"][name]["pool"]["max-concurrency"],
        "prefetch": type(replies["stats"][name]["prefetch_count"]).__name__,
        "total": all(n > 0 for n in replies["stats"][name]["total"].values()),
        "active": replies["active"][name],
        "reserved": replies["reserved"][name],
        "scheduled": [
            [entry["request"]["name"], entry["priority"]] for entry in replies["scheduled"][name]
        ],
        "revoked": type(replies["revoked"][name]).__name__,
    }


def said(replies):
    """The reply of each worker."""
    return [reply for each in replies for reply in each.values()]


def steer():
    """Change what workers do."""
    control = app.control
    return {
        "ping": said(control.ping(timeout=12)),
        "rate": said(control.rate_limit(TASK, "50/m", reply=True, timeout=12)),
        "limits": said(control.time_limit(TASK, soft=5, hard=9, reply=True, timeout=12)),
    }


if __name__ == "__main__":
    print(json.dumps({"status": status, "steer": steer}[sys.argv[1]](), indent=1, sort_keys=True))
