"""A deployment to Azure: the plan, its Terraform, what is refused, and the zip at work.

Real: Microsoft's SDKs, Azurite, the zip. Service Bus is the stand-in, the Functions host is the
tests' own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudq.testing.waiting import PATIENCE

pytest.importorskip("azure.functions")

from cloudq import CloudQ, crontab, every
from cloudq.cli import main
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq_azure.tables import open_backend
from cloudq_deploy.azure import costs
from cloudq_deploy.azure.deployment import planned as deployment
from cloudq_deploy.azure.iam import grants
from cloudq_deploy.azure.options import AzureOptions
from cloudq_deploy.azure.package import PACKAGES, host
from cloudq_deploy.azure.plan import Plan
from cloudq_deploy.azure.planner import plan_of
from cloudq_deploy.azure.terraform import configuration, duration
from cloudq_deploy.costs import Assumed, total
from localstack.azure import ACCOUNT
from localstack.servers import Endpoint
from tests.deploy.provider_tables import complaints
from tests.servers import unique

ROOT = Path(__file__).parents[2]
COMMAND = ["-A", "shop.tasks:app", "--region", "westeurope"]
AZURE = '\n[tool.cloudq.deploy.azure]\nignore = ["max_concurrency"]\n'
PERIODIC = """
from cloudq import crontab, every

