"""The names of ordered queues."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from cloudq.driver import ORDERED_SUFFIX, is_ordered, suffixed

_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("queue", "suffix", "name"),
    [("mail", "-dead", "mail-dead"), ("mail.fifo", "-dead", "mail-dead.fifo"), ("a", "", "a")],
)
def test_suffix_of_an_ordered_queue_stays_last(queue: str, suffix: str, name: str) -> None:
    assert suffixed(queue, suffix) == name
    assert is_ordered(name) is is_ordered(queue)


def test_only_one_file_spells_the_suffix_of_ordered_queues() -> None:
    spelt = [
        f"{file.relative_to(_ROOT)}:{node.lineno}"
        for folder in ("cloudq", "adapters", "deploy")
        for file in sorted((_ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and node.value == ORDERED_SUFFIX
    ]
    assert len(spelt) == 1, spelt
