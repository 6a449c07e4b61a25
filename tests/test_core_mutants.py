"""The mutants of the core can be made, and what notices a few of them does."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path.append(str(TESTS))

import core_mutants  # noqa: E402
import core_targets  # noqa: E402

SOURCE = '''
def settle(batch: list[str], most: int = 5) -> bool:
    """Settle a batch."""
    if not batch or len(batch) > most:
        return False
    record(batch)
    ack(batch)
    return True
'''


@pytest.fixture
def module(tmp_path: Path) -> Path:
    file = tmp_path / "sample.py"
    file.write_text(SOURCE)
    return file


def test_a_function_is_changed_in_one_place_at_a_time(module: Path) -> None:
    made = core_mutants.mutants(module)
    names = [mutant.name.partition(": ")[2] for mutant in made]
    assert set(names) >= {
        "return True at once",
        "return False at once",
        "negate not batch or len(batch) > most",
        "and in not batch or len(batch) > most",
        "len(batch) > most as len(batch) >= most",
        "False as True",
        "drop record(batch)",
        "drop ack(batch)",
        "swap record(batch) and ack(batch)",
    }
    assert len(set(names)) == len(names)
    whole = ast.dump(ast.parse(SOURCE))
    for mutant in made:
        tree = ast.parse(SOURCE)
        mutant.change(tree)
        assert ast.dump(tree) != whole
        assert mutant.code().co_filename == str(module)
        assert module.read_text() == SOURCE


def test_an_acknowledgement_before_the_record_is_one_of_them(module: Path) -> None:
    [swapped] = [m for m in core_mutants.mutants(module) if "swap" in m.name]
    tree = ast.parse(SOURCE)
    swapped.change(tree)
    text = ast.unparse(tree)
    assert text.index("ack(batch)") < text.index("record(batch)")


def test_a_seed_chooses_the_same_ones_again(module: Path) -> None:
    made = core_mutants.mutants(module)
    one = core_mutants.sample(made, 4, seed=1)
    assert len(one) == 4
    assert one == core_mutants.sample(made, 4, seed=1)
    assert core_mutants.sample(made, None, seed=1) == made


@pytest.mark.parametrize("target", core_targets.TARGETS, ids=lambda target: target.name)
def test_what_is_written_of_a_target_is_there(target: core_targets.CoreTarget) -> None:
    names = {mutant.name for lot in core_targets.all_of(target) for mutant in lot}
    assert names >= {*target.known, *target.excused, *target.written}
    assert all(target.excused.values())
    for test in target.tests.split():
        assert (TESTS / test).exists()


def test_the_known_mutants_are_killed() -> None:
    """This is `make mutate ARGS="--short"`, which tells more."""
    command = [sys.executable, str(TESTS / "mutate.py"), "--short"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    killed = len(core_targets.CORE_OF_ALL.known)
    assert f"core: {killed} mutants, 0 survived" in done.stdout
