"""Applies that are interrupted, or overtaken by another; and logs that are followed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.stack.access import Aws, DeployError
from cloudq_deploy.aws.stack.bucket import Bucket
from cloudq_deploy.aws.stack.changes import ChangeSet
from cloudq_deploy.aws.stack.destroy import destroy
from cloudq_deploy.aws.stack.state import look
from cloudq_deploy.aws.stack.watch import Event
from localstack.servers import Endpoint
from tests.deploy.test_stack_states import Log, applied
from tests.servers import unique


class Meanwhile(Log):
    """A screen on which something happens while it asks, or when it is told of an event."""

    def __init__(
        self,
        *,
        asking: Callable[[], object] = lambda: None,
        told: Callable[[], object] = lambda: None,
        answer: bool = True,
    ) -> None:
        super().__init__(answer=answer)
        self._asking = asking
        self._told = told

    def confirm(self, changes: ChangeSet) -> bool:
        self._asking()
        return super().confirm(changes)

    def tell(self, event: Event) -> None:
        super().tell(event)
        if event.status == "CREATE_COMPLETE" and not event.of_stack:
            self._told()


@pytest.fixture
def here(aws: Endpoint) -> Aws:
    return Aws(region="us-east-1", endpoint_url=aws.url)


@pytest.fixture
def plan(here: Aws, planned: Callable[..., Plan]) -> Iterator[Plan]:
    made = planned({"region": "us-east-1", "alarms": False}, unique("stack"))
    yield made
    if look(here, made.stack):
        destroy(here, made.stack, Log(), bucket=Bucket(here, made.stack), data=True)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_interrupted_before_it_began_nothing_stands(here: Aws, plan: Plan) -> None:
    screen = Meanwhile(asking=interrupt)
    with pytest.raises(KeyboardInterrupt):
        applied(here, plan, screen)
    assert screen.lines[-1] == f"interrupted: stack {plan.stack} was not changed"
    assert look(here, plan.stack) is None


def test_interrupted_on_the_way_it_says_what_stands_and_how_to_go_on(here: Aws, plan: Plan) -> None:
    screen = Meanwhile(told=interrupt)
    with pytest.raises(KeyboardInterrupt):
        applied(here, plan, screen)
    said = screen.lines[-1]
    assert "interrupted after 1 of" in said
    assert "`cloudq deploy apply` goes on from there" in said
    eventually(lambda: (found := look(here, plan.stack)) and found.status == "CREATE_COMPLETE")
    again = Log()
    assert applied(here, plan, again) is not None
    assert any("no changes" in line for line in again.lines)
    # What AWS went on to make is a release as any other, once.
    releases = Bucket(here, plan.stack).releases()
    assert len(releases) == 1
    applied(here, plan, Log())
    assert Bucket(here, plan.stack).releases() == releases


def test_of_two_applies_at_once_one_changes_the_stack(here: Aws, plan: Plan) -> None:
    second = Meanwhile(asking=lambda: applied(here, plan, Log()))
    with pytest.raises(DeployError, match=r"somebody else is changing stack.*changed nothing"):
        applied(here, plan, second)
    standing = look(here, plan.stack)
    assert standing is not None
    assert standing.status == "CREATE_COMPLETE"
    more = replace(plan, functions=(replace(plan.functions[0], memory=1024),))
    least = replace(plan, functions=(replace(plan.functions[0], memory=128),))
    third = Meanwhile(asking=lambda: applied(here, more, Log()))
    with pytest.raises(DeployError, match="this apply changed nothing"):
        applied(here, least, third)
    name = plan.functions[0].name
    found = here.functions.get_function_configuration(FunctionName=name)
    assert found.get("MemorySize") == 1024


def test_no_for_an_answer_leaves_the_stack_that_another_makes(here: Aws, plan: Plan) -> None:
    other = Meanwhile(asking=lambda: applied(here, plan, Log()), answer=False)
    assert applied(here, plan, other) is None
    standing = look(here, plan.stack)
    assert standing is not None
    assert standing.status == "CREATE_COMPLETE"


@pytest.mark.usefixtures("fresh_modules")
def test_logs_are_followed_until_ctrl_c(shop: Path, here: Aws, aws: Endpoint) -> None:
    group, stream = "/aws/lambda/shop-mail", unique("stream")
    here.logs.create_log_group(logGroupName=group)
    here.logs.create_log_stream(logGroupName=group, logStreamName=stream)

    def log(text: str) -> None:
        event = {"timestamp": int(time.time() * 1000), "message": text}
        here.logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[event])

    log("before")
    printed = shop / "printed"
    command = [sys.executable, "-m", "cloudq", "deploy", "logs", "-f", "-A", "shop.tasks:app"]
    try:
        with printed.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--endpoint-url", aws.url], stdout=output, stderr=output, cwd=shop
            )
        try:
            for text in ("before", "first", "second"):
                eventually(lambda text=text: f"shop-mail: {text}" in printed.read_text())
                log({"before": "first", "first": "second"}.get(text, "last"))
            eventually(lambda: "shop-mail: last" in printed.read_text())
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        finally:
            process.kill()
            process.wait()
    finally:
        here.logs.delete_log_group(logGroupName=group)
    lines = [line.partition("shop-mail: ")[2] for line in printed.read_text().splitlines()]
    assert lines == ["before", "first", "second", "last"]
