"""Every code block of the README and of the pages in docs/ does what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cloudq.codec import decode
from localstack.servers import Endpoint
from localstack.up import seed
from tests.docs.blocks import Command, Shell, blocks, commands, session

ROOT = Path(__file__).resolve().parents[2]
PYTHON_PAGES = ("guide", "wire", "workflows")
PAGES = sorted(str(p.relative_to(ROOT)) for p in (*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/*.md")))


@pytest.mark.parametrize("name", PYTHON_PAGES)
def test_python_blocks_of_a_page_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOUDQ_BROKER", f"memory://docs-{name}")
    page = ROOT / "docs" / f"{name}.md"
    with session(f"docs_{name}", tmp_path) as namespace:
        for block in blocks(page):
            if block.file:
                (tmp_path / block.file).write_text(block.text)
            elif block.language == "python":
                # Padded, so that a traceback shows the line of the page.
                code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
                exec(code, namespace)


def test_readme_on_this_machine(tmp_path: Path) -> None:
    """The quick start: everything before the section on LocalStack."""
    _read(ROOT / "README.md", tmp_path, before="## Without")


def test_readme_on_aws(tmp_path: Path, aws: Endpoint) -> None:
    """The sections on a cloud run against a local endpoint of the same services."""
    readme = ROOT / "README.md"
    seed(aws)
    _read(readme, tmp_path, files_only=True)
    _read(readme, tmp_path, after="## Without", environment=dict(aws.environment))
    with Shell(tmp_path, aws.environment) as shell:
        shell.run(Command(line="python -c 'import function'"))


def test_json_blocks_of_the_wire_page_are_messages() -> None:
    found = [b for b in blocks(ROOT / "docs" / "wire.md") if b.language == "json"]
    assert found
    for block in found:
        message = decode(block.text.encode(), limit=1 << 20)
        fields = json.loads(block.text)
        assert message.model_dump(include=set(fields)) == fields


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


def _read(
    page: Path,
    folder: Path,
    *,
    before: str | None = None,
    after: str | None = None,
    files_only: bool = False,
    environment: dict[str, str] | None = None,
) -> None:
    text = page.read_text()
    first = text[: text.index(after)].count("\n") if after else 0
    last = text[: text.index(before)].count("\n") if before else text.count("\n")
    with Shell(folder, environment) as shell:
        for block in blocks(page):
            if block.file:
                (folder / block.file).write_text(block.text)
            elif files_only or not first <= block.line <= last:
                continue
            elif block.language == "python":
                (folder / "snippet.py").write_text(block.text)
                shell.run(Command(line="python snippet.py"))
            elif block.language == "console":
                for command in commands(block):
                    if not command.line.startswith(_ELSEWHERE):
                        shell.run(command)


# What a test must not do or does otherwise: the demo and the local cloud have tests of their own.
_ELSEWHERE = ("git clone", "cd ", "pip install", "make ")
