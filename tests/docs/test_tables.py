"""The tables in docs/ are those of the code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

import cloudq
from cloudq.app.app import PLUMBING
from tests.docs.tables import ALIASES, DOCS, MADE, filled


@pytest.mark.parametrize(("page", "part", "make"), MADE, ids=[part for _, part, _ in MADE])
def test_the_page_says_what_the_code_says(
    page: str, part: str, make: Callable[[], Iterator[str]]
) -> None:
    text = (DOCS / page).read_text()
    assert text == filled(text, part, make()), "run: make docs"


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "reference" / "python-api.md").read_text()
    assert [name for name in cloudq.__all__ if f"**`{name}" not in text] == []


def test_every_public_name_has_a_docstring() -> None:
    # A type alias cannot have one; the reference says what it is.
    values = {name: getattr(cloudq, name) for name in cloudq.__all__ if name not in ALIASES}
    assert [name for name, value in values.items() if not value.__doc__] == []


def test_the_reference_shows_no_plumbing() -> None:
    assert [name for name in PLUMBING if not hasattr(cloudq.CloudQ("plain"), name)] == []
    text = (DOCS / "reference" / "python-api.md").read_text()
    entry = text.partition("**`CloudQ`**")[2].partition("- **`")[0]
    assert [name for name in PLUMBING if re.search(rf"- `{name}\b", entry)] == []
    assert "`publish(calls, *, bundle=None)`" in entry
