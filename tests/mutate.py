"""Break drivers and the core on purpose, and see that the tests turn red.

`python tests/mutate.py [--driver memory,sqlite,sqs,dynamodb,...] [-n 2] [--only TEXT] [--count]`
breaks every driver in every way we know. With `--driver executor,joins,leases,bundles,blobs,keys`
it changes one place of the core's code at a time: up to `--most` places of each module, chosen by
`--seed`, or `--all`. With `--short` it tries the few of all these for which a test is named. With
`--driver life` it makes some slips in the executor that the model of a delivery's life is to find.

It exits 1 when a mutation survives, and 2 when the tests are red without any.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import core_targets
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
        "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
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


def break_core(target: core_targets.CoreTarget, options: argparse.Namespace) -> tuple[int, int]:
    """Try the mutants of a core target; return how many there were, and how many survived."""
    began = time.monotonic()
    most = None if options.all or options.only or options.short else options.most
    choice = {"seed": options.seed, "count": most, "only": options.only}
    with tempfile.TemporaryDirectory() as folder:
        work, verdicts = Path(folder, "work.json"), Path(folder, "verdicts")
        given = {"target": target.name, "at_once": options.n, "verdicts": str(verdicts)}
        work.write_text(json.dumps({**given, "choice": choice, "short": options.short}))
        verdicts.touch()
        environment = {
            **os.environ,
            "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
            "CLOUDQ_MUTANTS": str(work),
            "CLOUDQ_MUTANT": "1",
        }
        environment.setdefault("CLOUDQ_MODEL_EXAMPLES", "400")
        flags = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--capture=sys", "--timeout=120"]
        command = [sys.executable, "-m", "pytest", "-p", "core_mutation_plugin", *flags]
        quick = ["--quick"] if target.quick else []
        running = subprocess.Popen(
            [*command, *quick, "-k", target.select, *target.tests.split()],
            cwd=TESTS,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        tried: list[dict[str, object]] = []
        with verdicts.open() as file:
            while (ended := running.poll()) is not None or True:
                while line := file.readline():
                    tried += _told(target, json.loads(line))
                if ended is not None:
                    break
                time.sleep(0.1)
        if running.returncode or not tried:
            print(running.stdout.read() if running.stdout else "")
            raise SystemExit(2)
    survived = sum(not verdict["failed"] for verdict in tried)
    excused = len(target.excused)
    print(
        f"{target.name}: {len(tried)} mutants, {survived} survived, {excused} excused by name, "
        f"{time.monotonic() - began:.0f} s, seed {options.seed}"
    )
    return len(tried), survived


def _told(target: core_targets.CoreTarget, verdict: dict[str, object]) -> list[dict[str, object]]:
    """Show a verdict; nothing of it where it is not one of a mutant."""
    if "red" in verdict:
        print(f"{target.name}: red without any mutant: {verdict['red']}")
        return []
    if "mutant" not in verdict:
        print(f"{target.name}: {verdict['tests']} tests, {verdict['seconds']:.0f} s", flush=True)
        return []
    name = verdict["failed"] or f"SURVIVED {verdict['run']} of {verdict['tests']} tests"
    print(
        f"{verdict['mutant']}  (line {verdict['line']}, {verdict['seconds']} s)  {name}", flush=True
    )
    return [verdict]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--driver", default="memory,sqlite", help="comma-separated")
    parser.add_argument("-n", type=int, default=2, help="how many runs at once")
    parser.add_argument("--only", default="", help="mutations whose name has this text")
    parser.add_argument("--count", action="store_true", help="count every red test")
    parser.add_argument("--seed", type=int, default=16, help="of the choice of the core's mutants")
    parser.add_argument("--most", type=int, default=core_targets.PER_MODULE, help="of one module")
    parser.add_argument("--short", action="store_true", help="only the core's known mutants")
    parser.add_argument("--all", action="store_true", help="every mutant of the core's modules")
    options = parser.parse_args()
    core = [each for each in core_targets.TARGETS if each.name in options.driver.split(",")]
    if options.short:
        core = [core_targets.CORE_OF_ALL]
    if core:
        broken = [break_core(target, options) for target in core]
        return 1 if any(survived for _, survived in broken) else 0
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
