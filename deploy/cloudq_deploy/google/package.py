"""The contents of a Cloud Run function's zip: `main.py`, and all dependencies.

Google's build installs `requirements.txt`, which therefore names functions-framework only. The zip
is unpacked in `/workspace`, the last of Python's paths, so packages that the framework needs, such
as Flask, have the framework's versions.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloudq_deploy.bundle.archive import Limit
from cloudq_deploy.bundle.build import Layout, filled

FRAMEWORK = "functions-framework==3.10.2"
_MAIN = '''"""The function of {entry}."""

import gc
import os

import functions_framework

# All that is loaded stays, and to look through it for garbage takes a tenth of a cold start.
threshold = gc.get_threshold()
gc.set_threshold(0)

from {module} import {attribute} as app

from cloudq_gcp import push_handler

# These override whatever the code says: the deployment knows its queues and its database.
app.configure(broker=os.environ["CLOUDQ_BROKER"], backend=os.environ["CLOUDQ_BACKEND"])
# Cloud Run checks the token first: it admits the account that pushes, and nobody else.
handler = functions_framework.http(
    push_handler(app, verify=False, timeout=float(os.environ["CLOUDQ_INVOCATION_TIMEOUT"]))
)
gc.freeze()
if gc.get_threshold()[0] == 0:  # the app has set none of its own
    gc.set_threshold(*threshold)
'''


def own_files(entry: str) -> Mapping[str, bytes]:
    """Write `main.py` and `requirements.txt` for the app at `entry` (`module:attribute`)."""
    return {"main.py": filled(_MAIN, entry), "requirements.txt": f"{FRAMEWORK}\n".encode()}


LAYOUT = Layout(
    extra="gcp",
    adapter="cloudq_gcp",
    own=own_files,
    home="/workspace/",
    # "500MB for uncompressed source plus modules" (quotas of Cloud Run functions).
    limit=Limit(
        cloud="Cloud Run functions",
        unzipped=500 * 1024 * 1024,
        hint="Leave something out (exclude), or run these tasks with `cloudq worker`",
    ),
)
