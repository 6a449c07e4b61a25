"""A tutorial installs what its commands use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[2] / "docs" / "tutorial").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_modules_that_are_run_are_installed(page: Path) -> None:
    text = page.read_text()
    installed = " ".join(re.findall(r"pip install ([^`\n]*)", text)).split()
    run = set(re.findall(r"^\$ python -m (\w+)", text, re.MULTILINE))
    assert run <= set(installed)
