"""Make the queues and the store that examples expect, through cloudq's own drivers.

Which ones, CLOUDQ_BROKER and CLOUDQ_BACKEND say, and where they are, the normal environment of the
cloud's SDK (AWS_ENDPOINT_URL, PUBSUB_EMULATOR_HOST and so on): what `up.py` prints.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

if not __package__:  # run as a file; the folder of one has a google.py and an azure.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

try:
    from cloudq.broker.deliveries import queue_deliveries
    from cloudq.driver import QueueAdmin, StoreAdmin
    from cloudq.driver import loader as plugins
    from cloudq.errors import CloudQError
except ModuleNotFoundError as missing:
    sys.exit(f"{missing}: pip install -e '.[all]' first, or use up.py --no-seed")

QUEUES = ("default", "high", "orders.fifo")
LEASE = 60.0
MAX_DELIVERIES = 10


def seed_broker(url: str) -> None:
    """Create the queues, each with its dead-letter queue."""
    with closing(plugins.open_broker(url)) as broker:
        assert isinstance(broker, QueueAdmin)
        for queue in QUEUES:
            ordered = broker.limits(queue).ordered
            deliveries = queue_deliveries(MAX_DELIVERIES, ordered=ordered)
            broker.create(queue, lease=LEASE, max_deliveries=deliveries)
    print(f"queues {', '.join(QUEUES)} of {url}")


def seed_backend(url: str) -> None:
    """Create the table or collection that holds the results."""
    with closing(plugins.open_backend(url)) as store:
        assert isinstance(store, StoreAdmin)
        store.create_store()
    print(f"store {url}")


def main() -> None:
    """Seed the broker and the store that the environment names; one of them may be missing."""
    if broker := os.environ.get("CLOUDQ_BROKER"):
        seed_broker(broker)
    if (backend := os.environ.get("CLOUDQ_BACKEND", "none")) != "none":
        seed_backend(backend)
    if not broker and backend == "none":
        sys.exit("nothing to seed: set CLOUDQ_BROKER or CLOUDQ_BACKEND")


if __name__ == "__main__":
    try:
        main()
    except CloudQError as error:
        sys.exit(str(error))
