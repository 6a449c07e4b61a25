"""Every code block of the README and of the pages in docs/ does what it says."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cloudq.driver import loader as plugins
from cloudq.errors import ConfigurationError
from cloudq.messages.body import decode
from cloudq.messages.bundle import read_bundle, write_bundle
from cloudq.messages.message import TaskMessage
from localstack.servers import Endpoint
from tests.docs.blocks import Command, Shell, Words, blocks, section, session
from tests.servers import unique

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
HOW_TO = ROOT / "docs" / "how-to"
PYTHON_PAGES = (
    "how-to/compose-workflows",
    "how-to/follow-and-shape-a-task",
    "how-to/limit-and-order-tasks",
    "how-to/schedule-tasks",
    "how-to/send-large-payloads",
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


def test_readme(tmp_path: Path) -> None:
    with Shell(tmp_path) as shell:
        shell.read(blocks(README))


def test_first_tutorial(tmp_path: Path) -> None:
    """As a reader does it: what is shown of a file is added to that file."""
    page = ROOT / "docs" / "tutorial" / "first-tasks.md"
    with Shell(tmp_path) as shell:
        shell.read(blocks(page), add=True)


# ---- the pages of the clouds


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
    project = unique("pages")  # other tests read the same page on the same servers
    projects = {"my-project": project, "cloudq-local": project}
    return hosts, projects | dict(zip(ports, hosts.values(), strict=True))


def _azure(request: pytest.FixtureRequest) -> tuple[Words, Words]:
    broker: str = request.getfixturevalue("servicebus").environment["CLOUDQ_BROKER"]
    backend: str = request.getfixturevalue("tables").environment["CLOUDQ_BACKEND"]
    return {}, {
        "servicebus://my-namespace": broker,
        "aztables://myaccount/cloudq": f'"{backend}"',
        "servicebus://127.0.0.1:5672?emulator=true&admin=127.0.0.1:5300": broker,
        "127.0.0.1:10002": backend.partition("http://")[2].partition("/")[0],
    }


CLOUDS: Mapping[str, Callable[[pytest.FixtureRequest], tuple[Words, Words]]] = {
    "run-on-aws": _aws,
    "run-on-google-cloud": _google,
    "run-on-azure": _azure,
}


@pytest.mark.parametrize("place", ["there", "here"])
@pytest.mark.parametrize("name", CLOUDS)
def test_a_page_of_a_cloud(
    name: str, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The lines for the real services run as well, but against the local ones."""
    environment, instead = CLOUDS[name](request)
    page = HOW_TO / f"{name}.md"
    install, there, here, use = section(page, "Set up")
    rest = [block for block in blocks(page) if block.line > use.line]
    with Shell(tmp_path, environment) as shell:
        shell.read(block for block in blocks(README) if block.file)
        shell.read([install, there if place == "there" else here, use], instead)
        if place == "there":
            shell.read([block for block in rest if block.language == "console"], instead)


# ---- the pages


@pytest.mark.parametrize("name", FUNCTION_PAGES)
def test_functions_of_a_page_can_be_deployed(name: str, tmp_path: Path) -> None:
    """As far as that goes without their platform: their files are programs."""
    files = [block for block in blocks(HOW_TO / f"{name}.md") if block.file]
    assert files
    with Shell(tmp_path, {"CLOUDQ_BROKER": "memory://"}) as shell:
        shell.read(files)
        for block in files:
            module = (block.file or "").removesuffix(".py")
            shell.run(Command(line=f"python -W error::UserWarning -c 'import {module}'"))


OPTIONS = {
    "run-on-aws": ("sqs", "dynamodb", "s3"),
    "run-on-google-cloud": ("pubsub", "firestore", "gs"),
    "run-on-azure": ("servicebus", "aztables", "azblob"),
}


@pytest.mark.parametrize("page", OPTIONS)
def test_a_page_has_every_option_of_its_urls(page: str) -> None:
    text = (HOW_TO / f"{page}.md").read_text()
    table = text.partition("| option | of | meaning |\n")[2].partition("\n\n")[0]
    shown: dict[str, set[str]] = {scheme: set() for scheme in OPTIONS[page]}
    for row in table.splitlines()[1:]:
        names, of = row.split("|")[1:3]
        for scheme in OPTIONS[page] if of.strip() == "all" else of.strip().split(", "):
            shown[scheme] |= set(re.findall(r"`(\w+)`", names))
    assert shown == {scheme: _known(scheme) for scheme in OPTIONS[page]}


def _known(scheme: str) -> set[str]:
    """The options of a URL, as the driver lists them to one who asks for another."""
    opened = {"broker": plugins.open_broker, "backend": plugins.open_backend}
    [kind] = [
        kind
        for kind in ("broker", "backend", "blob")
        if scheme in {entry.name for entry in plugins.installed(kind)}
    ]
    place = "somewhere" if kind == "broker" or scheme == "dynamodb" else "somewhere/table"
    with pytest.raises(ConfigurationError) as refused:
        opened.get(kind, plugins.open_blobs)(f"{scheme}://{place}?no_such_option=1")
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
