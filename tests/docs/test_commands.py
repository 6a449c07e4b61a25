"""Every command on a page runs, in a small shop that has something to show, or says why not.

Each section of a how-to is read by itself. It gets a folder, an app on SQLite, calls that ended
well and badly, dead letters, calls that wait, and where it needs one a running worker.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudq.testing.waiting import PATIENCE
from localstack.servers import Endpoint
from tests.docs.blocks import Block, Command, Shell, Words, blocks, sections
from tests.servers import unique

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
# Pages whose commands are run by tests of their own.
ELSEWHERE = {
    "README": "tests/docs/test_pages.py",
    "first-tasks": "tests/docs/test_pages.py",
    "run-on-aws": "tests/docs/test_pages.py",
    "run-on-google-cloud": "tests/docs/test_pages.py",
    "run-on-azure": "tests/docs/test_pages.py",
    "laptop-to-lambda": "tests/deploy/test_deploy_pages.py",
    "deploy-to-aws": "tests/deploy/test_deploy_pages.py",
    "deploy-to-google-cloud": "tests/deploy/test_deploy_pages.py",
    "deploy-to-azure": "tests/deploy/test_deploy_pages.py",
}
SHOP = """
import logging

from cloudq import CloudQ, chain, crontab

app = CloudQ("shop", task_events="final")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(dead_letter=True)
def charge(order: int) -> int:
    if order < 0:
        raise ValueError(f"no order {order}")
    return order * 100


@app.periodic(crontab("0 3 * * *"), name="nightly")
@app.task(queue="mail")
def report() -> str:
    return "the report"
"""
PAST = """
import json

from cloudq import chain, chord
from cloudq.testing import drain
from shop.tasks import add, app, charge