app.periodic(crontab("30 7 * * 1"), name="weekly", args=(1, 2))(add)
"""


def planned(target: dict[str, object] | None = None, /, name: str = "shop", **task: object) -> Plan:
    """The plan of an app of one task with these options, and a target with those."""
    app = CloudQ(name)
    app.task(name="shop.add", **task)(lambda: None)  # type: ignore[call-overload]
    given: dict[str, Any] = {"region": "westeurope"} | (target or {})
    return plan_of(app, "shop.tasks:app", AzureOptions(**given))


def rich(**target: Any) -> Plan:
    """A plan with everything that a plan can have."""
    bus = "servicebus://bus?prefix=x-&tier=premium"
    app = CloudQ(
        "shop", broker=bus, backend="aztables://shopstore/records", priority_queues=["mail"]
    )
    a = app.task(name="a", queue="mail", memory=1024, env={"MODE": "${x}"})(lambda: None)
    app.task(name="b", queue="orders.fifo", provisioned=2)(lambda: None)
    app.task(name="c", time_limit=600)(lambda: None)
    app.periodic(crontab("0 0 1 * 1"), name="both", queue="mail")(a)
    app.periodic(every(900), name="often", timezone="Asia/Tokyo")(a)
    given: dict[str, Any] = {
        "region": "westeurope",
        "action_group": "/subscriptions/s/resourceGroups/g/providers/p/actionGroups/a",
        "tags": {"team": "shop"},
        "namespace": "shop-bus-one",
        "log_retention": 90,
    }
    return plan_of(app, "shop:app", AzureOptions(**(given | target)))


PLANS: dict[str, Callable[[], Plan]] = {
    "plain": planned,
    "rich": rich,
    "without alarms": lambda: rich(alarms=False, schedules="beat"),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_provider_takes_what_is_rendered(plan: Callable[[], Plan]) -> None:
    assert complaints(json.loads(json.dumps(configuration(plan()))), "azurerm") == []


def test_the_plan_says_what_service_bus_needs() -> None:
    plan = rich()
    queues = {queue.name: queue for queue in plan.queues}
    assert queues["mail-high"].full_name == "x-mail-high"
    assert (queues["mail"].lock, queues["mail"].max_delivery_count) == (60, 20)
    ordered = queues["orders.fifo"]
    assert (ordered.fifo, ordered.max_delivery_count, ordered.always_ready) == (True, 110, 2)
    assert ordered.function == "cloudq_orders_fifo"
    assert (plan.function_app.memory, plan.function_app.timeout) == (2048, 610)
    assert [(timer.name, timer.expression, timer.queue) for timer in plan.timers] == [
        ("both", "0 0 0 1 * *", "mail"),
        ("both-2", "0 0 0 * * 1", "mail"),
        ("often", "0 */15 * * * *", None),
    ]
    assert (plan.broker, plan.backend) == (
        "servicebus://shop-bus-one?prefix=x-&tier=premium",
        "aztables://shopstore/records",
    )


def test_terraform_says_what_the_plan_says() -> None:
    made = configuration(rich())["resource"]
    queue = made["azurerm_servicebus_queue"]["orders_fifo"]
    assert queue["name"] == "x-orders.fifo"
    assert (queue["lock_duration"], queue["requires_session"]) == ("PT1M", True)
    assert queue["duplicate_detection_history_time_window"] == "PT10M"
    assert queue["dead_lettering_on_message_expiration"] is True
    assert "requires_session" not in made["azurerm_servicebus_queue"]["mail"]
    bus = made["azurerm_servicebus_namespace"]["bus"]
    assert (bus["sku"], bus["local_auth_enabled"]) == ("Premium", False)
    app = made["azurerm_function_app_flex_consumption"]["tasks"]
    assert app["always_ready"] == [{"name": "function:cloudq_orders_fifo", "instance_count": 2}]
    settings = app["app_settings"]
    assert settings["MODE"] == "$${x}"
    assert settings["ServiceBusConnection__fullyQualifiedNamespace"] == (
        "shop-bus-one.servicebus.windows.net"
    )
    assert not [name for name in settings if "KEY" in name.upper() or "CONNECTION_STRING" in name]
    assert [duration(seconds) for seconds in (5, 60, 90, 300)] == [
        "PT5S",
        "PT1M",
        "PT1M30S",
        "PT5M",
    ]


def test_every_role_is_small_and_on_one_resource() -> None:
    plan = rich()
    found = [(grant.role, grant.kind) for grant in grants(plan)]
    assert set(found) == {
        ("Azure Service Bus Data Sender", "queue"),
        ("Azure Service Bus Data Receiver", "queue"),
        ("Storage Table Data Contributor", "table"),
        ("Storage Blob Data Owner", "account"),
    }
    made = configuration(plan)["resource"]["azurerm_role_assignment"]
    assert len(made) == len(found)
    scopes = {each["scope"].split(".")[0] for each in made.values()}
    assert scopes == {
        "${azurerm_servicebus_queue",
        "${azurerm_storage_table",
        "${azurerm_storage_account",
    }


def test_the_host_is_told_how_long_and_how_many() -> None:
    made = host(rich(concurrency=4).function_app)
    assert made["functionTimeout"] == "00:10:10"
    bus = made["extensions"]["serviceBus"]
    assert bus["maxAutoLockRenewalDuration"] == made["functionTimeout"]
    assert (bus["maxConcurrentCalls"], bus["autoCompleteMessages"]) == (4, True)


def test_schedules_that_no_timer_can_run_are_told(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = CloudQ("shop")
    task = app.task(name="a")(lambda: None)
    app.periodic(crontab("0 7 * * *"), name="local", timezone="Europe/Vienna")(task)
    app.periodic(every(900), name="late", expires=60)(task)
    app.periodic(every(900), name="urgent", options={"priority": 9})(task)
    app.periodic(every(7), name="odd")(task)
    app.periodic(every(900), name="off", enabled=False)(task)
    plan = plan_of(app, "shop:app", AzureOptions(region="westeurope"))
    assert plan.timers == ()
    told = {refused.name: refused.why for refused in plan.refused}
    assert "timers run in UTC on Linux, and this one is in Europe/Vienna" in told["local"]
    assert "expires" in told["late"]
    assert "no option but queue, and this one has priority" in told["urgent"]
    assert "divide an hour or a day" in told["odd"]
    assert "off" not in told
    file = shop / "shop" / "tasks.py"
    file.write_text(file.read_text() + PERIODIC + "app.periodic(every(7), args=(1, 2))(add)\n")
    project = shop / "pyproject.toml"
    project.write_text(project.read_text() + AZURE)
    assert main(["deploy", "plan", "azure", *COMMAND]) == 0
    assert "NOT POSSIBLE: schedule 'shop.tasks.add'" in capsys.readouterr().out
    for command in ("build", "export", "apply"):
        assert main(["deploy", command, "azure", *COMMAND]) == 2
        assert 'with schedules = "beat"' in capsys.readouterr().err


@pytest.mark.usefixtures("fresh_modules")
def test_the_commands_know_azure(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "plan", "azure", *COMMAND]) == 2
    assert "queue mail: max_concurrency is 5" in capsys.readouterr().err
    project = shop / "pyproject.toml"
    project.write_text(project.read_text() + AZURE)
    assert main(["deploy", "plan", "azure", *COMMAND, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cloud"] == "azure"
    assert main(["deploy", "export", "azure", *COMMAND, "-f", "terraform"]) == 0
    assert complaints(json.loads(capsys.readouterr().out), "azurerm") == []
    for arguments, said in (
        (["plan", "azure", *COMMAND[:2]], "no location: use --region westeurope"),
        (["plan", "azure", *COMMAND, "--region", "eu-west-1"], "'eu-west-1' is not a location"),
        (["plan", "azure", *COMMAND, "--project", "x"], "--project is for google only"),
        (["export", "azure", *COMMAND, "-f", "bicep"], "azure has terraform"),
        (
            ["apply", "azure", *COMMAND],
            "apply is not available for azure; nothing was changed",
        ),
        (["build", "azure", *COMMAND, "--architecture", "arm64"], "is for aws only"),
    ):
        assert main(["deploy", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1, error


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ({}, {"timeout": 3601}, "timeout is 3601 s, and an instance that is removed stops"),
        ({}, {"memory": 4097}, "memory is 4097 MB, and instances have 512, 2048, 4096"),
        ({}, {"reserved_concurrency": 2}, "reserved_concurrency is 2"),
        ({}, {"batch_size": 10}, "one message at a time"),
        ({}, {"env": {"FUNCTIONS_X": "1"}}, "a name that Functions reserves"),
        ({}, {"env": {"CLOUDQ_BACKEND": "x"}}, "CLOUDQ_BACKEND is set by the deployment"),
        ({}, {"queue": "mail box"}, "'shop-mail box'"),
        ({}, {"queue": "q" * 260}, "Azure allows 260"),
        ({"max_instances": 1}, {}, "allows 40 to 1000"),
        ({"account": "Store-1"}, {}, "storage account 'Store-1'"),
        ({"stack": "a-stack-with-too-long-a-name"}, {}, "storage account astackwithtoolong"),
        ({"namespace": "bus"}, {}, "namespace 'bus'"),
    ],
)
def test_what_azure_would_refuse_is_refused_here(
    target: dict[str, object], options: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        planned(target, **options)
    assert said in str(error.value)


def test_an_app_that_cannot_be_planned_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="has no tasks"):
        plan_of(CloudQ("shop"), "shop:app", AzureOptions(region="westeurope"))
    app = CloudQ("shop", backend="aztables://records/x")
    app.task(name="a", queue="q", env={"A": "1"})(lambda: None)
    app.task(name="b", env={"A": "2"})(lambda: None)
    with pytest.raises(
        ConfigurationError, match=r"env A is '[12]' for .*one function app runs both"
    ):
        plan_of(app, "shop:app", AzureOptions(region="westeurope"))
    app = CloudQ("shop", backend="aztables://records/x")
    app.task(name="a")(lambda: None)
    target = AzureOptions(region="westeurope", account="other")
    with pytest.raises(ConfigurationError, match="is in the account records"):
        plan_of(app, "shop:app", target)


def test_costs_grow_with_what_is_asked_for() -> None:
    plain, ready = planned({"alarms": False}), planned({"alarms": False}, provisioned=2)
    assert total(costs.idle(plain)) == pytest.approx(9.81)
    assert total(costs.idle(ready)) == pytest.approx(9.81 + 2 * 0.5 * 730 * 3600 * 0.000004)
    items = {
        each.of: each.amount for each in costs.million(plain, Assumed(seconds=0.1, together=5))
    }
    assert items["Service Bus: send, receive, complete"] == pytest.approx(2.40)
    assert items["Functions: time"] == pytest.approx(20_000 * 0.5 * 0.000026)


@pytest.mark.drill
@pytest.mark.usefixtures("fresh_modules")
def test_a_task_and_a_timer_run_in_the_zip(
    shop: Path, servicebus: Endpoint, tables: Endpoint, tmp_path: Path
) -> None:
    from cloudq.app.loading import load_app

    tasks = shop / "shop" / "tasks.py"
    tasks.write_text(tasks.read_text() + PERIODIC)
    project = shop / "pyproject.toml"
    project.write_text(project.read_text() + AZURE)
    app = load_app("shop.tasks:app", {})
    made = deployment(app, "shop.tasks:app", shop, {"region": "westeurope"})
    package = made.build(None, lambda _: None)
    code = tmp_path / "wwwroot"
    with zipfile.ZipFile(package.path) as archive:
        names = set(archive.namelist())
        archive.extractall(code)
    packed = {f"{PACKAGES}/{name}" for name in ("cloudq/app/app.py", "cloudq_azure/functions.py")}
    assert {"function_app.py", "host.json", "shop/tasks.py"} | packed <= names
    foreign = (f"{PACKAGES}/boto3/", f"{PACKAGES}/cloudq_aws/", f"{PACKAGES}/grpc/")
    assert not [name for name in names if name.startswith(foreign)]

    bus = servicebus.environment["CLOUDQ_BROKER"]
    prefix, table = unique("zip") + "-", unique("zip").replace("-", "")
    backend = f"aztables://{ACCOUNT}/{table}?endpoint={tables.url}/{ACCOUNT}"
    store = open_backend(parse(backend))
    store.create_store()
    store.close()
    caller = CloudQ("shop", broker=f"{bus}&prefix={prefix}", backend=backend)
    caller.broker.admin.create("default", lease=60, max_deliveries=20)
    sent = caller.send_task("shop.tasks.add", (16, 16))
    environment = {
        **made.plan.function_app.env,
        "PATH": os.environ["PATH"],
        "BUS": bus,
        "CLOUDQ_BROKER": f"{bus}&prefix={prefix}",
        "CLOUDQ_BACKEND": backend,
    }
    script = str(Path(__file__).parent / "azure_zip.py")
    done = subprocess.run(
        [sys.executable, "-S", "-s", script, str(code), str(ROOT)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["cloudq"].startswith(str(code))
    bindings = answer["bindings"]
    assert {name: each["type"] for name, each in bindings.items()} == {
        "cloudq_default": "serviceBusTrigger",
        "cloudq_mail": "serviceBusTrigger",
        "cloudq_weekly": "timerTrigger",
    }
    assert bindings["cloudq_default"]["queueName"] == f"{prefix}default"
    assert bindings["cloudq_weekly"]["schedule"] == "0 30 7 * * 1"
    assert answer["errors"] == ["None", "None"]
    first, second = answer["ran"]
    assert first == sent.id
    assert sent.get(timeout=PATIENCE) == 32
    assert caller.AsyncResult(second).get(timeout=PATIENCE) == 3
    caller.close()
