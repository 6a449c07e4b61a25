"""A Cloud Function of a Pub/Sub trigger passes the contract of encryption."""

from __future__ import annotations

import base64

import pytest
from cloudevents.http import CloudEvent

from cloudq import CloudQ
from cloudq.driver import Delivery
from cloudq.testing import EncryptionContract, collect
from cloudq_gcp import cloud_event_handler
from cloudq_gcp.messages import ID
from localstack.servers import Endpoint
from tests.servers import unique

TYPE = "google.cloud.pubsub.topic.v1.messagePublished"


class TestCloudFunction(EncryptionContract):
    @pytest.fixture
    def broker(self, pubsub: Endpoint) -> str:
        return f"pubsub://cloudq-local?emulator=127.0.0.1:{pubsub.port}"

    @pytest.fixture
    def backend(self, firestore: Endpoint) -> str:
        return f"firestore://cloudq-local/{unique('sealed')}?emulator=127.0.0.1:{firestore.port}"

    def run(self, app: CloudQ, queue: str, count: int) -> None:
        handler = cloud_event_handler(app)
        for _ in range(count):
            # As the trigger does: it holds the message until the function has returned.
            (delivery,) = collect(app.broker.driver, queue, 1)
            handler(_event(delivery))
            assert not app.broker.driver.ack([delivery])


def _event(delivery: Delivery) -> CloudEvent:
    source = f"//pubsub.googleapis.com/projects/cloudq-local/topics/{delivery.queue}"
    message = {
        "data": base64.b64encode(delivery.body).decode(),
        "messageId": delivery.id,
        "attributes": {ID: delivery.id},
    }
    return CloudEvent({"source": source, "type": TYPE}, {"message": message})
