"""The contents of a Lambda function's zip: the module with the handler, and cloudq for AWS."""

from __future__ import annotations

from collections.abc import Mapping

from cloudq_deploy.bundle.archive import Limit
from cloudq_deploy.bundle.build import Layout, filled

ENTRY = "cloudq_function.py"
"""The module whose `handler` Lambda calls."""

# "250 MB: the deployment package size (unzipped), including layers" (Lambda's quotas).
LIMIT = Limit(
    cloud="Lambda",
    unzipped=250 * 1024 * 1024,
    hint="Leave something out (exclude, services), put it in a layer, or use --package image "
    "(10 GB)",
)

_HANDLER = '''"""The handler of the Lambda functions of {entry}."""

import gc
import os

# All that is loaded stays, and to look through it for garbage takes a tenth of a cold start.
threshold = gc.get_threshold()
gc.set_threshold(0)

from {module} import {attribute} as app

from cloudq_aws import lambda_handler

# These override whatever the code says: the stack knows the addresses of its queues and table.
app.configure(broker=os.environ["CLOUDQ_BROKER"], backend=os.environ["CLOUDQ_BACKEND"])
if "CLOUDQ_SCHEDULER" in os.environ:
    app.configure(scheduler=os.environ["CLOUDQ_SCHEDULER"])
handler = lambda_handler(app)
gc.freeze()
if gc.get_threshold()[0] == 0:  # the app has set none of its own
    gc.set_threshold(*threshold)
'''


def own_files(entry: str) -> Mapping[str, bytes]:
    """Write the module with the handler, for the app at `entry` (`module:attribute`)."""
    return {ENTRY: filled(_HANDLER, entry)}


LAYOUT = Layout(
    extra="aws",
    adapter="cloudq_aws",
    own=own_files,
    home="/var/task/",
    limit=LIMIT,
)
