"""One trace from the producer through the queue to the workers; a page of counts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.testing.waiting import PATIENCE
from tests.servers import lacking
from tests.worker.harness import HERE, Place, until

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "monitor-and-control.md"


def produced(place: Place, number: int) -> None:
    """Publish as a program of its own does, inside a span of its own."""
    code = (
        "from opentelemetry import trace\n"
        "from traced_tasks import app, root\n"
        "with trace.get_tracer('program').start_as_current_span('request'):\n"
        f"    root.apply_async(({number},), queue={place.queue!r})\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
        "DRILL_LEDGER": str(place.ledger),
        "DRILL_TRACES": "1",
        "CLOUDQ_BROKER": place.broker,
        "CLOUDQ_BACKEND": place.backend,
    }
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=PATIENCE)


def spans(place: Place) -> dict[str, Any]:
    return {span["name"]: span for span in map(json.loads, place.entries())}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRILL_TRACES", "1")


def test_one_trace_leads_from_the_producer_to_the_children_of_its_task(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDQ_TASK_DEFAULT_QUEUE", place.queue)
    place.start("-A", "traced_tasks:app", "--processes", "1", "--threads", "2")
    produced(place, 7)
    until(lambda: "run traced.leaf" in spans(place), what="the leaf has run")
    until(lambda: len(spans(place)) == 6, what="all spans are there")
    found = spans(place)
    assert len({span["trace"] for span in found.values()}) == 1
    line = [
        "request",
        "publish traced.root",
        "run traced.root",
        "publish traced.leaf",
        "run traced.leaf",
        "inside",
    ]
    assert found["request"]["parent"] is None
    for parent, child in pairwise(line):
        assert found[child]["parent"] == found[parent]["span"], (parent, child)
    ran = found["run traced.leaf"]["attributes"]
    assert ran["messaging.destination.name"] == place.queue
    assert ran["cloudq.state"] == "SUCCESS"


def test_a_failed_run_is_an_error_of_its_span(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = sqlite_place
    place.start("-A", "traced_tasks:app", "--processes", "1", "--threads", "2")
    produced(place, -1)
    until(lambda: "run traced.leaf" in spans(place), what="the leaf has run")
    failed = spans(place)["run traced.leaf"]
    assert failed["status"] == "ERROR"
    assert failed["attributes"]["cloudq.state"] == "FAILURE"


def test_without_tracing_nothing_is_put_into_a_message(sqlite_place: Place) -> None:
    sqlite_place.app.send_task("drill_tasks.pid")
    with CloudQ("traced", broker=sqlite_place.broker, tracing=True) as app:
        app.send_task("drill_tasks.pid")  # this program has no provider, so there is no context
        bodies = [peeked.body for peeked in app.broker.admin.peek("default", count=5)]
    assert len(bodies) == 2
    assert all(b"headers" not in body for body in bodies)


BLIND = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('opentelemetry', 'prometheus_client'):
            raise ModuleNotFoundError(f'no {name}', name=name)
sys.meta_path.insert(0, Missing())
"""


def blind(code: str) -> subprocess.CompletedProcess[str]:
    """Run code where neither OpenTelemetry nor prometheus-client is installed."""
    return subprocess.run(
        [sys.executable, "-c", BLIND + code], capture_output=True, text=True, timeout=PATIENCE
    )


def test_where_opentelemetry_is_missing_tasks_run_and_one_line_says_so() -> None:
    ran = blind(
        "from cloudq import CloudQ\n"
        "from cloudq.testing import drain\n"
        "app = CloudQ(broker='memory://blind', tracing=True)\n"
        "@app.task\n"
        "def one() -> int: return 1\n"
        "results = [one.delay(), one.delay()]\n"
        "drain(app)\n"
        "print([result.get(timeout=60) for result in results])\n"
    )
    assert ran.stdout == "[1, 1]\n", ran.stderr
    assert ran.stderr.count('pip install "cloudq-tasks[otel]"') == 1


def test_where_prometheus_is_missing_the_worker_says_which_extra(sqlite_place: Place) -> None:
    ran = blind(
        "from cloudq.cli import main\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "sys.exit(main(['worker', '-A', 'drill_tasks:app', '--metrics-port', '0', "
        f"'-b', {sqlite_place.broker!r}]))\n"
    )
    assert ran.returncode == 2
    assert 'pip install "cloudq-tasks[prometheus]"' in ran.stderr.splitlines()[-1]


def test_a_page_counts_what_has_run(sqlite_place: Place) -> None:
    try:
        import prometheus_client  # noqa: F401
    except ModuleNotFoundError:
        lacking("prometheus-client is not installed")
    worker = sqlite_place.start("--processes", "1", "--threads", "2", "--metrics-port", "0")
    app = sqlite_place.app
    for number in range(3):
        app.send_task("drill_tasks.work", [number, 0.06]).get(timeout=PATIENCE)
    app.send_task("drill_tasks.work", ["x", "no number"]).get(timeout=PATIENCE, propagate=False)
    port = re.search(r"metrics on http://127.0.0.1:(\d+)/metrics", worker.log())
    assert port is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=PATIENCE) as reply:
        page = reply.read().decode()
    lines = page.splitlines()
    assert 'cloudq_tasks_total{state="SUCCESS",task="drill_tasks.work"} 3.0' in lines
    assert 'cloudq_tasks_total{state="FAILURE",task="drill_tasks.work"} 1.0' in lines
    assert 'cloudq_task_seconds_bucket{le="0.05",task="drill_tasks.work"} 1.0' in lines
    assert 'cloudq_task_seconds_bucket{le="+Inf",task="drill_tasks.work"} 4.0' in lines
    assert "cloudq_processes 1.0" in lines
    named = set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))
    guide = GUIDE.read_text()
    missing = [name for name in named if not name.endswith("_created") and name not in guide]
    assert missing == []
    names = re.findall(r"^# TYPE (\w+) (?:counter|gauge|histogram)$", page, re.MULTILINE)
    guide = GUIDE.read_text()
    assert [name for name in names if not name.endswith("_created") and name not in guide] == []
    assert worker.stop() == 0
