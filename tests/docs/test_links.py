"""Every relative link of a page leads to a file that exists, and its anchor to a heading there."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def _pages() -> list[str]:
    places = (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("[a-z]*/*.md"))
    nested = (ROOT / "localstack").rglob("*.md")
    return sorted({str(page.relative_to(ROOT)) for page in (*places, *nested)})


PAGES = _pages()


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that a code host makes of a page's headings."""
    text = _FENCE.sub("", page.read_text())
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").lower().strip()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return frozenset(found)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    broken: list[str] = []
    for link, anchor in _LINK.findall(_FENCE.sub("", page.read_text())):
        if ":" in link:
            continue
        target = (page.parent / link).resolve() if link else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{link}#{anchor}")
    assert broken == []


def test_pages_that_the_code_names_exist() -> None:
    """Messages, comments and docstrings name pages by their path from the top: `docs/...`."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git repository")
    gone: list[str] = []
    for name in listed.stdout.split():
        # The log of changes tells of pages as they were called then.
        if name == "CHANGELOG.md" or not (ROOT / name).is_file():
            continue
        text = (ROOT / name).read_text(errors="ignore")
        named = re.findall(r"(?<![\w./-])docs/[\w./-]+\.(?:md|json)\b", text)
        gone += [f"{name}: {page}" for page in named if not (ROOT / page).is_file()]
    assert gone == []
