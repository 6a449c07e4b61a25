"""The contents of a function app's zip: `function_app.py`, `host.json`, and the packages.

The packages lie in the folder where the Python worker looks for them, so Azure builds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from cloudq_deploy.azure.plan import FunctionApp, Plan
from cloudq_deploy.bundle.archive import Limit
from cloudq_deploy.bundle.build import Layout

PACKAGES = ".python_packages/lib/site-packages"
_FUNCTION_APP = '''"""The functions of {entry}."""

import gc
import os

import azure.functions as func

# All that is loaded stays, and to look through it for garbage takes a tenth of a cold start.
threshold = gc.get_threshold()
gc.set_threshold(0)

from {module} import {attribute} as app

from cloudq_azure import Timer, register

# These override whatever the code says: the deployment knows its queues and its table.
app.configure(broker=os.environ["CLOUDQ_BROKER"], backend=os.environ["CLOUDQ_BACKEND"])
entries = app.schedules.declared()
# Name, schedule, Azure's expression in UTC, queue.
TIMERS = {timers}


def timer(name, expression, queue):
    entry = entries[name]
    return Timer(
        schedule=expression, task=entry.task, args=entry.args, kwargs=entry.kwargs, queue=queue
    )


function_app = func.FunctionApp()
register(
    function_app,
    app,
    queues={queues},
    timeout=float(os.environ["CLOUDQ_INVOCATION_TIMEOUT"]),
    timers={{name: timer(entry, at, queue) for name, entry, at, queue in TIMERS}},
)
gc.freeze()
if gc.get_threshold()[0] == 0:  # the app has set none of its own
    gc.set_threshold(*threshold)
'''


def layout_of(plan: Plan) -> Layout:
    """The layout of the zip of a plan's function app."""
    return Layout(
        extra="azure",
        adapter="cloudq_azure",
        own=partial(own_files, plan),
        prefix=PACKAGES,
        home="/home/site/wwwroot/",
        limit=LIMIT,
        more=plan.extras,
    )


# Flex Consumption states no limit; an instance of 512 MB has room for this much.
LIMIT = Limit(
    cloud="the smallest instance of Flex Consumption",
    unzipped=500 * 1024 * 1024,
    hint="Leave something out (exclude), or run these tasks with `cloudq worker`",
)


def own_files(plan: Plan, entry: str) -> Mapping[str, bytes]:
    """Write `function_app.py` and `host.json` for the app at `entry` (`module:attribute`)."""
    module, _, attribute = entry.partition(":")
    timers = [(each.name, each.entry, each.expression, each.queue) for each in plan.timers]
    text = _FUNCTION_APP.format(
        entry=entry,
        module=module,
        attribute=attribute,
        timers=_listed([repr(each) for each in timers]),
        queues=repr([queue.name for queue in plan.queues]),
    )
    settings = json.dumps(host(plan.function_app), indent=2)
    return {"function_app.py": text.encode(), "host.json": f"{settings}\n".encode()}


def _listed(items: list[str]) -> str:
    return "[" + "".join(f"\n    {item}," for item in items) + ("\n]" if items else "]")


def host(function_app: FunctionApp) -> dict[str, Any]:
    """The settings of the Functions host; docs/how-to/run-on-azure.md has a table of them."""
    timeout = _span(function_app.timeout)
    return {
        "version": "2.0",
        "functionTimeout": timeout,
        "extensionBundle": {
            "id": "Microsoft.Azure.Functions.ExtensionBundle",
            "version": "[4.*, 5.0.0)",
        },
        "extensions": {
            "serviceBus": {
                "autoCompleteMessages": True,
                "maxConcurrentCalls": function_app.concurrency,
                "maxConcurrentSessions": function_app.sessions,
                "maxAutoLockRenewalDuration": timeout,
                "prefetchCount": 0,
            }
        },
    }


def _span(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
