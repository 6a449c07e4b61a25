"""Runs what is in a function app's zip, in a Python that has nothing else.

    python -S -E azure_zip.py ZIP_FOLDER TESTS_ROOT

The queue's URL is in `BUS`. Answers with JSON: the functions' bindings, where cloudq came from, and
the ids of the messages that were run: the one that waits, and the one that the timer sends.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime

code, root = sys.argv[1:3]
# As Azure's worker has it; the tests' own host, and it alone, comes from elsewhere.
sys.path[:0] = [code, f"{code}/.python_packages/lib/site-packages"]
sys.path.append(root)

import function_app  # noqa: E402

import cloudq  # noqa: E402
from tests.functions.azure.azure_host import QueueHost, binding, fire, functions  # noqa: E402

found = functions(function_app.function_app)
bus = cloudq.CloudQ("host", broker=os.environ["BUS"]).broker
host = QueueHost(found["cloudq_default"], bus)
ran = [delivery.id for delivery in host.pump()]
errors = [str(host.error)]
fire(found["cloudq_weekly"], due=datetime.now(UTC))
ran += [delivery.id for delivery in host.pump()]
errors.append(str(host.error))
answer = {
    "bindings": {name: binding(function) for name, function in found.items()},
    "cloudq": cloudq.__file__,
    "ran": ran,
    "errors": errors,
}
print(json.dumps(answer), flush=True)
os._exit(0)  # closing the SDK's links takes seconds
