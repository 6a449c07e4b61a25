"""Run by an interpreter that has the real Celery: the shop's day, with a worker in threads.

`python real_celery.py` in a copy of examples/celery_shop whose imports are Celery's; prints what
`day.py` prints. Broker and results are in memory, which is why the worker is in this process.
"""

from __future__ import annotations

import json
import os
import sys
import threading

os.environ["SHOP_BROKER"] = "memory://"
os.environ["SHOP_RESULTS"] = "cache+memory://"
sys.path.insert(0, os.getcwd())

from celery.contrib.testing.worker import start_worker  # pyright: ignore
from day import day  # pyright: ignore
from shop.app import app  # pyright: ignore

with start_worker(
    app, pool="threads", concurrency=8, perform_ping_check=False, queues="shop,billing"
):
    came = day()
    print(json.dumps(came, indent=1, sort_keys=True), flush=True)
    # The threads of a worker in memory may wait for long after all is done.
    if threading.active_count():
        os._exit(0)
