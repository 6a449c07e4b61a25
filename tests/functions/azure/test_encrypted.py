"""An Azure Function of a Service Bus trigger passes the contract of encryption."""

from __future__ import annotations

import azure.functions as func
import pytest

from cloudq import CloudQ
from cloudq.testing import EncryptionContract
from cloudq_azure import register
from localstack.servers import Endpoint
from tests.functions.azure.azure_host import QueueHost, functions
from tests.servers import unique


class TestAzureFunction(EncryptionContract):
    tells_reasons = False  # the host abandons what it cannot dead-letter
    max_deliveries = 2

    @pytest.fixture
    def broker(self, servicebus: Endpoint) -> str:
        return servicebus.environment["CLOUDQ_BROKER"]

    @pytest.fixture
    def backend(self, tables: Endpoint) -> str:
        table = unique("sealed").replace("-", "")
        return tables.environment["CLOUDQ_BACKEND"].replace("/cloudq?", f"/{table}?")

    def run(self, app: CloudQ, queue: str, count: int) -> None:
        function_app = func.FunctionApp()
        register(function_app, app, queues=[queue])
        (function,) = functions(function_app).values()
        host = QueueHost(function, app.broker)
        while count:
            (delivery,) = host.pump()
            count -= host.error is None or delivery.attempts == self.max_deliveries
