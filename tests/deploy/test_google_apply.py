"""`apply google` on Google's emulator of Pub/Sub and a stand-in of Cloud Scheduler, and the zip.

Real: Pub/Sub with its pushes, Firestore, the zip under functions-framework in an environment that
has nothing else. The emulators sign no pushes and enforce no rights.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cloudq.testing.waiting import PATIENCE

pytest.importorskip("google.cloud.scheduler_v1")


from cloudq import CloudQ
from cloudq.cli import main
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError, ServiceError
from cloudq.testing import eventually
from cloudq_deploy.google.apply import carry_out, look, propose
from cloudq_deploy.google.deployment import planned
from cloudq_deploy.google.options import GoogleOptions
from cloudq_deploy.google.package import FRAMEWORK
from cloudq_deploy.google.plan import Plan
from cloudq_deploy.google.planner import plan_of
from cloudq_deploy.google.terraform import environment
from cloudq_gcp.client import access
from cloudq_gcp.pubsub_requests import Requests
from localstack.google import PROJECT
from localstack.servers import Endpoint
from tests.schedules.cloud_scheduler_server import CloudSchedulerServer, serving_scheduler
from tests.servers import unique

PERIODIC = """
from cloudq import crontab

app.periodic(crontab("30 7 * * 1"), name="weekly", args=(1, 2), timezone="Europe/Vienna")(add)
"""


@pytest.fixture
def google(pubsub: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """The emulator, as the environment names it."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.environment["PUBSUB_EMULATOR_HOST"])
    return pubsub


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudSchedulerServer]:
    with serving_scheduler() as server:
        monkeypatch.setenv("CLOUD_SCHEDULER_EMULATOR_HOST", f"127.0.0.1:{server.port}")
        yield server


@pytest.fixture
def requests(google: Endpoint) -> Iterator[Requests]:
    requests = Requests(access(parse(f"pubsub://{PROJECT}")))
    yield requests
    requests.close()


class Stack:
    """An app's stack of its own, planned anew for each apply."""

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.name = unique("s")[:14]

    def plan(self, *queues: str, **target: Any) -> Plan:
        app = CloudQ("shop", task_default_queue=queues[0])
        for queue in queues:
            app.task(name=f"on.{queue}", queue=queue)(lambda: None)
        given = {"project": PROJECT, "region": "europe-west1", "stack": self.name} | target
        return plan_of(app, "shop:app", GoogleOptions(**given))

    def apply(self, plan: Plan, *, adopt: bool = False) -> list[tuple[str, str]]:
        """Apply a plan and return its changes, by the last parts of their names."""
        state = look(plan, self.requests)
        changes = propose(plan, state, adopt=adopt, emulator=True)
        done: list[Any] = []
        carry_out(changes, self.requests, done.append)
        assert done == changes
        return [(each.action, f"{each.kind} {each.name.rpartition('/')[2]}") for each in changes]

    def subscription(self, name: str) -> Any:
        path = f"projects/{PROJECT}/subscriptions/{self.name}-{name}"
        return self.requests.subscriber.get_subscription(subscription=path)


@pytest.fixture
def stack(requests: Requests) -> Stack:
    return Stack(requests)


def test_pubsub_is_made_equal_to_the_plan(stack: Stack) -> None:
    name = stack.name
    assert stack.apply(stack.plan("a", "b.fifo")) == [
        ("create", f"topic {name}-a-dead"),
        ("create", f"topic {name}-b.fifo-dead"),
        ("create", f"topic {name}-a"),
        ("create", f"topic {name}-b.fifo"),
        ("create", f"subscription {name}-a-dead"),
        ("create", f"subscription {name}-b.fifo-dead"),
        ("create", f"subscription {name}-a"),
        ("create", f"subscription {name}-b.fifo"),
    ]
    assert stack.apply(stack.plan("a", "b.fifo")) == [], "a second one has nothing to do"
    made = stack.subscription("a")
    assert (made.ack_deadline_seconds, made.dead_letter_policy.max_delivery_attempts) == (60, 20)
    assert made.dead_letter_policy.dead_letter_topic == f"projects/{PROJECT}/topics/{name}-a-dead"
    assert stack.subscription("b.fifo").enable_message_ordering
    assert dict(made.labels) == {"cloudq-app": "shop", "cloudq-stack": name}

    url = "http://127.0.0.1:1/"
    changed = stack.plan("a", "b.fifo", timeout=100, min_backoff=20, urls={f"{name}-a": url})
    assert stack.apply(changed) == [
        ("update", f"subscription {name}-a"),
        ("update", f"subscription {name}-b.fifo"),
    ]
    made = stack.subscription("a")
    assert (made.ack_deadline_seconds, made.push_config.push_endpoint) == (100, url)
    assert made.retry_policy.minimum_backoff.total_seconds() == 20
    assert stack.apply(changed) == []
    assert stack.apply(stack.plan("a", "b.fifo", timeout=100, min_backoff=20)) == [], (
        "where it does not say whither, it leaves pushing as it is"
    )
    assert stack.apply(stack.plan("a", timeout=100, min_backoff=20)) == [
        ("delete", f"subscription {name}-b.fifo"),
        ("delete", f"subscription {name}-b.fifo-dead"),
        ("delete", f"topic {name}-b.fifo"),
        ("delete", f"topic {name}-b.fifo-dead"),
    ]


