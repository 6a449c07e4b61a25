"""A deployment to Google: from decorators to a plan and its Terraform, and what is refused."""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.cloud.scheduler_v1")

from cloudq import CloudQ, at, crontab, every
from cloudq.cli import main
from cloudq.errors import ConfigurationError, install_hint
from cloudq_deploy.costs import Assumed, total
from cloudq_deploy.google import costs
from cloudq_deploy.google.gcloud import script
from cloudq_deploy.google.iam import grants
from cloudq_deploy.google.options import GoogleOptions
from cloudq_deploy.google.plan import Plan
from cloudq_deploy.google.planner import plan_of
from cloudq_deploy.google.summary import summary
from cloudq_deploy.google.terraform import configuration
from tests.deploy.provider_tables import complaints
from tests.servers import lacking

PLACE: dict[str, Any] = {"project": "my-project", "region": "europe-west1"}
RICH: dict[str, Any] = {
    "log_retention": 90,
    "build_account": "builder@my-project.iam.gserviceaccount.com",
    "cpu": "1",
    "concurrency": 8,
    "alarm_channels": ("projects/my-project/notificationChannels/1",),
    "filters": {"mail": 'attributes.region = "${eu}"'},
    "env": {"TEMPLATE": "${name} %{x}"},
    "labels": {"team": "shop"},
}


def planned(target: dict[str, object] | None = None, /, name: str = "shop", **task: object) -> Plan:
    """The plan of an app of one task with these options, and a target with those."""
    app = CloudQ(name)
    app.task(name="shop.add", **task)(lambda: None)  # type: ignore[call-overload]
    return plan_of(app, "shop.tasks:app", GoogleOptions(**(PLACE | (target or {}))))


def rich(**target: Any) -> Plan:
    """A plan with everything that a plan can have."""
    app = CloudQ("shop", priority_queues=["mail"])
    a = app.task(name="a", queue="mail", memory=256, max_concurrency=16)(lambda text="": None)
    app.task(name="b", queue="orders.fifo", provisioned=2, env={"MODE": "x"})(lambda: None)
    app.task(name="c", time_limit=60)(lambda: None)
    app.periodic(crontab("30 7 * * 1"), name="a.m", args=("${x}",), timezone="Asia/Tokyo")(a)
    app.periodic(every(900), name="b", enabled=False)(a)
    return plan_of(app, "shop:app", GoogleOptions(**(PLACE | RICH | target)))


def settings(plan: Plan) -> dict[str, str]:
    """The settings of a kind of resource, as they are shown; of several the last."""
    return {kind: settings for kind, _, settings in summary(plan)}


