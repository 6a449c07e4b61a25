"""Every code block of the README and of the pages in docs/ does what it says."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.driver import QueueAdmin
from cloudq.driver import loader as plugins
from cloudq.errors import ConfigurationError
from cloudq.messages.body import decode
from cloudq.messages.bundle import read_bundle, write_bundle
from cloudq.messages.message import TaskMessage
from cloudq.testing import eventually
from localstack.servers import Endpoint
from tests.docs.blocks import Block, Command, Shell, blocks, commands, section, session
from tests.servers import unique

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
HOW_TO = ROOT / "docs" / "how-to"
PYTHON_PAGES = (
    "how-to/compose-workflows",
    "how-to/follow-and-shape-a-task",
    "how-to/limit-and-order-tasks",
    "how-to/schedule-tasks",
    "how-to/serialize-and-sign",
    "how-to/write-and-call-tasks",
    "reference/message-format",
)
FUNCTION_PAGES = ("run-in-lambda", "run-on-google-cloud", "run-on-azure")


@pytest.mark.parametrize("name", PYTHON_PAGES)
def test_python_blocks_of_a_page_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOUDQ_BROKER", f"memory://docs-{Path(name).name}")
    page = ROOT / "docs" / f"{name}.md"
    with session(f"docs_{Path(name).name}", tmp_path) as shared:
        for block in blocks(page):
            if block.file:
                (tmp_path / block.file).write_text(block.text)
            elif block.language == "python":
                shared.run(block, page)


def test_readme_on_this_machine(tmp_path: Path) -> None:
    """The quick start: everything before the clouds."""
    text = README.read_text()
    last = text[: text.index("## Run it on a cloud")].count("\n")
    with Shell(tmp_path) as shell:
        _read(shell, (block for block in blocks(README) if block.line < last))


def test_tutorial_with_a_worker_of_its_own(tmp_path: Path) -> None:
    """As a reader does it: what is shown of a file is added to that file."""
    with Shell(tmp_path) as shell:
        for block in blocks(ROOT / "docs" / "tutorial" / "first-tasks.md"):
            if block.file:
                with (tmp_path / block.file).open("a") as file:
                    file.write(f"\n\n{block.text}")
            elif block.language == "console":
                for command in commands(block):
                    shell.run(command)


# ---- the README on a cloud

Words = Mapping[str, str]
"""What a test's servers are called, in place of what the page says."""


def _aws(request: pytest.FixtureRequest) -> tuple[Words, Words]:
    aws: Endpoint = request.getfixturevalue("aws")
    environment = {n: v for n, v in aws.environment.items() if not n.startswith("CLOUDQ_")}
    # An account of its own: a worker that was stopped cold leaves its last receive open there, and
    # that would take the next test's message.
    environment["AWS_ACCESS_KEY_ID"] = f"{random.randrange(10**11, 10**12)}"
    return environment, {}


def _google(request: pytest.FixtureRequest) -> tuple[Words, Words]:
    pubsub: Endpoint = request.getfixturevalue("pubsub")
    firestore: Endpoint = request.getfixturevalue("firestore")
    hosts = {
        "PUBSUB_EMULATOR_HOST": f"127.0.0.1:{pubsub.port}",
        "FIRESTORE_EMULATOR_HOST": f"127.0.0.1:{firestore.port}",
    }
    ports = (f"127.0.0.1:{port}" for port in (8085, 8086))
    project = unique("readme")  # other tests read the same page on the same servers
    projects = {"my-project": project, "cloudq-local": project}
    return hosts, projects | dict(zip(ports, hosts.values(), strict=True))


def _azure(request: pytest.FixtureRequest) -> tuple[Words, Words]:
    broker: str = request.getfixturevalue("servicebus").environment["CLOUDQ_BROKER"]
    backend: str = request.getfixturevalue("tables").environment["CLOUDQ_BACKEND"]
    return {}, {
        "servicebus://my-namespace": broker,
        "aztables://myaccount/cloudq": backend,
        "servicebus://127.0.0.1:5672?emulator=true&admin=127.0.0.1:5300": broker,
        "127.0.0.1:10002": backend.partition("http://")[2].partition("/")[0],
    }


CLOUDS: Mapping[str, Callable[[pytest.FixtureRequest], tuple[Words, Words]]] = {
    "AWS": _aws,
    "Google Cloud": _google,
    "Azure": _azure,
}


