"""Break every driver in every way we know, and see that its contract tests turn red.

`python tests/mutate.py [--driver memory,sqlite,sqs,dynamodb,...] [-n 2] [--only TEXT] [--count]`
exits 1 when a mutation survives, and 2 when the tests are red without any.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import mutation_plugin

TESTS = Path(__file__).resolve().parent
FAILED = re.compile(r"^(?:FAILED|ERROR) \S+?::(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One driver class and the tests that are to notice that it is broken."""

    driver: str
    module: str
    cls: str
    tests: str
    patience: str  # seconds until a broken driver's message counts as never coming
    select: str = ""  # which of these tests are about the class, as for pytest's -k
    excused: frozenset[str] = frozenset()  # what the service does not promise


TARGETS = (
    Target(
        driver="memory",
        module="cloudq_local.memory_broker",
        cls="MemoryBroker",
        select="Broker or Ordering or Admin or Scheduling",
        tests="adapters/local/test_memory.py",
        patience="2",
        # This service never fails on its own.
        excused=frozenset({"error_code knows nothing"}),
    ),
    Target(
        driver="memory",
        module="cloudq_local.memory_backend",
        cls="MemoryBackend",
        select="Backend or Update",
        tests="adapters/local/test_memory.py",
        patience="2",
    ),
    Target(
        driver="sqlite",
        module="cloudq_local.sqlite_broker",
        cls="SQLiteBroker",
        select="Broker or Ordering or Admin or Scheduling or throttling",
        tests="adapters/local/test_sqlite.py adapters/local/test_sqlite_processes.py",
        patience="2",
    ),
    Target(
        driver="sqlite",
        module="cloudq_local.sqlite_backend",
        cls="SQLiteBackend",
        select="Backend or Update",
        tests="adapters/local/test_sqlite.py",
        patience="2",
        # The file, with its tables, is made when it is opened.
        excused=frozenset({"create_store does nothing"}),
    ),
    Target(
        driver="sqs",
        module="cloudq_aws.sqs",
        cls="SQS",
        tests="adapters/aws/test_sqs.py",
        patience="6",
        # A standard queue lets a lost lease settle.
        excused=frozenset({"ack hides its failures"}),
    ),
    Target(
        driver="pubsub",
        module="cloudq_gcp.pubsub",
        cls="PubSub",
        select="not Tasks",
        tests="adapters/gcp/test_pubsub.py adapters/gcp/test_pubsub_service.py",
        patience="6",
        # It neither delays nor deduplicates, and counts nothing.
        excused=frozenset(
            {"send forgets the delay", "send forgets the dedup key", "stats count nothing"}
        ),
    ),
    Target(
        driver="servicebus",
        module="cloudq_azure.servicebus",
        cls="ServiceBus",
        tests="adapters/azure/test_servicebus.py",
        patience="6",
        # A queue has one length of lock, whatever a receive or an extension asks for.
        excused=frozenset(
            {"receive takes no lease", "receive leases for ever", "extend leases for ever"}
        ),
    ),
    Target(
        driver="dynamodb",
        module="cloudq_aws.dynamodb",
        cls="DynamoDB",
        tests="adapters/aws/test_dynamodb.py",
        patience="6",
    ),
    Target(
        driver="firestore",
        module="cloudq_gcp.firestore",
        cls="Firestore",
        tests="adapters/gcp/test_firestore.py adapters/gcp/test_firestore_service.py",
        patience="6",
    ),
    Target(
        driver="pubsub",
        module="cloudq_gcp.pubsub",
        cls="PubSubWithTasks",
        select="Tasks",
        tests="adapters/gcp/test_pubsub.py",
        patience="6",
        # As above; groups and leases are tested without tasks.
        excused=frozenset(
            {
                "send forgets the group",
                "send forgets the dedup key",
                "stats count nothing",
                "ack hides its failures",
            }
        ),
    ),
    Target(
        driver="aztables",
        module="cloudq_azure.tables",
        cls="Tables",
        tests="adapters/azure/test_tables.py adapters/azure/test_tables_service.py",
        patience="6",
    ),
    Target(
        driver="file",
        module="cloudq_local.blob_files",
        cls="BlobFiles",
        select="Contract",
        tests="adapters/local/test_blob_files.py",
        patience="2",
        # The folder is made when it is first needed, and is never missing.
        excused=frozenset({"create_place does nothing", "check_place does nothing"}),
    ),
    Target(
        driver="s3",
        module="cloudq_aws.s3",
        cls="S3",
        select="Contract",
        tests="adapters/aws/test_s3.py",
        patience="6",
    ),
    Target(
        driver="gs",
        module="cloudq_gcp.cloud_storage",
        cls="CloudStorage",
        select="Contract",
        tests="adapters/gcp/test_cloud_storage.py",
        patience="6",
    ),
    Target(
        driver="azblob",
        module="cloudq_azure.blob_storage",
        cls="BlobStorage",
        select="Contract",
        tests="adapters/azure/test_blob_storage.py",
        patience="6",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict of the tests on one mutation."""

    target: Target
    mutation: str
    red: tuple[str, ...]
    seconds: float
    output: str


def mutations(target: Target) -> list[str]:
    """Return the names of the mutations that this class can have."""
    cls = getattr(import_module(target.module), target.cls)
    return [
        name
        for name, (method, _) in mutation_plugin.known(cls).items()
        if hasattr(cls, method) and name not in target.excused
    ]


def judge(target: Target, mutation: str, *, count: bool) -> Verdict:
    """Run the tests with the mutation in place, up to the first red one unless `count`."""
    environment = {
        **os.environ,
        "CLOUDQ_PATIENCE": "30",
        "PYTHONPATH": str(TESTS),
        "CLOUDQ_MUTATION": f"{target.module}:{target.cls}:{mutation}",
        "CLOUDQ_MUTATION_PATIENCE": target.patience,
    }
    options = ["-q", "-rfE", "--no-header", "--timeout=90", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-p", "mutation_plugin", *options]
    start = time.monotonic()
    done = subprocess.run(
        [*command, *([] if count else ["-x"]), "-k", target.select, *target.tests.split()],
        cwd=TESTS,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    red = tuple(FAILED.findall(done.stdout))
    if done.returncode not in (0, 1) or (done.returncode and not red):
        # A timeout ends the run without a summary; it is red all the same.
        red = red or (f"(exit {done.returncode})",)
    return Verdict(
        target=target,
        mutation=mutation,
        red=red,
        seconds=time.monotonic() - start,
        output=done.stdout + done.stderr,
    )


def show(verdict: Verdict) -> None:
    name = verdict.red[0] if verdict.red else "SURVIVED" if verdict.mutation else "green"
    label = verdict.mutation or "(not broken)"
    driver = f"{verdict.target.driver} {verdict.target.cls}"
    print(
        f"{driver:22} {label:40} {len(verdict.red):3} {verdict.seconds:5.1f} s  {name}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--driver", default="memory,sqlite", help="comma-separated")
    parser.add_argument("-n", type=int, default=2, help="how many runs at once")
    parser.add_argument("--only", default="", help="mutations whose name has this text")
    parser.add_argument("--count", action="store_true", help="count every red test")
    options = parser.parse_args()
    targets = [target for target in TARGETS if target.driver in options.driver.split(",")]
    with ThreadPoolExecutor(options.n) as pool:
        sound = list(pool.map(lambda target: judge(target, "", count=False), targets))
        for verdict in sound:
            show(verdict)
        if bad := [verdict for verdict in sound if verdict.red]:
            print(bad[0].output)
            return 2
        pairs = [(t, m) for t in targets for m in mutations(t) if options.only in m]
        verdicts = pool.map(lambda pair: judge(*pair, count=options.count), pairs)
        survivors = 0
        for verdict in verdicts:
            show(verdict)
            survivors += not verdict.red
    print(f"{len(pairs)} mutations, {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
