"""The tests that the pages of reliability and security name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/.]+)(?:::(\w+))?`")
PAGES = ("reliability.md", "security.md")


@pytest.mark.parametrize("page", PAGES)
def test_named_tests_are_there(page: str) -> None:
    named = NAMED.findall((ROOT / "docs" / page).read_text())
    assert named
    missing = [path for path, test in named if not is_there(ROOT / path, test)]
    assert missing == []


def is_there(path: Path, test: str) -> bool:
    """Tell whether a file or folder is there, and has this test in it if one is named."""
    return path.exists() and (not test or f"def {test}(" in path.read_text())
