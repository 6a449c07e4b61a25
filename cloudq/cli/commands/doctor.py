"""`cloudq doctor`: finds problems and says how to fix them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cloudq.amounts import counted
from cloudq.cli import checks, payload_checks
from cloudq.cli.checks import Finding, Status
from cloudq.cli.options import JsonOption, Target, common
from cloudq.cli.output import emit, fields, say, styled

_STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.SKIP: "dim"}


@common
def doctor(
    target: Target,
    queue: Annotated[
        list[str] | None,
        typer.Option("-Q", "--queue", help="Check this queue. Default: the app's queues."),
    ] = None,
    json: JsonOption = False,
) -> int:
    """Check settings, app, broker and backend.

    Exits with 1 if a check fails.
    Sends nothing, and takes no message that waits for a worker.
    """
    findings = examine(target, queue)
    failed = sum(finding.status == Status.FAIL for finding in findings)
    warned = sum(finding.status == Status.WARN for finding in findings)
    if json:
        emit({"ok": not failed, "checks": list(map(asdict, findings))})
        return 1 if failed else 0
    fields((finding.status.value, _line(finding)) for finding in findings)
    say("")
    say(
        f"{failed} failed, {counted(warned, 'warning')}"
        if failed or warned
        else "no problems found"
    )
    return 1 if failed else 0


def examine(target: Target, queues: list[str] | None) -> list[Finding]:
    """Run all checks, from the installation to the backend."""
    findings = list(checks.installation())
    app, loaded = checks.application(target)
    findings += loaded
    if app is None:
        return findings
    with app:
        findings += checks.configuration(app, target)
        findings += checks.broker(app, queues)
        findings += checks.backend(app)
        findings += payload_checks.payloads(app)
        findings += checks.readers(app, queues)
    return findings


def _line(finding: Finding) -> object:
    style = _STYLES[finding.status]
    todo = f" - {finding.todo}" if finding.todo else ""
    return styled((f"{finding.what}: ", style), f"{finding.detail}{todo}")


def add_to(program: typer.Typer) -> None:
    """Add `doctor` to the commands of `cloudq`."""
    program.command()(doctor)
