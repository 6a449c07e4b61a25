"""From decorators to a plan, and what AWS would refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.cli import main
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws import costs
from cloudq_deploy.aws.deployment import planned as deployed
from cloudq_deploy.aws.options import AwsOptions, read_aws_options
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.planner import plan_of
from cloudq_deploy.costs import Assumed, total
from cloudq_deploy.options import AWS_ONLY, Options

EU = AwsOptions(region="eu-west-1")


def test_queues_outlast_their_functions(planned: Callable[..., Plan]) -> None:
    plan = planned({"batch_size": 100, "batch_window": 5}, timeout=100)
    [queue] = plan.queues
    assert queue.visibility == 6 * 100 + 5
    assert queue.full_name == "shop-default"
    assert queue.dead_name == "shop-default-dead"
    assert queue.max_receive_count > CloudQ().conf.max_deliveries
    assert queue.encryption == "SSE-SQS"


def test_a_time_limit_makes_the_timeout(planned: Callable[..., Plan]) -> None:
    assert planned(time_limit=100).functions[0].timeout == 110
    with pytest.raises(
        ConfigurationError, match=r"shop.add has a time limit of 30 s.*timeout of 31"
    ):
        planned(time_limit=30, timeout=31)


def test_each_queue_has_a_function_with_the_hints_of_its_tasks() -> None:
    app = CloudQ("shop", priority_queues=["mail"])
    app.task(name="a", queue="mail", memory=256, env={"MODE": "x"})(lambda: None)
    app.task(name="b", queue="mail", memory=1024, max_concurrency=4)(lambda: None)
    app.task(name="c", queue="orders.fifo")(lambda: None)
    plan = plan_of(app, "shop:app", EU)
    functions = {each.name: each for each in plan.functions}
    assert set(functions) == {
        "shop-default",
        "shop-mail",
        "shop-mail-high",
        "shop-mail-low",
        "shop-orders",
    }
    mail = functions["shop-mail-high"]
    assert (mail.memory, mail.env["MODE"], mail.tasks) == (1024, "x", ("a", "b"))
    feeds = {feed.queue: feed for feed in plan.mappings}
    assert feeds["mail-low"].max_concurrency == 4
    assert feeds["mail-low"].report == "ReportBatchItemFailures"
    ordered = plan.queue("orders.fifo")
    assert ordered.dead_name == "shop-orders-dead.fifo"
    assert (ordered.fifo, ordered.max_receive_count) == (True, 110)


def test_one_function_for_all() -> None:
    app = CloudQ("shop")
    app.task(name="a", queue="mail")(lambda: None)
    app.task(name="b")(lambda: None)
    plan = plan_of(app, "shop:app", EU.model_copy(update={"functions": "one"}))
    assert [each.name for each in plan.functions] == ["shop"]
    assert {feed.function for feed in plan.mappings} == {"shop"}


def test_the_broker_and_table_that_the_app_names_are_those_that_are_made() -> None:
    app = CloudQ("shop", broker="sqs://eu-central-1?prefix=test-", backend="dynamodb://records")
    app.task(name="a")(lambda: None)
    plan = plan_of(app, "shop:app", AwsOptions())
    assert (plan.region, plan.queues[0].full_name) == ("eu-central-1", "test-default")
    assert plan.table is not None
    assert plan.table.name == "records"
    assert plan.broker == "sqs://eu-central-1?prefix=test-"


def test_without_a_backend_there_is_no_table() -> None:
    app = CloudQ("shop", backend="none")
    app.task(name="a")(lambda: None)
    plan = plan_of(app, "shop:app", EU)
    assert (plan.table, plan.backend) == (None, "none")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": 901}, "timeout is 901 s, and Lambda stops a function after 900 s"),
        ({"time_limit": 1000}, "timeout is 1010 s"),
        ({"memory": 64}, "memory is 64 MB"),
        ({"env": {"AWS_REGION": "x"}}, "AWS_REGION, a name that Lambda reserves"),
        ({"env": {"CLOUDQ_BROKER": "x"}}, "CLOUDQ_BROKER is set by the deployment"),
        ({"env": {"A": "x"}}, "two characters"),
        ({"env": {"BIG": "x" * 5000}}, "over 4096 bytes"),
        ({"batch_size": 11}, "more than 10 needs batch_window"),
        ({"batch_size": 10_001, "batch_window": 1}, "Lambda allows 10000"),
        ({"queue": "a.fifo", "batch_window": 1}, "FIFO queues have none"),
        ({"max_concurrency": 1}, "Lambda allows 2 to 1000"),
        ({"max_concurrency": 9, "reserved_concurrency": 3}, "calls would be throttled"),
        ({"provisioned": 4, "reserved_concurrency": 3}, "provisioned is 4"),
        ({"queue": "q" * 76}, "has 81 characters, and AWS allows 80"),
        ({"queue": "q" * 60}, "function shop-qqq"),
        ({"queue": "mail box"}, "'shop-mail box'"),
        ({"queue": "https://sqs/1/mail"}, "named by its URL"),
    ],
)
def test_what_aws_would_refuse_is_refused_here(
    planned: Callable[..., Plan], options: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        planned(**options)
    assert said in str(error.value)


def test_tasks_of_one_function_must_agree() -> None:
    app = CloudQ("shop")
    app.task(name="a", max_concurrency=2)(lambda: None)
    app.task(name="b", max_concurrency=3)(lambda: None)
    with pytest.raises(ConfigurationError, match="max_concurrency is 2 for a and 3 for b"):
        plan_of(app, "shop:app", EU)


def test_an_app_without_tasks_or_region_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="has no tasks"):
        plan_of(CloudQ("shop"), "shop:app", EU)
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    app = CloudQ("shop")
    app.task(name="a")(lambda: None)
    with pytest.raises(ConfigurationError, match="no AWS region"):
        plan_of(app, "shop:app", AwsOptions())


def test_what_plans_and_what_applies_are_in_the_region_of_the_broker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the SDK is set to: that counts only where nothing else says where."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_REGION")
    app = CloudQ("shop", broker="sqs://eu-west-1")
    app.task(name="a")(lambda: None)
    made = deployed(app, "shop:app", tmp_path, {})
    assert made.plan.region == made.aws.region == "eu-west-1"
    given = deployed(app, "shop:app", tmp_path, {"region": "eu-west-3"})
    assert given.plan.region == given.aws.region == "eu-west-3"
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    (tmp_path / "config").write_text("[profile prod]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    app.configure(broker="memory://")
    profile = deployed(app, "shop:app", tmp_path, {"profile": "prod"})
    assert profile.plan.region == profile.aws.region == "eu-north-1"


def test_the_project_file_is_read_and_options_stand_above_it(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.cloudq.deploy]\nlog-retention = 14\nmemory = 256\n"
    )
    target = read_aws_options(tmp_path, {"memory": 1024, "runtime": None})
    assert (target.log_retention, target.memory) == (14, 1024)


def test_the_names_of_options_for_aws_only_are_those_of_its_model() -> None:
    assert set(AWS_ONLY) == AwsOptions.model_fields.keys() - Options.model_fields.keys()


@pytest.mark.parametrize("region", ["eu-wset-1", "us-east", "europe-west1", "EU-WEST-1"])
def test_a_region_that_there_cannot_be_is_refused(region: str) -> None:
    app = CloudQ("shop")
    app.task(name="a")(lambda: None)
    with pytest.raises(ConfigurationError, match=f"region '{region}' is not a region of AWS"):
        plan_of(app, "shop:app", AwsOptions(region=region))


@pytest.mark.parametrize(
    "region", ["eu-west-1", "us-gov-east-1", "ap-northeast-3", "il-central-1", "eusc-de-east-1"]
)
def test_regions_there_are(region: str) -> None:
    app = CloudQ("shop")
    app.task(name="a")(lambda: None)
    assert plan_of(app, "shop:app", AwsOptions(region=region)).region == region


def test_architectures_may_be_as_machines_say() -> None:
    assert AwsOptions(architecture="aarch64").architecture == "arm64"  # type: ignore[arg-type]
    assert AwsOptions(architecture="amd64").architecture == "x86_64"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("memroy = 1", "there is no such option: did you mean memory?"),
        ("runtime = 'python2.7'", "none of python3.11"),
        ("log_retention = 2", "CloudWatch keeps logs"),
        ("architecture = 'sparc'", "[tool.cloudq.deploy] architecture"),
        ("stack = '1x'", "a letter first"),
        ("memory = ", "cannot be read as TOML"),
    ],
)
def test_a_wrong_project_file_is_one_clear_line(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.cloudq.deploy]\n{line}\n")
    with pytest.raises(ConfigurationError) as error:
        read_aws_options(tmp_path, {})
    assert said in str(error.value)


def test_costs_grow_with_what_is_asked_for(planned: Callable[..., Plan]) -> None:
    plain, warm = planned({"alarms": False}), planned({"alarms": False}, provisioned=2)
    # 5 pollers, 20 s each: 657,000 requests of 0.40 a million; then 2 x 0.5 GB for a month.
    assert total(costs.idle(plain)) == pytest.approx(0.2628)
    assert total(costs.idle(warm)) == pytest.approx(0.2628 + 8.76, rel=1e-3)
    [function] = plain.functions
    assumed = Assumed(seconds=0.1, together=5, logged=400)
    items = {cost.of: cost.amount for cost in costs.million(plain, function, assumed)}
    assert items["SQS: send, receive, delete"] == pytest.approx(0.56)
    assert items["Lambda: time"] == pytest.approx(1e6 * 0.1 * 0.5 * 0.0000133334)


@pytest.mark.usefixtures("fresh_modules")
def test_the_command_shows_the_plan(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["deploy", "plan", "aws", "-A", "shop.tasks:app", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {queue["full_name"] for queue in shown["queues"]} == {"shop-default", "shop-mail"}
    assert shown["schedules"] == []
    assert shown["costs"]["million_tasks"].keys() == {"shop-default", "shop-mail"}
    assert main(["deploy", "plan", "aws", "-A", "shop.tasks:app"]) == 0
    text = capsys.readouterr().out
    for word in (
        "ReportBatchItemFailures",
        "recursive loop Allow",
        "TTL on expires",
        "alarm",
        "USD",
    ):
        assert word in text