@pytest.mark.parametrize("place", ["there", "here"])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_readme_on_a_cloud(
    cloud: str, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The lines for the real services run as well, but against the local ones."""
    environment, instead = CLOUDS[cloud](request)
    there, here = section(README, cloud)
    with Shell(tmp_path, environment) as shell:
        _read(shell, (block for block in blocks(README) if block.file))
        _read(shell, [there if place == "there" else here], instead)
        _read(shell, section(README, "Run it on a cloud"))


def test_readme_in_a_function(tmp_path: Path) -> None:
    with Shell(tmp_path) as shell:
        _read(shell, (block for block in blocks(README) if block.file))
        shell.run(Command(line="python -c 'import function'"))


def test_readme_moves_what_is_queued(tmp_path: Path, aws: Endpoint) -> None:
    app = CloudQ("moving", broker=f"sqlite:///{tmp_path}/cloudq.db")
    sent = {app.send_task("tasks.add", (n, n)).id for n in range(3)}
    app.close()
    with Shell(tmp_path, aws.environment) as shell:
        _read(shell, section(README, "Move to another broker"))
    with closing(plugins.open_broker(f"sqs://us-east-1?endpoint_url={aws.url}")) as driver:
        assert isinstance(driver, QueueAdmin)
        admin = driver
        eventually(lambda: sent <= {seen.id for seen in admin.peek("default", count=100)})


# ---- the pages


@pytest.mark.parametrize("name", FUNCTION_PAGES)
def test_functions_of_a_page_can_be_deployed(name: str, tmp_path: Path) -> None:
    """As far as that goes without their platform: their files are programs."""
    files = [block for block in blocks(HOW_TO / f"{name}.md") if block.file]
    assert files
    with Shell(tmp_path, {"CLOUDQ_BROKER": "memory://"}) as shell:
        _read(shell, files)
        for block in files:
            module = (block.file or "").removesuffix(".py")
            shell.run(Command(line=f"python -W error::UserWarning -c 'import {module}'"))


OPTIONS = {
    "run-on-aws": ("sqs", "dynamodb"),
    "run-on-google-cloud": ("pubsub", "firestore"),
    "run-on-azure": ("servicebus", "aztables"),
}


@pytest.mark.parametrize("page", OPTIONS)
def test_a_page_has_every_option_of_its_urls(page: str) -> None:
    text = (HOW_TO / f"{page}.md").read_text()
    table = text.partition("| option | of | meaning |\n")[2].partition("\n\n")[0]
    shown: dict[str, set[str]] = {scheme: set() for scheme in OPTIONS[page]}
    for row in table.splitlines()[1:]:
        names, of = row.split("|")[1:3]
        for scheme in OPTIONS[page] if of.strip() == "both" else [of.strip()]:
            shown[scheme] |= set(re.findall(r"`(\w+)`", names))
    assert shown == {scheme: _known(scheme) for scheme in OPTIONS[page]}


def _known(scheme: str) -> set[str]:
    """The options of a URL, as the driver lists them to one who asks for another."""
    broker = scheme in {entry.name for entry in plugins.installed("broker")}
    opened = plugins.open_broker if broker else plugins.open_backend
    place = "somewhere" if broker or scheme == "dynamodb" else "somewhere/table"
    with pytest.raises(ConfigurationError) as refused:
        opened(f"{scheme}://{place}?no_such_option=1")
    return set(re.split(r"[,\s]+", str(refused.value).partition("it knows ")[2]))


def test_json_blocks_of_the_wire_page_are_messages() -> None:
    page = ROOT / "docs" / "reference" / "message-format.md"
    found = [b for b in blocks(page) if b.language == "json"]
    assert found
    for block in found:
        if block.text.startswith('{"v":3,'):
            read = read_bundle(block.text.strip().encode(), limit=1 << 20)
            assert write_bundle([c for c in read.calls if isinstance(c, TaskMessage)]).decode() == (
                block.text.strip()
            )
            continue
        message = decode(block.text.encode(), limit=1 << 20)
        fields = json.loads(block.text)
        assert {name: getattr(message, name) for name in fields} == fields


def _read(shell: Shell, read: Iterable[Block], instead: Words | None = None) -> None:
    """Do as the blocks say, where `instead` has other words for some of theirs."""
    for block in read:
        for shown, meant in (instead or {}).items():
            block = replace(block, text=block.text.replace(shown, meant))
        if block.file:
            (shell.folder / block.file).write_text(block.text)
        elif block.language == "python":
            (shell.folder / "snippet.py").write_text(block.text)
            shell.run(Command(line="python snippet.py"))
        elif block.language == "console":
            for command in commands(block):
                if not command.line.startswith(_ELSEWHERE):
                    shell.run(command)


# What a test must not do or does otherwise: the demo and the local clouds have tests of their own.
_ELSEWHERE = ("git clone", "cd ", "pip install", "make ")
