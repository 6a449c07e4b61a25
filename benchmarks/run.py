"""All benchmarks in one run: `make bench`, or with `--quick` a tenth of the work.

These figures inform; nothing fails on them, since a busy machine is slower by any factor.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from harness import Figure, show  # noqa: E402

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


def main() -> None:
    quick = "--quick" in sys.argv
    import clouds
    import embedded
    import sqs
    import workflows

    figures: list[Figure] = []
    rooms = (embedded, sqs, clouds, workflows)
    sources = (imports(), *(room.measure(quick) for room in rooms))
    for source in sources:
        for figure in source:
            figures.append(figure)
            print(
                f"{figure.what.strip()}: {figure.value:,.2f} {figure.unit} ({figure.note})",
                flush=True,
            )
    show(figures)


if __name__ == "__main__":
    main()
