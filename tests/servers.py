"""The servers that tests run against, and names of their own for what tests make there."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NoReturn

import pytest

from cloudq.testing.waiting import PATIENCE
from localstack.servers import Endpoint, Spec, UpError, start

SERVER = "cloudq.tests.server"
"""The audit event of a test that asks for a server; `--quick` skips it then."""


@contextmanager
def serving(spec: Spec) -> Generator[Endpoint]:
    """A real server of some of a cloud's services, stopped at the end of the block."""
    sys.audit(SERVER, spec.services)
    with ExitStack() as stack:
        try:
            endpoint = stack.enter_context(start(spec))
        except UpError as error:
            lacking(f"no local {spec.services}: {error}")
        yield endpoint


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


SOON = PATIENCE / 3
"""Seconds in which gives up what an SDK, left to itself, would try for minutes."""


def unique(prefix: str = "test") -> str:
    """A name that no other test and no other run has."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"
