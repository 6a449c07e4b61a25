"""Fixtures of the whole suite: an environment that is nobody's own, and the local AWS endpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from localstack.up import REGION, Endpoint
from tests.servers import ministack

# A shell starts what it puts in the background with SIGINT ignored, and that is inherited: the
# programs that tests interrupt would not notice.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Keep the user's own AWS and cloudq set-up out of every test, with keys that are nobody's."""
    nowhere = tmp_path_factory.mktemp("aws")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "CLOUDQ_")) and name not in (
                "CLOUDQ_STATE",
                "CLOUDQ_DRILL",
            ):
                patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", REGION)
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("AWS_CONFIG_FILE", str(nowhere / "config"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "credentials"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield patch


@pytest.fixture(scope="session")
def aws(isolated: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A real server of SQS and DynamoDB, without docker (see localstack/up.py)."""
    with ministack() as endpoint:
        yield endpoint