def test_what_is_of_others_is_refused_or_adopted(stack: Stack) -> None:
    plan = stack.plan("a")
    topic = f"projects/{PROJECT}/topics/{stack.name}-a"
    subscription = f"projects/{PROJECT}/subscriptions/{stack.name}-a"
    stack.requests.publisher.create_topic(request={"name": topic, "labels": dict(plan.labels)})
    made = {"name": subscription, "topic": topic, "labels": {"team": "x"}, "expiration_policy": {}}
    stack.requests.subscriber.create_subscription(request=made)
    with pytest.raises(ConfigurationError, match="has no labels of this stack"):
        stack.apply(plan)
    # The emulator cannot change labels, so adoption is seen in what is proposed, and in how far an
    # apply comes that fails.
    unlabelled = f"projects/{PROJECT}/topics/{stack.name}-b"
    stack.requests.publisher.create_topic(request={"name": unlabelled})
    both = stack.plan("a", "b")
    proposed = propose(both, look(both, stack.requests), adopt=True, emulator=True)
    updates = {change.name: change.parts for change in proposed if change.action == "update"}
    assert updates.keys() == {subscription, unlabelled}
    ours = f"cloudq-app=shop, cloudq-stack={stack.name}"
    assert updates[subscription]["labels"] == ("", ours)
    assert "ack deadline" in updates[subscription]
    with pytest.raises(ServiceError, match=r"labels is not a known .*2 of 3 changes made"):
        stack.apply(plan, adopt=True)
    labelled = {"cloudq-app": "shop", "cloudq-stack": "other"}
    stack.requests.publisher.create_topic(request={"name": f"{topic}c", "labels": labelled})
    with pytest.raises(ConfigurationError, match="belongs to the stack other: use another --stack"):
        stack.apply(stack.plan("ac"), adopt=True)


def test_what_never_changes_is_refused_before_anything_is_changed(stack: Stack) -> None:
    stack.apply(stack.plan("a"))
    filtered = stack.plan("a", "b", timeout=90, filters={"a": 'attributes.x = "y"'})
    with pytest.raises(ConfigurationError, match=r"has filter ''.*Pub/Sub cannot change that"):
        stack.apply(filtered)
    assert stack.subscription("a").ack_deadline_seconds == 60
    state = look(stack.plan("a"), stack.requests)
    assert f"projects/{PROJECT}/topics/{stack.name}-b" not in state.topics


def test_a_service_that_is_away_is_told() -> None:
    app = CloudQ("shop")
    app.task(name="a")(lambda: None)
    plan = plan_of(app, "shop:app", GoogleOptions(project=PROJECT, region="europe-west1"))
    requests = Requests(access(parse(f"pubsub://{PROJECT}?emulator=127.0.0.1:1")))
    with pytest.raises(ServiceError, match="cannot list the topics") as caught:
        look(plan, requests)
    assert caught.value.code == "unreachable"
    requests.close()


