"""The programs in examples/ do what they say, with a worker on the laptop's broker."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.docs.blocks import Command, Shell

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

CASES = {
    "webhooks": (
        "cloudq worker -A webhooks --processes 1",
        "python webhooks.py",
        ["status 200 after 2 retries", "status 200 again, and 3 requests in all"],
    ),
    "async_fetch": (
        "cloudq worker -A async_fetch --processes 1 --threads 50",
        "python async_fetch.py",
        ["40 pages, 780 bytes", "one after the other it would take 20 s"],
    ),
    "orders_fifo": (
        "cloudq worker -A orders_fifo -Q orders.fifo --processes 2",
        "python orders_fifo.py",
        [f"order {name}: placed, paid, packed, shipped" for name in "ABC"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_example(name: str, tmp_path: Path) -> None:
    worker, program, shown = CASES[name]
    shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
    with Shell(tmp_path) as shell:
        shell.run(Command(line=worker))
        shell.run(Command(line=program, output=shown))


def test_checksums(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "checksums.py", tmp_path)
    (tmp_path / "files").mkdir()
    for number in range(20):
        (tmp_path / "files" / f"{number:02}").write_bytes(b"%d" % number)
    shown = [f"{hashlib.sha256(b'%d' % n).hexdigest()}  files/{n:02}" for n in range(20)]
    with Shell(tmp_path) as shell:
        shell.run(Command(line="cloudq worker -A checksums --processes 1"))
        shell.run(Command(line="python checksums.py files", output=shown))


def test_each_example_has_a_test() -> None:
    programs = {path.stem for path in EXAMPLES.glob("*.py")}
    assert programs == {*CASES, "checksums"}
    # Programs in functions: test_function_examples and tests/functions/aws; shops and web: contrib.
    folders = {file.parent.name for file in EXAMPLES.glob("*/*.py")}
    functions = {"lambda_app", "google_function", "azure_function"}
    assert folders == {*functions, "celery_shop", "celery_weather", "django_shop", "web"}
