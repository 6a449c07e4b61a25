"""`cloudq deploy` for Google and Azure: what the commands do with a `Deployment`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from cloudq.cli.common import Target as AppTarget
from cloudq.cli.output import emit, note, say, table
from cloudq.errors import ConfigurationError
from cloudq_deploy.bundle.archive import LAMBDA, Limit, Package, megabytes
from cloudq_deploy.cli.options import entry_of
from cloudq_deploy.clouds import Deployment, planner
from cloudq_deploy.costs import Assumed, Cost, total

# Options of AWS alone, and what they are called on the command line.
_OF_AWS = {"architecture": "--architecture", "image": "--image", "bucket": "--bucket"}


def deployment(cloud: str, target: AppTarget, **options: object) -> Deployment:
    """Load the app and plan it for a cloud. Raises `ConfigurationError` for what cannot be."""
    for name, option in _OF_AWS.items():
        if options.pop(name, None):
            raise ConfigurationError(f"{option} is of aws alone: leave it out for {cloud}")
    app = target.load()
    given = {name: value for name, value in options.items() if value is not None}
    return planner(cloud)(app, entry_of(target.path or "", app), Path.cwd(), given)


def show(made: Deployment, assumed: Assumed, *, json: bool) -> None:
    """The plan and its costs, as tables or JSON."""
    idle, running, told = made.idle(), made.running(assumed), made.assumptions(assumed)
    if json:
        emit(made.as_json() | {"costs": costs_json(idle, running, told)})
        return
    show_tables(made.rows(), idle, running, told)


def costs_json(
    idle: Sequence[Cost], running: Mapping[str, Sequence[Cost]], told: str
) -> dict[str, Any]:
    """What a plan costs, as JSON values."""
    return {
        "currency": "USD",
        "idle_month": [asdict(cost) for cost in idle],
        "million_tasks": {
            name: [asdict(cost) for cost in found] for name, found in running.items()
        },
        "assumed": told,
    }


def show_tables(
    rows: Iterable[tuple[str, str, str]],
    idle: Sequence[Cost],
    running: Mapping[str, Sequence[Cost]],
    told: str,
) -> None:
    """What there is to be, and what it costs."""
    table(("RESOURCE", "NAME", "SETTINGS"), rows, empty="nothing")
    say("")
    items = [("a month, idle", cost.of, f"{cost.amount:.2f}") for cost in idle]
    for name, found in running.items():
        items += [(f"a million tasks of {name}", cost.of, f"{cost.amount:.2f}") for cost in found]
        items.append((f"a million tasks of {name}", "together", f"{total(found):.2f}"))
    table(("COSTS", "OF", "USD"), items, empty="nothing")
    note(f"assumed: {told}")


def build(made: Deployment, output: Path | None, *, json: bool) -> None:
    """Make the zip and tell of it."""
    package = made.build(output, note)
    if json:
        emit({**asdict(package), "path": str(package.path)})
        return
    tell_package(package, made.limit)


def tell_package(package: Package, limit: Limit = LAMBDA) -> None:
    """How big a zip is, and of what."""
    say(
        f"{package.path}: {megabytes(package.zipped)}, {megabytes(package.unzipped)} unzipped "
        f"({megabytes(limit.unzipped)} at most), contents {package.digest[:16]}, sha256 "
        f"{package.sha256[:16]}"
    )
    table(
        ("PART", "SIZE"),
        [(name, megabytes(size)) for name, size in package.largest()],
        empty="it is empty",
    )


def export(made: Deployment, format: str | None) -> None:
    """Print the plan for another tool. Raises `ConfigurationError`."""
    chosen = format or next(iter(made.formats))
    if chosen not in made.formats:
        raise ConfigurationError(f"--format {chosen}: there are {', '.join(made.formats)}")
    made.check()
    typer.echo(made.formats[chosen]())
