"""Drivers of AWS whose server lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from botocore import handlers

import cloudq_aws.sdk  # noqa: F401 - before any test puts something in the way of requests
from cloudq.driver import Address
from cloudq_aws.dynamodb import DynamoDB, open_backend
from cloudq_aws.sqs import SQS, open_broker
from tests.adapters.aws.liar import Liar
from tests.support.serving import serving


@pytest.fixture
def liar() -> Iterator[Liar]:
    with serving(Liar()) as server:
        yield server


@pytest.fixture
def sqs(liar: Liar) -> Iterator[SQS]:
    with closing(open_broker(Address(scheme="sqs", options={"endpoint_url": liar.url}))) as driver:
        yield driver


@pytest.fixture
def dynamodb(liar: Liar) -> Iterator[DynamoDB]:
    address = Address(scheme="dynamodb", host="table", options={"endpoint_url": liar.url})
    with closing(open_backend(address)) as driver:
        yield driver


@pytest.fixture
def without_moto(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make clients as in a program that has not imported moto, which hooks itself into each."""
    plain = [
        handler
        for handler in handlers.BUILTIN_HANDLERS
        if not type(handler[1]).__module__.startswith("moto.")
    ]
    monkeypatch.setattr(handlers, "BUILTIN_HANDLERS", plain)
