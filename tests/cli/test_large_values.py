"""Values in the payload store, as commands show them to people and to programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cloudq.app.loading import load_app
from cloudq.cli.program import main
from cloudq.testing import drain

PROGRAM = """
from cloudq import CloudQ

app = CloudQ("big", broker="sqlite:///big.db", payload_store_over=1_024)


@app.task(name="grow")
def grow(text: str) -> str:
    return text * 2


@app.task(name="fail")
def fail(text: str) -> None:
    raise ValueError("no")
"""


def test_a_large_value_is_shown_by_its_size_and_in_json_by_its_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "large_values.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with load_app("large_values:app") as app:
        made, failed = (app.send_task(name, ["x" * 2_000]).id for name in ("grow", "fail"))
        drain(app)

    def said(*words: str) -> str:
        main([*words, "-A", "large_values:app"])
        return capsys.readouterr().out

    assert "value     <4,000 bytes in the payload store>\n" in said("result", made)
    assert json.loads(said("result", "--json", made))["value"]["$blob"]["size"] == 4_000
    listed = said("tasks", "list", "--args", "--name", "fail")
    assert "[[<2,000 bytes in the payload store>],{}]" in listed
    assert "[[<2,000 bytes in the payload store>],{}]" in said("tasks", "show", "--args", failed)
