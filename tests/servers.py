"""The servers that tests run against, started once for each test process."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import pytest

from localstack.up import Endpoint, UpError, start


@contextmanager
def ministack() -> Iterator[Endpoint]:
    """A real server for SQS and DynamoDB, stopped at the end of the block."""
    try:
        server = start()
        endpoint = server.__enter__()
    except UpError as error:
        lacking(f"no local AWS endpoint: {error}")
    try:
        yield endpoint
    finally:
        server.__exit__(None, None, None)


def lacking(reason: str) -> NoReturn:
    """Skip what this machine cannot run; in CI, where all must run, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def skip_gap(request: pytest.FixtureRequest, gaps: Mapping[str, str]) -> None:
    """Skip a test that a stand-in cannot pass: `gaps` has parts of test names, and the reason."""
    name = request.node.name
    reason = next((reason for part, reason in gaps.items() if part in name), None)
    if reason:
        pytest.skip(reason)


def unique(prefix: str = "test") -> str:
    """A name that no other test and no other run has."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"