PLANS: dict[str, Callable[[], Plan]] = {
    "plain": planned,
    "rich": rich,
    "one function": lambda: rich(functions="one", alarms=False, schedules="beat"),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_provider_takes_what_is_rendered(plan: Callable[[], Plan]) -> None:
    assert complaints(json.loads(json.dumps(configuration(plan()))), "google") == []


def test_the_plan_says_what_pubsub_needs() -> None:
    plan = rich()
    queues = {queue.name: queue for queue in plan.queues}
    mail = queues["mail"]
    assert (mail.topic, mail.dead_subscription) == ("shop-mail", "shop-mail-dead")
    assert (mail.ack_deadline, mail.max_attempts, mail.backoff) == (60, 20, (10, 600))
    assert queues["default"].ack_deadline == 70, "a time limit of 60 s, and 10 s to record"
    assert queues["orders.fifo"].fifo
    assert (plan.broker, plan.backend) == (
        "pubsub://my-project?prefix=shop-",
        "firestore://my-project/cloudq?database=shop",
    )
    functions = {function.name: function for function in plan.functions}
    assert (functions["shop-mail"].max_instances, functions["shop-mail"].concurrency) == (2, 8)
    assert functions["shop-orders"].min_instances == 2
    assert functions["shop-default"].timeout == 70


def test_terraform_says_what_the_plan_says() -> None:
    made = configuration(rich())["resource"]
    subscription = made["google_pubsub_subscription"]["shop_orders_fifo"]
    assert subscription["enable_message_ordering"] is True
    assert subscription["expiration_policy"] == {"ttl": ""}
    assert subscription["retry_policy"] == {"minimum_backoff": "10s", "maximum_backoff": "600s"}
    push = subscription["push_config"]
    uri = "${google_cloudfunctions2_function.shop_orders.service_config[0].uri}"
    assert (push["push_endpoint"], push["oidc_token"]["audience"]) == (uri, uri)
    assert (
        push["oidc_token"]["service_account_email"] == "${google_service_account.shop_push.email}"
    )
    assert made["google_pubsub_subscription"]["shop_mail"]["filter"].endswith('"$${eu}"')
    service = made["google_cloudfunctions2_function"]["shop_mail"]["service_config"]
    assert service["ingress_settings"] == "ALLOW_INTERNAL_ONLY"
    assert service["environment_variables"]["TEMPLATE"] == "$${name} %%{x}"
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in json.dumps(made)
    jobs = made["google_cloud_scheduler_job"]
    assert jobs["cloudq_shop_b"]["paused"] is True
    job = jobs["cloudq_shop_a_m"]
    assert (job["schedule"], job["time_zone"]) == ("30 7 * * 1", "Asia/Tokyo")
    message = json.loads(base64.b64decode(job["pubsub_target"]["data"]))
    assert (message["task"], message["args"]) == ("a", ["${x}"])
    fields = made["google_firestore_field"]
    assert fields["expires"]["ttl_config"] == {}
    assert "ttl_config" not in fields["fields"]
    assert made["google_logging_project_bucket_config"]["logs"]["retention_days"] == 90
    assert "google_logging_project_bucket_config" not in configuration(planned())["resource"]


def test_dead_letters_are_moved_by_pubsubs_own_agent() -> None:
    made = configuration(planned())["resource"]
    agent = (
        "serviceAccount:service-${data.google_project.here.number}"
        "@gcp-sa-pubsub.iam.gserviceaccount.com"
    )
    topics = [
        each["topic"]
        for each in made["google_pubsub_topic_iam_member"].values()
        if each["member"] == agent and each["role"] == "roles/pubsub.publisher"
    ]
    assert topics == ["${google_pubsub_topic.shop_default_dead.id}"]
    [subscriber] = made["google_pubsub_subscription_iam_member"].values()
    assert (subscriber["member"], subscriber["role"]) == (agent, "roles/pubsub.subscriber")
    assert subscriber["subscription"] == "${google_pubsub_subscription.shop_default.id}"


def test_every_role_is_small_and_on_one_resource() -> None:
    small = {
        "roles/pubsub.publisher": {"topic"},
        "roles/pubsub.subscriber": {"subscription"},
        "roles/run.invoker": {"function"},
        "roles/iam.serviceAccountOpenIdTokenCreator": {"account"},
        "roles/datastore.user": {"project"},
    }
    plan = rich()
    found = list(grants(plan))
    assert {(grant.role, grant.kind) for grant in found} == {
        (role, kind) for role, kinds in small.items() for kind in kinds
    }
    assert [grant.database for grant in found if grant.kind == "project"] == ["shop"]
    made = configuration(plan)
    rights = {kind for kind in made["resource"] if "_iam_" in kind}
    assert all(kind.endswith("_iam_member") for kind in rights), "others would replace rights"
    assert sum(len(made["resource"][kind]) for kind in rights) == len(found)
    [project] = made["resource"]["google_project_iam_member"].values()
    assert project["condition"]["expression"] == (
        'resource.name == "projects/${var.project}/databases/shop"'
    )
    text = json.dumps(made)
    assert not [who for who in ("allUsers", "allAuthenticatedUsers") if who in text]


def test_schedules_that_cloud_scheduler_cannot_run_are_told(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = CloudQ("shop")
    task = app.task(name="a")(lambda: None)
    app.periodic(every(45), name="odd")(task)
    app.periodic(at(datetime(2100, 1, 1, tzinfo=UTC)), name="once")(task)
    app.periodic(crontab("0 0 1 * *"), name="fine")(task)
    plan = plan_of(app, "shop:app", GoogleOptions(**PLACE))
    assert [job.name for job in plan.jobs] == ["cloudq-shop-fine"]
    assert [refused.name for refused in plan.refused] == ["odd", "once"]
    assert "its periods must divide an hour or a day" in plan.refused[0].why
    file = shop / "shop" / "tasks.py"
    file.write_text(
        file.read_text()
        + "\nfrom cloudq import every\napp.periodic(every(45), name='odd', args=(1, 2))(add)\n"
    )
    command = ["-A", "shop.tasks:app", "--project", "my-project", "--region", "europe-west1"]
    assert main(["deploy", "plan", "google", *command]) == 0
    assert "NOT POSSIBLE: schedule 'odd'" in capsys.readouterr().out
    assert main(["deploy", "export", "google", *command]) == 2
    assert 'with schedules = "beat"' in capsys.readouterr().err


@pytest.mark.usefixtures("fresh_modules")
def test_the_commands_know_google(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["-A", "shop.tasks:app", "--project", "my-project", "--region", "europe-west1"]
    assert main(["deploy", "plan", "google", *command, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["cloud"] == "google"
    assert made["costs"]["million_tasks"]["shop-mail"]
    assert main(["deploy", "export", "google", *command]) == 0
    assert complaints(json.loads(capsys.readouterr().out), "google") == []
    for arguments, said in (
        (["plan", "google", "-A", "shop.tasks:app"], "no Google project: use --project"),
        (["plan", "google", *command[:4]], "no location: use --region"),
        (["plan", "google", *command, "--region", "mars"], "'mars' is not a region"),
        (["plan", "google", *command, "--project", "X"], "'X' is not the id of a Google project"),
        (["plan", "gogle", *command], ": 'gogle' is not one of"),
        (["export", "google", *command, "-f", "sam"], "google has terraform, gcloud"),
        (["build", "google", *command, "--image"], "--image is for aws only"),
        (["iam", "google", *command[:2]], "google"),
        (["plan", "aws", *command], "--project is for google only"),
        (["destroy", "aws", *command], "--project is for google only"),
    ):
        assert main(["deploy", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1, error


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ({}, {"timeout": 601}, "timeout is 601 s, and a push of Pub/Sub ends after 600 s"),
        ({}, {"time_limit": 600}, "timeout is 610 s"),
        ({}, {"time_limit": 30, "timeout": 31}, "has a time limit of 30 s"),
        ({}, {"memory": 64}, "memory is 64 MB"),
        ({}, {"reserved_concurrency": 2}, "Cloud Run reserves nothing"),
        ({}, {"batch_size": 10}, "pushes one message at a time"),
        ({"ignore": ("batch_size",)}, {"batch_size": 10, "batch_window": 1}, "one message"),
        ({}, {"provisioned": 200}, "at most 100 instances run"),
        ({}, {"env": {"PORT": "1"}}, "env has PORT, a name that Cloud Run reserves"),
        ({}, {"env": {"CLOUDQ_BROKER": "x"}}, "CLOUDQ_BROKER is set by the deployment"),
        ({}, {"queue": "q" * 60}, "function shop-qqq"),
        ({}, {"queue": "q" * 250}, "allows 255"),
        ({}, {"queue": "mail box"}, "'shop-mail box'"),
        ({"stack": "s" * 26}, {}, "service account sss"),
        ({"stack": "Shop"}, {}, "function 'Shop-default'"),
        ({"concurrency": 8, "cpu": "0.5"}, {}, "more than 1 needs cpu=1"),
        ({"min_backoff": 60, "max_backoff": 10}, {}, "more than max_backoff"),
        ({"filters": {"mail": "x"}}, {}, "filters: there is no 'mail'; the plan has default"),
        ({"filters": {"default": "x" * 257}}, {}, "its filter has 257 characters"),
        ({"urls": {"x": "y"}}, {}, "urls: there is no 'x'; the plan has shop-default"),
        ({"labels": {"Team": "x"}}, {}, "labels: Team="),
    ],
)
def test_what_google_would_refuse_is_refused_here(
    target: dict[str, object], options: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        planned(target, **options)
    assert said in str(error.value)


def test_an_app_that_cannot_be_planned_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="has no tasks"):
        plan_of(CloudQ("shop"), "shop:app", GoogleOptions(**PLACE))
    app = CloudQ("shop", broker="pubsub://my-project?exactly_once=true")
    app.task(name="a")(lambda: None)
    with pytest.raises(ConfigurationError, match="for pulling only"):
        plan_of(app, "shop:app", GoogleOptions(region="europe-west1"))
    app.configure(broker="pubsub://my-project", backend="firestore://other/x")
    with pytest.raises(ConfigurationError, match="is in the project other"):
        plan_of(app, "shop:app", GoogleOptions(region="europe-west1"))


def test_the_names_in_the_apps_own_urls_are_those_that_are_made() -> None:
    url = "pubsub://my-project?prefix=test-&subscription={queue}-workers&emulator=127.0.0.1:1"
    app = CloudQ("shop", broker=url, backend="firestore://my-project/records")
    app.task(name="a")(lambda: None)
    plan = plan_of(app, "shop:app", GoogleOptions(region="europe-west1"))
    [queue] = plan.queues
    assert (queue.topic, queue.subscription) == ("test-default", "test-default-workers")
    assert "emulator" not in plan.broker
    assert "delays" not in settings(plan)
    delayed = "&tasks=europe-west1/late&account=d@my-project.iam.gserviceaccount.com"
    app.configure(broker=url + delayed)
    later = plan_of(app, "shop:app", GoogleOptions(region="europe-west1"))
    assert "tasks=europe-west1%2Flate" in later.broker
    assert settings(later)["delays"].startswith("NOT MADE HERE")
    assert plan.store is not None
    assert (plan.store.database, plan.store.collection) == ("(default)", "records")
    made = configuration(plan)["resource"]
    assert "google_firestore_database" not in made, "it is somebody else's"


def test_without_googles_libraries_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['google.cloud.scheduler_v1'] = None; "
        "from cloudq_deploy.deployment import planner; planner('google')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    hint = install_hint("deploy", "gcp")
    assert f"planning for google needs google.cloud.scheduler_v1: {hint}" in done.stderr


def test_the_project_file_is_read_for_google(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shop / "pyproject.toml"
    table = '\n[tool.cloudq.deploy.google]\nproject = "my-project"\nregion = "us-east1"\n'
    file.write_text(file.read_text() + table)
    assert main(["deploy", "plan", "google", "-A", "shop.tasks:app", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["project"], made["location"], made["log_retention"]) == (
        "my-project",
        "us-east1",
        14,  # what the file says for all clouds
    )
    file.write_text(file.read_text() + "memroy = 1\n")
    assert main(["deploy", "plan", "google", "-A", "shop.tasks:app"]) == 2
    error = capsys.readouterr().err
    assert "[tool.cloudq.deploy.google] memroy: there is no such option: did you mean memory?" in (
        error
    )
    assert main(["deploy", "plan", "aws", "-A", "shop.tasks:app"]) == 0, "it is none of AWS's"


def test_costs_grow_with_what_is_asked_for() -> None:
    plain, warm = planned({"alarms": False}), planned({"alarms": False}, provisioned=2)
    assert total(costs.idle(plain)) == 0
    # Two of 512 MB and a third of a vCPU, for 730 hours.
    each = 730 * 3600 * (0.0000025 / 3 + 0.5 * 0.0000025)
    assert total(costs.idle(warm)) == pytest.approx(2 * each)
    [function] = plain.functions
    items = {
        cost.of: cost.amount
        for cost in costs.million(plain, function, Assumed(seconds=0.1, logged=400))
    }
    assert items["Cloud Run: requests"] == 0.40
    assert items["Cloud Run: time"] == pytest.approx(100_000 * (0.000024 / 3 + 0.5 * 0.0000025))
    assert items["Firestore: two reads, a write, a delete"] == pytest.approx(1.60)


def test_the_script_has_every_grant_and_function() -> None:
    plan = rich()
    lines = script(plan).splitlines()
    words = [shlex.split(line) for line in lines if not line.startswith("#")]
    bound = [each for each in words if "add-iam-policy-binding" in each]
    assert len(bound) == len(list(grants(plan)))
    deployed = [each[3] for each in words if each[:3] == ["gcloud", "functions", "deploy"]]
    assert deployed == [function.name for function in plan.functions]
    pushed = [each for each in words if "modify-push-config" in each]
    assert len(pushed) == len(plan.queues)
    assert all("--no-allow-unauthenticated" in each for each in words if "deploy" in each)


def test_gcloud_knows_every_command_of_the_script(tmp_path: Path) -> None:
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        lacking("no gcloud on the path")
    lines = [line for line in script(rich()).splitlines() if not line.startswith("#")]
    commands = [
        line[line.index("gcloud ") :].removesuffix(")") for line in lines if "gcloud" in line
    ]
    assert {command.split()[1] for command in commands} == {
        *("firestore", "functions", "iam", "projects", "pubsub", "run", "storage"),
    }
    wrong = f"{commands[0]} --no-such-flag"
    file = tmp_path / "commands.json"
    file.write_text(json.dumps([{"command_string": each} for each in (*commands, wrong)]))
    done = subprocess.run(
        [gcloud, "meta", "lint-gcloud-commands", f"--commands-file={file}"],
        env=os.environ | {"CLOUDSDK_CONFIG": str(tmp_path / "config")},
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert len(found) == len(commands) + 1
    refused = [each for each in found if not each["success"]]
    assert ["--no-such-flag" in each["error_message"] for each in refused] == [True]
