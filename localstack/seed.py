"""Make the queues and the table that examples and tests expect, through cloudq's own drivers.

Reads the address of the service from the normal AWS environment (AWS_ENDPOINT_URL and so on).
"""

from __future__ import annotations

import os
import sys

try:
    from cloudq import plugins
    from cloudq.broker import queue_deliveries
    from cloudq.driver import QueueAdmin, StoreAdmin
    from cloudq.errors import CloudQError
except ModuleNotFoundError as missing:
    sys.exit(f"{missing}: pip install -e '.[aws]' first, or use up.py --no-seed")

QUEUES = ("default", "high", "orders.fifo")
LEASE = 60.0
MAX_DELIVERIES = 10


def main() -> None:
    """Seed the service that CLOUDQ_BROKER and CLOUDQ_BACKEND name."""
    broker = plugins.open_broker(os.environ.get("CLOUDQ_BROKER", "sqs://"))
    assert isinstance(broker, QueueAdmin)
    for queue in QUEUES:
        deliveries = queue_deliveries(broker.limits(queue), MAX_DELIVERIES)
        broker.create(queue, lease=LEASE, max_deliveries=deliveries)
        print(f"queue {queue}")
    broker.close()
    url = os.environ.get("CLOUDQ_BACKEND", "dynamodb://cloudq")
    if url == "none":
        return
    store = plugins.open_backend(url)
    assert isinstance(store, StoreAdmin)
    store.create_store()
    store.close()
    print(f"table {url}")


if __name__ == "__main__":
    try:
        main()
    except CloudQError as error:
        sys.exit(str(error))