@pytest.mark.usefixtures("fresh_modules", "google")
def test_the_command_makes_topics_and_jobs_and_then_has_nothing_to_do(
    shop: Path,
    scheduler: CloudSchedulerServer,
    requests: Requests,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = shop / "shop" / "tasks.py"
    file.write_text(file.read_text() + PERIODIC)
    stack = unique("s")[:14]
    command = ["deploy", "apply", "google", "-A", "shop.tasks:app", "--project", PROJECT]
    command += ["--region", "europe-west1", "--stack", stack]
    assert main(command) == 2
    assert "There is no terminal to confirm at: add --yes" in capsys.readouterr().err
    assert scheduler.jobs == {}
    assert main([*command, "--yes"]) == 0
    shown = capsys.readouterr()
    assert f"+ topic         projects/{PROJECT}/topics/{stack}-mail-dead" in shown.out
    assert f"+ job           cloudq-{stack}-weekly" in shown.out
    assert "not made by apply: accounts, rights" in shown.err
    [job] = scheduler.jobs.values()
    assert job.pubsub_target.topic_name == f"projects/{PROJECT}/topics/{stack}-default"
    assert (job.schedule, job.time_zone) == ("30 7 * * 1", "Europe/Vienna")
    assert main([*command, "--yes"]) == 0
    assert capsys.readouterr().out.startswith("no changes\nto call its tasks")
    assert main([*command, "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"] == []
    # Another stack of the same app is left alone by all that follows.
    assert main([*command[:-1], f"{stack}-x", "--yes"]) == 0
    assert len(scheduler.jobs) == 2
    destroy = ["deploy", "destroy", *command[2:], "--yes"]
    assert main(destroy) == 0
    assert [name.rpartition("/")[2] for name in scheduler.jobs] == [f"cloudq-{stack}-x-weekly"]
    assert len(subscriptions(requests, stack)) == 8, "of both stacks: messages are in them"
    capsys.readouterr()
    assert main([*destroy, "--data"]) == 0
    gone = f"- subscription  projects/{PROJECT}/subscriptions/{stack}-mail with its messages"
    assert gone in capsys.readouterr().out
    assert subscriptions(requests, stack) == [
        f"{stack}-x-{name}" for name in ("default", "default-dead", "mail", "mail-dead")
    ]
    assert not list(shop.glob("*.db")), "a deployment asks no store"


def subscriptions(requests: Requests, prefix: str) -> list[str]:
    """The names of those whose name begins so."""
    found = requests.subscriber.list_subscriptions(project=f"projects/{PROJECT}")
    names = [each.name.rpartition("/")[2] for each in found]
    return sorted(name for name in names if name.startswith(f"{prefix}-"))


# ---- the zip


@pytest.fixture
def framework(tmp_path: Path) -> Path:
    """A Python that has functions-framework and nothing else."""
    home = tmp_path / "framework"
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(home)], check=True)
    python = home / "bin" / "python"
    install = [uv, "pip", "install", "--quiet", "--python", str(python), FRAMEWORK]
    subprocess.run(install, check=True)
    return python


@pytest.mark.drill
@pytest.mark.usefixtures("fresh_modules")
def test_a_task_runs_in_the_zip_that_pubsub_pushes_to(
    shop: Path,
    google: Endpoint,
    firestore: Endpoint,
    framework: Path,
    requests: Requests,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cloudq.app.loading import load_app

    app = load_app("shop.tasks:app", {})
    port, stack = _free_port(), unique("s")[:14]
    given = {"project": PROJECT, "region": "europe-west1", "stack": stack, "functions": "one"}
    urls = f'urls = {{ {stack} = "http://127.0.0.1:{port}/" }}\n'
    file = shop / "pyproject.toml"
    file.write_text(
        file.read_text().replace("max_concurrency", "x") + f"\n[tool.cloudq.deploy.google]\n{urls}"
    )
    made = planned(app, "shop.tasks:app", shop, given)
    package = made.build(None, lambda _: None)
    assert package.path == shop / "build" / f"{stack}-google.zip"
    code = tmp_path / "workspace"
    with zipfile.ZipFile(package.path) as archive:
        names = set(archive.namelist())
        archive.extractall(code)
    assert {"main.py", "requirements.txt", "shop/tasks.py", "cloudq_gcp/push.py"} <= names
    assert not [name for name in names if name.startswith(("boto3/", "cloudq_aws/", "azure/"))]

    for name, value in firestore.environment.items():
        if not name.startswith("CLOUDQ_"):
            monkeypatch.setenv(name, value)
    [function] = made.plan.functions
    emulators = {n: os.environ[n] for n in ("PUBSUB_EMULATOR_HOST", "FIRESTORE_EMULATOR_HOST")}
    variables = environment(made.plan, function) | emulators
    command = [str(framework), "-m", "functions_framework", "--target", function.entry_point]
    command += ["--source", str(code / "main.py"), "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "function.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={"PATH": os.environ["PATH"]} | variables, stdout=output, stderr=output
        )
    caller = CloudQ("shop", broker=made.plan.broker, backend=made.plan.backend)
    try:
        eventually(lambda: _is_up(process, port, log))
        plan = made.plan
        changes = propose(plan, look(plan, requests), emulator=True)
        carry_out(changes, requests, lambda _: None)
        result = caller.send_task("shop.tasks.add", (16, 16))
        assert result.get(timeout=PATIENCE) == 32, log.read_text()
        assert caller.send_task("shop.tasks.greet", ("you",), queue="mail").get(timeout=PATIENCE)
    finally:
        caller.close()
        process.terminate()
        process.wait(PATIENCE)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_up(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    assert process.poll() is None, log.read_text(errors="replace")[-3000:]
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_a_project_with_a_main_py_is_told(shop: Path) -> None:
    (shop / "main.py").write_text("x = 1\n")
    app = CloudQ("shop")
    app.task(name="a")(lambda: None)
    made = planned(app, "shop.tasks:app", shop, {"project": PROJECT, "region": "europe-west1"})
    with pytest.raises(ConfigurationError, match=r"the project's main\.py has the name"):
        made.build(None, lambda _: None)
