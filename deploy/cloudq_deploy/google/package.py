"""What is in the zip of a Cloud Run function: `main.py` for functions-framework, all vendored.

The build of Cloud Run functions installs `requirements.txt`, so that has the framework alone:
everything else is what was packed here. It lies in `/workspace`, the last of Python's paths, so of
what the framework needs itself, such as Flask, the framework's counts.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloudq_deploy.bundle.archive import Limit
from cloudq_deploy.bundle.build import Cargo, filled

FRAMEWORK = "functions-framework==3.10.2"
_MAIN = '''"""The function of {entry}."""

import os

import functions_framework

from {module} import {attribute} as app

from cloudq_gcp import push_handler

# Above whatever the code says: the deployment knows where its queues and its database are.
app.configure(broker=os.environ["CLOUDQ_BROKER"], backend=os.environ["CLOUDQ_BACKEND"])
# Cloud Run lets the pusher's account in and nobody else, so tokens are checked before this.
handler = functions_framework.http(
    push_handler(app, verify=False, timeout=float(os.environ["CLOUDQ_INVOCATION_TIMEOUT"]))
)
'''


def _own(entry: str) -> Mapping[str, bytes]:
    return {"main.py": filled(_MAIN, entry), "requirements.txt": f"{FRAMEWORK}\n".encode()}


CARGO = Cargo(
    extra="gcp",
    adapter="cloudq_gcp",
    own=_own,
    home="/workspace/",
    # "500MB for uncompressed source plus modules" (quotas of Cloud Run functions).
    limit=Limit(
        cloud="Cloud Run functions",
        unzipped=500 * 1024 * 1024,
        hint="Leave something out (exclude), or run these tasks with `cloudq worker`",
    ),
)
