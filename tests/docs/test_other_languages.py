"""The producers in other languages call a task over a real SQS, and read its result."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import boto3
import pytest

from cloudq import CloudQ
from cloudq.results import record
from cloudq.testing import drain
from cloudq.testing.waiting import PATIENCE
from cloudq_azure.tables_keys import partition_key, row_key
from cloudq_gcp.firestore_items import document_id
from localstack.servers import Endpoint
from tests.docs.blocks import Command, Shell
from tests.servers import unique

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROGRAMS = [EXAMPLES / "from_typescript" / "producer.ts", EXAMPLES / "from_go" / "producer.go"]
TASKS = """
import os

from cloudq import CloudQ

app = CloudQ("shop", broker=os.environ["SHOP_BROKER"])


@app.task(name="shop.add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="shop.fail", max_retries=0)
def fail(why: str) -> None:
    raise ValueError(why)


@app.task(name="shop.nothing")
def nothing() -> None:
    pass
"""


@pytest.fixture
def shop(aws: Endpoint, tmp_path: Path) -> Iterator[tuple[Shell, str, str]]:
    """A shell beside a worker of a shop on SQS and DynamoDB, the queue's URL, and the table."""
    prefix = unique("languages-")
    (tmp_path / "tasks.py").write_text(TASKS)
    environment = {**aws.environment, "SHOP_BROKER": f"sqs://us-east-1?prefix={prefix}"}
    with Shell(tmp_path, environment) as shell:
        shell.run(Command(line="cloudq queues create default --store -A tasks"))
        shell.run(Command(line="cloudq worker -A tasks -Q default --processes 1"))
        client = boto3.client("sqs", endpoint_url=aws.environment["AWS_ENDPOINT_URL"])
        url = client.get_queue_url(QueueName=f"{prefix}default")["QueueUrl"]
        table = aws.environment["CLOUDQ_BACKEND"].partition("://")[2].partition("?")[0]
        yield shell, url, table


def built(command: Sequence[str], folder: Path) -> None:
    """Build a program; skip where its tool or its libraries cannot be had."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE * 5, check=False
    )
    unreachable = ("no such host", "ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "i/o timeout")
    if any(word in done.stderr for word in unreachable):
        pytest.skip(f"the libraries of {folder.name} cannot be had: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stdout + done.stderr


def called(program: str, shell: Shell, url: str, table: str) -> None:
    """Have a producer call tasks that end in each way."""
    line = f"{program} {url} {table}"
    shell.run(Command(line=f"{line} shop.add '[2, 3]'", output=["5"]))
    shell.run(Command(line=f"{line} shop.nothing '[]'", output=["null"]))
    said = "FAILURE: ValueError: no such order"
    shell.run(Command(line=f"{line} shop.fail '[\"no such order\"]'", output=[f"...{said}"]), 1)


@pytest.mark.slow
def test_typescript(shop: tuple[Shell, str, str], tmp_path: Path) -> None:
    folder = tmp_path / "from_typescript"
    shutil.copytree(EXAMPLES / "from_typescript", folder)
    built(["npm", "install", "--no-audit", "--no-fund"], folder)
    built(["npm", "run", "build"], folder)
    called(f"node {folder}/producer.js", *shop)


@pytest.mark.slow
def test_go(shop: tuple[Shell, str, str], tmp_path: Path) -> None:
    folder = tmp_path / "from_go"
    shutil.copytree(EXAMPLES / "from_go", folder)
    built(["go", "mod", "tidy"], folder)
    built(["go", "build", "-o", "producer", "."], folder)
    called(f"{folder}/producer", *shop)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.suffix[1:])
def test_a_producer_is_short(program: Path) -> None:
    assert len(program.read_text().splitlines()) < 60


ID = "0d9c1f5e-6a53-4a0a-9d0c-5f6a6b1d7c11"
PAGE = (EXAMPLES.parent / "docs" / "reference" / "result-record.md").read_text()


def test_the_page_has_the_keys_of_each_store() -> None:
    key = record.key(ID)
    assert f"`pk` is `{key.partition}`, `sk` is `{key.sort}`" in PAGE
    assert f"`{document_id(key)}`".replace("|", r"\|") in PAGE
    assert f"`PartitionKey` is `{partition_key(key.partition)}`" in PAGE
    assert f"`RowKey` is `{row_key(key.sort)}`" in PAGE


def test_the_page_has_only_fields_of_the_record_and_all_states() -> None:
    rows = [
        line.split("|")[1] for line in PAGE.partition("| field ")[2].splitlines()[2:] if "|" in line
    ]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"expires"}
    assert len(named) > 10
    assert named <= record.RECORD_FIELDS
    assert [
        state for state in record.State if state != "PENDING" and f"`{state}`" not in PAGE
    ] == []


def test_a_record_in_sqlite_is_read_as_the_page_says(tmp_path: Path) -> None:
    with CloudQ("shop", broker=f"sqlite:///{tmp_path}/q.db") as app:
        add = app.task(name="add")(lambda x, y: x + y)
        app.send_task("add", (2, 3), task_id=ID)
        drain(app)
    assert add.name == "add"
    with closing(sqlite3.connect(tmp_path / "q.db")) as file:
        query = "SELECT fields FROM items WHERE partition = ? AND sort = ?"
        found = file.execute(query, (f"task#{ID}", "-")).fetchone()
    assert json.loads(found[0])["state"] == "SUCCESS"
    assert json.loads(json.loads(found[0])["value"]) == 5