well = charge.delay(7)
badly = [charge.delay(-1), charge.delay(-2)]
flow = chain(add.s(1, 2), add.s(3)).delay()
drain(app)
later = add.apply_async((1, 2), countdown=3600)
waiting = [add.delay(n, n) for n in range(3)]
print(json.dumps({"badly": badly[0].id, "flow": flow.id, "later": later.id}))
"""
CHORD = """
total = app.task(name="total")(sum)
print(json.dumps({"flow": flow.id, "chord": chord([add.s(1, 1)], total.s()).apply_async().id}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The surroundings of a section: a shell, and the servers that a test can ask for."""

    heading: str
    shell: Shell
    request: pytest.FixtureRequest

    def shop(self, more: str = "", past: str = PAST) -> Any:
        """Open the shop; returns the ids of its calls by what became of them."""
        package = self.shell.folder / "shop"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "tasks.py").write_text(SHOP + more)
        (self.shell.folder / "past.py").write_text(past)
        done = subprocess.run(
            ["python", "past.py"],
            cwd=self.shell.folder,
            env=self.shell.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    def worker(self) -> None:
        """Start a worker of the shop."""
        line = "cloudq worker -A shop.tasks:app -Q default -n worker-1 --processes 1"
        self.shell.run(Command(line=line))

    def aws(self) -> Endpoint:
        """Have the commands reach a local AWS."""
        aws: Endpoint = self.request.getfixturevalue("aws")
        settings = {n: v for n, v in aws.environment.items() if not n.startswith("CLOUDQ_")}
        self.shell.environment |= settings
        return aws


Prepare = Callable[[Scene], Words]
STORIES: dict[str, Prepare] = {}


def story(page: str) -> Callable[[Prepare], Prepare]:
    """Make a function prepare a page's sections; it returns words in place of theirs."""

    def add(prepare: Prepare) -> Prepare:
        STORIES[page] = prepare
        return prepare

    return add


@story("operate-in-production")
def _(scene: Scene) -> Words:
    # A call that is delayed by an hour would be waited for, on its way from SQS.
    ids = scene.shop(past=PAST.replace("countdown=3600", "countdown=0"))
    if scene.heading == "Look after queues":
        tables: Endpoint = scene.request.getfixturevalue("tables")
        backend = f'"{tables.environment["CLOUDQ_BACKEND"]}"'
        scene.shell.run(Command(line=f"cloudq queues create --store --backend {backend}"))
        return {"aztables://myaccount/cloudq": backend}
    if scene.heading == "Move to another broker":
        prefix = unique("pages-")
        bus: Endpoint = scene.request.getfixturevalue("servicebus")
        scene.aws()
        return {
            "sqs://eu-west-1": f"'sqs://eu-west-1?prefix={prefix}'",
            "servicebus://shop": f"'{bus.environment['CLOUDQ_BROKER']}&prefix={prefix}'",
        }
    return {"default ID": f"default {ids['badly']}"}


@story("encrypt")
def _(scene: Scene) -> Words:
    keys = '{"2026": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}'
    scene.shell.environment |= {"CLOUDQ_APP": "shop.tasks:app", "CLOUDQ_ENCRYPTION_KEYS": keys}
    scene.shop()
    return {}


@story("runbooks")
def _(scene: Scene) -> Words:
    ids = scene.shop()
    scene.shell.environment["CLOUDQ_APP"] = "shop.tasks:app"
    scene.worker()
    places = ("default", "result", "show")
    return {f"{place} ID": f"{place} {ids['badly']}" for place in places}


@story("monitor-and-control")
def _(scene: Scene) -> Words:
    page = DOCS / "how-to" / "monitor-and-control.md"
    own = [block.text for block in blocks(page) if "control_command" in block.text]
    ids = scene.shop("\n\n".join(["", *own]))
    if scene.heading == "Look up what became of tasks":
        scene.shell.environment["CLOUDQ_APP"] = "shop.tasks:app"
    if scene.heading != "Serve metrics":  # it starts a worker by itself
        scene.worker()
    return {
        "0198f1c2-7d2e-7c3a-9b1e-0c5d3f6a7b88": ids["later"],
        "ID...": ids["later"],
        "show ID": f"show {ids['badly']}",
        "app ID": f"app {ids['badly']}",
        "run-again ID": f"run-again {ids['badly']}",
        "9100": f"{free_port()}",
        "0.0.0.0": "127.0.0.1",
    }


@story("see-what-tasks-cost")
def _(scene: Scene) -> Words:
    scene.shop()
    (scene.shell.folder / "prices.toml").write_text("sqs_request = 0.44\n")
    scene.worker()
    return {}


@story("run-workers")
def _(scene: Scene) -> Words:
    scene.shop()
    return {}


@story("celery-command-line")
def _(scene: Scene) -> Words:
    scene.shop()
    return {}


@story("use-the-dashboard")
def _(scene: Scene) -> Words:
    scene.shop()
    scene.shell.typed = "a long password\n"
    port = f"{free_port()}"
    return {
        "dashboard -A shop.tasks:app": f"dashboard -A shop.tasks:app --port {port}",
        "5555": port,
        "0.0.0.0": "127.0.0.1",
    }


@story("use-in-a-web-application")
def _(scene: Scene) -> Words:
    folder = scene.shell.folder
    for package in ("mysite", "orders"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("")
    (folder / "mysite" / "__init__.py").write_text("from mysite.queue import app as app\n")
    (folder / "mysite" / "settings.py").write_text('INSTALLED_APPS = ["orders"]\n')
    page = DOCS / "how-to" / "use-in-a-web-application.md"
    scene.shell.read(block for block in blocks(page) if block.file)
    port = f"{free_port()}"
    return {"5000": port, "8000": port}


@story("use-django")
def _(scene: Scene) -> Words:
    folder = scene.shell.folder
    for package in ("mysite", "orders"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("")
    (folder / "manage.py").write_text(
        "import os, sys\n"
        'os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"\n'
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(sys.argv)\n"
    )
    page = DOCS / "how-to" / "use-django.md"
    scene.shell.read(block for block in blocks(page) if block.file)
    return {}


@story("compose-workflows")
def _(scene: Scene) -> Words:
    shop = scene.shop(past=PAST + CHORD)
    return {"RESULT_ID": shop["flow"], "CHORD_ID": shop["chord"]}


@story("send-large-payloads")
def _(scene: Scene) -> Words:
    scene.shell.run(Command(line="cloudq queues create default --broker sqlite:///large.db"))
    return {}


@story("schedule-tasks")
def _(scene: Scene) -> Words:
    app = blocks(DOCS / "how-to" / "schedule-tasks.md")[0]
    (scene.shell.folder / "shop.py").write_text(app.text)
    if scene.heading != "Use the cloud's scheduler":
        scene.shell.run(Command(line="cloudq queues create default"))
        return {}
    aws = scene.aws()
    group, prefix = unique("pages"), unique("pages-")
    scene.shell.environment["CLOUDQ_BROKER"] = f"sqs://eu-west-1?prefix={prefix}"
    scene.shell.environment["CLOUDQ_BACKEND"] = aws.environment["CLOUDQ_BACKEND"]
    scene.shell.run(Command(line="cloudq queues create default --store"))
    role = "arn:aws:iam::000000000000:role/scheduler"
    dead = "arn:aws:sqs:eu-west-1:000000000000:undelivered"
    return {"role=ARN&dead=ARN": f"role={role}&dead={dead}&group={group}&prefix={prefix}"}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_here(found: list[Block]) -> list[Block]:
    """The blocks of commands that a test is to run."""
    return [block for block in found if block.language == "console" and not block.why_not]


SECTIONS = [
    pytest.param(page, heading, run_here(found), id=f"{page.stem}: {heading}")
    for page in PAGES
    if page.stem in STORIES
    for heading, found in sections(page)
    if run_here(found)
]


@pytest.mark.parametrize(("page", "heading", "found"), SECTIONS)
def test_the_commands_of_a_section_run(
    page: Path, heading: str, found: list[Block], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with Shell(tmp_path, loosely=True) as shell:
        words = STORIES[page.stem](Scene(heading=heading, shell=shell, request=request))
        shell.read(found, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_has_commands_that_no_test_runs(page: Path) -> None:
    commands = [block for _, found in sections(page) for block in run_here(found)]
    assert not commands or page.stem in STORIES or page.stem in ELSEWHERE
    # A command that is shown in another way would be read by nobody.
    text = page.read_text()
    shown = "\n".join(block.text for block in blocks(page) if block.language == "console")
    lines = re.findall(
        r"^(?: {4,}|\$ )(?:\$ )?((?:cloudq|pip|make|export) .*)$", text, re.MULTILINE
    )
    assert [line for line in lines if line not in shown] == []


def test_each_reason_for_not_running_a_command_is_a_sentence() -> None:
    reasons = [block.why_not for page in PAGES for block in blocks(page) if block.why_not]
    assert len(reasons) > 5
    assert [reason for reason in reasons if len(reason.split()) < 4] == []
