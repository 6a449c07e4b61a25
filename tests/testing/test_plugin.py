"""The pytest plugin, in projects of its users: each test is a run of pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from cloudq.testing.waiting import PATIENCE

Run = Callable[..., tuple[int, str]]

APP = """
from cloudq import CloudQ

app = CloudQ("{name}", broker="sqs://eu-west-1", backend="dynamodb://t")


@app.task
def double(n: int) -> int:
    return 2 * n
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run pytest in a project with two apps and these tests; its exit code and its output."""

    def run(tests: str, *options: str, ini: str = "") -> tuple[int, str]:
        lines = ("[pytest]", "filterwarnings = error", "pythonpath = .", ini)
        (tmp_path / "pytest.ini").write_text("\n".join(lines))
        (tmp_path / "shop.py").write_text(APP.format(name="shop"))
        (tmp_path / "other.py").write_text(APP.format(name="other"))
        (tmp_path / "test_shop.py").write_text(tests)
        plugin = ("-p", "no:cacheprovider", "--strict-markers")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *plugin, *options, str(tmp_path)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_fixtures_of_a_new_app(run: Run) -> None:
    code, output = run("""
def test_eager(cloudq_app):
    double = cloudq_app.task(lambda n: 2 * n)
    result = double.delay(4)
    assert (result.ready(), result.get()) == (True, 8)

def test_worker(cloudq_app, cloudq_worker):
    double = cloudq_app.task(name="double")(lambda n: 2 * n)
    result = double.delay(4)
    cloudq_worker.run_until_idle()
    assert result.get(timeout=0) == 8

def test_clock(cloudq_app, cloudq_worker, cloudq_clock):
    double = cloudq_app.task(name="double")(lambda n: 2 * n)
    result = double.apply_async((4,), countdown=3600)
    cloudq_clock.advance(3599)
    assert not result.ready()
    cloudq_clock.advance(1)
    assert result.get(timeout=0) == 8

def test_faults(cloudq_app, cloudq_worker, cloudq_faults, cloudq_clock):
    runs = []
    note = cloudq_app.task(name="note")(lambda: runs.append(1))
    cloudq_faults.die("end", task="note")
    note.delay()
    cloudq_clock.advance(60)
    cloudq_faults.assert_all_happened()
    assert len(runs) == 2
""")
    assert (code, "4 passed" in output) == (0, True), output


def test_the_app_of_the_ini_setting_and_of_the_marker(run: Run) -> None:
    code, output = run(
        """
import threading
import pytest
from shop import app, double

def workers():
    return [t for t in threading.enumerate() if t.name.startswith("cloudq-test")]

def test_ini(cloudq_app):
    assert cloudq_app is app
    assert double.delay(4).get() == 8
    assert app.conf.broker.startswith("memory://")

@pytest.mark.cloudq(app="other:app", lease=7, threads=2)
def test_marker(cloudq_app, cloudq_worker):
    assert cloudq_app.name == "other"
    assert cloudq_app.conf.lease == 7
    assert len(workers()) == 2

@pytest.mark.cloudq(app=app)
def test_the_app_itself(cloudq_app):
    assert cloudq_app is app

def test_afterwards():
    assert app.conf.broker == "sqs://eu-west-1"
    assert not app.conf.task_always_eager
    assert not workers()
""",
        ini="cloudq_app = shop:app",
    )
    assert (code, "4 passed" in output) == (0, True), output


def test_settings_of_the_config_fixture_and_the_marker_above_it(run: Run) -> None:
    code, output = run("""
import pytest

@pytest.fixture
def cloudq_config():
    return {"lease": 30, "max_retries": 1}

@pytest.mark.cloudq(lease=7)
def test_both(cloudq_app):
    assert (cloudq_app.conf.lease, cloudq_app.conf.max_retries) == (7, 1)
""")
    assert (code, "1 passed" in output) == (0, True), output


def test_a_marker_that_cannot_be_says_why(run: Run) -> None:
    said = {
        'app="shop:nothing"': "no app 'nothing' in shop: it has app",
        "leese=7": "there is no setting 'leese': did you mean lease?",
        '"shop:app"': "@pytest.mark.cloudq takes names only",
    }
    tests = "import pytest\n"
    for number, marker in enumerate(said):
        tests += f"""
@pytest.mark.cloudq({marker})
def test_{number}(cloudq_app):
    assert cloudq_app
"""
    code, output = run(tests)
    assert (code, "3 errors" in output) == (1, True), output
    assert [text for text in said.values() if text not in output] == []


def test_what_a_task_raises_is_shown_with_the_test_that_fails(run: Run) -> None:
    code, output = run("""
def test_it(cloudq_app, cloudq_worker):
    @cloudq_app.task(name="breaks")
    def breaks():
        shipping_address = None
        return shipping_address.street

    breaks.delay()
    cloudq_worker.run_until_idle()
    assert False
""")
    assert code == 1
    assert "task breaks" in output
    assert "return shipping_address.street" in output
    assert "AttributeError: 'NoneType' object has no attribute 'street'" in output


@pytest.mark.skipif(find_spec("xdist") is None, reason="pytest-xdist is not installed")
def test_tests_of_one_app_do_not_meet_under_xdist(run: Run) -> None:
    code, output = run(
        """
import pytest
from shop import app, double

@pytest.mark.parametrize("n", range(8))
def test_it(cloudq_app, cloudq_worker, cloudq_clock, n):
    result = double.apply_async((n,), countdown=60)
    cloudq_clock.advance(60)
    assert result.get(timeout=0) == 2 * n
    assert len(cloudq_worker.settlements) == 1
""",
        "-n2",
        ini="cloudq_app = shop:app",
    )
    assert (code, "8 passed" in output) == (0, True), output


def test_the_plugin_costs_next_to_nothing_where_it_is_not_used(run: Run) -> None:
    code, output = run("""
import sys

def test_it():
    heavy = ("pydantic", "orjson", "cloudq.app", "cloudq.testing.kit", "psutil")
    assert "cloudq.testing.plugin" in sys.modules
    assert [name for name in heavy if name in sys.modules] == []
""")
    assert (code, "1 passed" in output) == (0, True), output


def test_the_kit_needs_no_pytest() -> None:
    program = """
import sys
sys.modules["pytest"] = None  # importing it raises
import cloudq, cloudq.testing
app = cloudq.CloudQ("plain", broker="memory://plain")
double = app.task(name="double")(lambda n: 2 * n)
clock = cloudq.testing.VirtualClock()
with cloudq.testing.worker(app, clock=clock, faults=cloudq.testing.FaultPlan()):
    result = double.apply_async((4,), countdown=60)
    clock.advance(60)
    print(result.get(timeout=0))
with cloudq.testing.in_memory(app):
    double.delay(1)
    print(len(cloudq.testing.run_until_idle(app)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("8\n1\n", "")


def test_the_plugin_works_in_a_module_that_names_it(request: pytest.FixtureRequest) -> None:
    assert request.getfixturevalue("cloudq_app").conf.task_always_eager
