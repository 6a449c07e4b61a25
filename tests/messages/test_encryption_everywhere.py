"""Every broker and every store passes the contract of encryption."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudq.testing import EncryptionContract
from localstack.servers import Endpoint
from tests.servers import unique


class TestMemory(EncryptionContract):
    @pytest.fixture
    def broker(self) -> str:
        return f"memory://{unique('sealed')}"

    @pytest.fixture
    def backend(self, broker: str) -> str:
        return broker


class TestSqlite(EncryptionContract):
    @pytest.fixture
    def broker(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/q.db"

    @pytest.fixture
    def backend(self, broker: str) -> str:
        return broker


class TestSqliteApart(TestSqlite):
    """Messages in one file and results in another are in no transaction together."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/results.db"


class TestAws(EncryptionContract):
    @pytest.fixture
    def broker(self, aws: Endpoint) -> str:
        return f"sqs://?endpoint_url={aws.url}"

    @pytest.fixture
    def backend(self, aws: Endpoint) -> str:
        return f"dynamodb://{unique('sealed')}?endpoint_url={aws.url}"


class TestAwsOrdered(TestAws):
    @pytest.fixture
    def queue(self) -> str:
        return unique("sealed") + ".fifo"


class TestGoogle(EncryptionContract):
    @pytest.fixture
    def broker(self, pubsub: Endpoint) -> str:
        return f"pubsub://cloudq-local?emulator=127.0.0.1:{pubsub.port}"

    @pytest.fixture
    def backend(self, firestore: Endpoint) -> str:
        return f"firestore://cloudq-local/{unique('sealed')}?emulator=127.0.0.1:{firestore.port}"


class TestAzure(EncryptionContract):
    @pytest.fixture
    def broker(self, servicebus: Endpoint) -> str:
        return servicebus.environment["CLOUDQ_BROKER"]

    @pytest.fixture
    def backend(self, tables: Endpoint) -> str:
        table = unique("sealed").replace("-", "")
        return tables.environment["CLOUDQ_BACKEND"].replace("/cloudq?", f"/{table}?")
