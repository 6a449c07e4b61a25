"""Every fault of a network, before each cloud's services: nothing is lost, doubled or wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloudq.testing import Fault
from cloudq.testing.kit.proxy import _Handler  # pyright: ignore[reportPrivateUsage]
from localstack.servers import Endpoint
from tests.worker.fault_drill import (
    Sources,
    aws_sources,
    azure_sources,
    behind,
    drilled,
    gcp_sources,
)

pytestmark = pytest.mark.drill

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
CHANCE = 0.05
# Calls and chords.
FULL_LOAD = {"aws": (3300, 200), "gcp": (600, 40), "azure": (150, 10)}
SHORT_LOAD = {"aws": (300, 20), "gcp": (30, 2), "azure": (30, 2)}
ONE_FAULT_LOAD = (150, 10)
NAMES = {
    "aws": "SQS + DynamoDB",
    "gcp": "Pub/Sub + Firestore",
    "azure": "Service Bus + Tables",
}
# Seconds by which the clocks of two workers are wrong.
SKEWS = (90.0, -90.0)


@pytest.fixture(params=[*NAMES])
def cloud(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sources(request: pytest.FixtureRequest, cloud: str) -> Iterator[Sources]:
    """Each cloud's services in turn, behind proxies."""
    with ExitStack() as stack:
        service = request.getfixturevalue
        if cloud == "aws":
            yield aws_sources(service("aws"), stack)
        elif cloud == "gcp":
            yield gcp_sources(service("pubsub"), service("firestore"), stack)
        else:
            yield azure_sources(service("servicebus"), service("tables"), stack)


class Contradictory(_Handler):
    """Names each message of a receive twice, and a deleted one among the refused ones as well."""

    def _passed_on(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        status, headers, answer = super()._passed_on(body)
        operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        if status == 200 and operation in ("ReceiveMessage", "DeleteMessageBatch"):
            told = json.loads(answer)
            if operation == "ReceiveMessage" and told.get("Messages"):
                told["Messages"] *= 2
            elif told.get("Successful"):
                failed = {"Code": "InternalError", "Message": "so they say", "SenderFault": False}
                odd = [each for each in told["Successful"] if int(each["Id"]) % 3 == 1]
                told["Failed"] = [{**failed, "Id": each["Id"]} for each in odd]
            answer = json.dumps(told).encode()
        return status, headers, answer


@pytest.mark.timeout(3600)
def test_with_every_fault_at_once_nothing_is_lost_doubled_or_wrong(
    cloud: str, sources: Sources, tmp_path: Path
) -> None:
    calls, chords = (FULL_LOAD if FULL else SHORT_LOAD)[cloud]
    with behind(NAMES[cloud], sources, tmp_path) as drill:
        chances = dict.fromkeys(Fault, CHANCE)
        if FULL or cloud == "aws":
            drill.compare(chances, calls=calls, chords=chords)
        else:
            drill.run(chances, calls=calls, chords=chords)
            drill.stop()
        assert drill.counts.keys() >= set(Fault) - {Fault.PARTIAL}


@pytest.mark.timeout(3600)
def test_with_every_fault_at_once_nothing_of_bundles_is_lost_doubled_or_wrong(
    aws: Endpoint, tmp_path: Path
) -> None:
    with drilled(aws, tmp_path) as drill:
        calls, chords = FULL_LOAD["aws"] if FULL else (200, 4)
        drill.run(dict.fromkeys(Fault, CHANCE), calls=calls, chords=chords, bundle=20)
        assert set(Fault) <= drill.counts.keys()


@pytest.mark.skipif(not FULL, reason="CLOUDQ_DRILL=full runs it")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", Fault)
def test_with_one_fault_nothing_is_lost_doubled_or_wrong(
    cloud: str, sources: Sources, tmp_path: Path, fault: Fault
) -> None:
    with behind(NAMES[cloud], sources, tmp_path) as drill:
        drill.compare({fault: CHANCE}, calls=ONE_FAULT_LOAD[0], chords=ONE_FAULT_LOAD[1])


@pytest.mark.skipif(not FULL, reason="CLOUDQ_DRILL=full runs it")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", Fault)
def test_with_much_of_one_fault_nothing_is_lost_doubled_or_wrong(
    aws: Endpoint, tmp_path: Path, fault: Fault
) -> None:
    with drilled(aws, tmp_path) as drill:
        drill.compare({fault: 0.2}, calls=300, chords=20)
        assert drill.counts[fault]


@pytest.mark.skipif(not FULL, reason="CLOUDQ_DRILL=full runs it")
@pytest.mark.timeout(3600)
def test_with_clocks_that_are_wrong_nothing_is_lost_doubled_or_wrong(
    cloud: str, sources: Sources, tmp_path: Path
) -> None:
    with behind(f"{NAMES[cloud]}, clocks off by {SKEWS} s", sources, tmp_path, SKEWS) as drill:
        drill.compare(
            dict.fromkeys(Fault, CHANCE), calls=ONE_FAULT_LOAD[0], chords=ONE_FAULT_LOAD[1]
        )


@pytest.mark.timeout(3600)
def test_with_answers_that_contradict_themselves_nothing_is_lost_doubled_or_wrong(
    aws: Endpoint, tmp_path: Path
) -> None:
    with drilled(aws, tmp_path, Contradictory) as drill:
        drill.compare({}, calls=60, chords=4)
