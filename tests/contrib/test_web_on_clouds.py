"""Web servers that fork after a call was sent, on Pub/Sub and Service Bus: no call is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudq import CloudQ
from localstack.google import PROJECT
from localstack.servers import Endpoint
from tests.contrib import test_web_frameworks as frameworks
from tests.contrib.test_web_frameworks import nothing_is_lost
from tests.servers import unique

FORKING = ["fastapi under gunicorn", "flask under uwsgi"]


def on(broker: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Make the queue, and name it to programs; results lie in a file."""
    queue = unique("web")
    environment = {
        "CLOUDQ_BROKER": broker,
        "CLOUDQ_BACKEND": f"sqlite:///{folder}/results.db",
        "CLOUDQ_TASK_DEFAULT_QUEUE": queue,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with CloudQ("shop") as app:
        app.broker.admin.create(queue, lease=30, max_deliveries=10)
    return environment


@pytest.mark.drill
@pytest.mark.parametrize("server", FORKING)
def test_no_call_is_lost_on_pubsub(
    server: str, tmp_path: Path, pubsub: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = f"pubsub://{PROJECT}?emulator=127.0.0.1:{pubsub.port}"
    nothing_is_lost(server, tmp_path, on(broker, tmp_path, monkeypatch))


@pytest.mark.drill
@pytest.mark.parametrize("server", FORKING)
def test_no_call_is_lost_on_service_bus(
    server: str, tmp_path: Path, servicebus: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = servicebus.environment["CLOUDQ_BROKER"]
    nothing_is_lost(server, tmp_path, on(url, tmp_path, monkeypatch))


@pytest.mark.drill
@pytest.mark.parametrize("order", ["after", "own hook"])
def test_uwsgis_decorators_and_hooks_are_called_too(
    order: str, tmp_path: Path, pubsub: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`uwsgidecorators` replaces the hook of the fork when it is imported."""
    decorated = "import uwsgidecorators\nuwsgidecorators.postfork(told)\n"
    own = "import uwsgi\nuwsgi.post_fork_hook = told\n"
    told = "import os\ndef told(): open('forked.txt', 'a').write('told ')\n"
    first, last = (told, decorated) if order == "after" else (told + own, "")
    monkeypatch.setattr(frameworks, "EARLY", f"{first}{frameworks.EARLY}{last}")
    broker = f"pubsub://{PROJECT}?emulator=127.0.0.1:{pubsub.port}"
    nothing_is_lost("flask under uwsgi", tmp_path, on(broker, tmp_path, monkeypatch))
    assert (tmp_path / "forked.txt").read_text().count("told") >= 3
