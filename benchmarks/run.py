"""All benchmarks in one run: `make bench`, or with `--quick` a tenth of the work.

`make bench ARGS="workflows control"` runs these only. These figures
inform; nothing fails on them, since a busy machine is slower by any factor.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from harness import Figure, show  # noqa: E402

# What is measured, by name: each is a module here, `imports` the function below.
ROOMS = {
    "imports": "the time of imports",
    "embedded": "SQLite",
    "sqs": "SQS and DynamoDB: requests and CPU a task",
    "lambda_start": "a function's cold start, and what a message costs there",
    "clouds": "Google and Azure: requests and CPU a task",
    "workflows": "chains, groups and chords",
    "control": "heartbeats, and asking workers",
    "pages": "the dashboard: server time of its pages",
}
_SDKS = ("boto3", "botocore", "google.cloud", "azure", "aws_lambda_powertools")


def imports() -> Iterator[Figure]:
    """The time of imports in fresh interpreters, and what they must not bring."""
    for statement, target in (
        ("import cloudq", 100),
        ("from cloudq import CloudQ; CloudQ()", None),
    ):
        code = (
            f"import sys, time; start = time.perf_counter(); {statement}; "
            "took = time.perf_counter() - start; "
            f"print(took * 1000, [name for name in {_SDKS!r} if name in sys.modules])"
        )
        command = [sys.executable, "-c", code]
        runs = [
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for _ in range(15)
        ]
        times = sorted(float(run.split()[0]) for run in runs)
        sdks = runs[0].split(maxsplit=1)[1].strip()
        yield Figure(
            what=f"{statement}: best of 15",
            value=times[0],
            unit="ms",
            target=target,
            note=f"median {times[7]:.0f} ms, SDKs imported: {sdks}",
        )


def chosen(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Read what to measure, and whether quickly. Exits after help, or for an unknown name."""
    names = "\n".join(f"  {name:<10} {about}" for name, about in ROOMS.items())
    parser = argparse.ArgumentParser(
        prog="benchmarks/run.py",
        description="Measure on this machine, and print each figure beside its target.",
        epilog=f"names, left out for all:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in ROOMS]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}: there are {', '.join(ROOMS)}")
    return [name for name in ROOMS if not given.names or name in given.names], given.quick


def measured(name: str, quick: bool) -> Iterator[Figure]:
    """The figures of one room."""
    return imports() if name == "imports" else importlib.import_module(name).measure(quick)


def main() -> None:
    names, quick = chosen(sys.argv[1:])
    figures: list[Figure] = []
    for name in names:
        for figure in measured(name, quick):
            figures.append(figure)
            print(
                f"{figure.what.strip()}: {figure.value:,.2f} {figure.unit} ({figure.note})",
                flush=True,
            )
    show(figures)


if __name__ == "__main__":
    main()
