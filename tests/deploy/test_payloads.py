"""The bucket of large payloads: planned, made, and within the rights of who uses it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq.testing.contracts.blobs import new_key
from cloudq_aws.s3 import S3, open_blobs
from cloudq_deploy.aws.deployment import AwsDeployment
from cloudq_deploy.aws.deployment import planned as deployed
from cloudq_deploy.aws.iam import document, of_function, statements
from cloudq_deploy.aws.iam_deployer import deployer
from cloudq_deploy.aws.options import AwsOptions
from cloudq_deploy.aws.plan import Payloads, Plan
from cloudq_deploy.aws.planner import plan_of
from cloudq_deploy.aws.render import cloudformation
from cloudq_deploy.aws.stack.access import Aws, DeployError
from cloudq_deploy.aws.stack.payloads import prepare_payloads
from cloudq_deploy.aws.summary import summary
from cloudq_deploy.aws.terraform import configuration
from cloudq_deploy.azure import planner as azure
from cloudq_deploy.azure.options import AzureOptions
from cloudq_deploy.azure.summary import summary as azure_summary
from cloudq_deploy.azure.terraform import configuration as azure_configuration
from cloudq_deploy.google import gcloud
from cloudq_deploy.google import planner as google
from cloudq_deploy.google.options import GoogleOptions
from cloudq_deploy.google.summary import summary as google_summary
from cloudq_deploy.google.terraform import configuration as google_configuration
from localstack.servers import Endpoint
from tests.deploy.provider_tables import complaints
from tests.deploy.recording import PLACE, REGION, Calls, actions, granted, recorded, refused
from tests.deploy.test_second_look import PROJECT
from tests.servers import unique

LARGE = 20 << 20


def planned(store: str | None = "s3://payloads/shop", **settings: Any) -> Plan:
    app = CloudQ("shop", broker="sqs://", payload_store=store, **settings)
    app.task(name="shop.add")(lambda: None)
    return plan_of(app, "shop.tasks:app", AwsOptions(region=REGION))


@pytest.fixture
def calls() -> Iterator[Calls]:
    with recorded() as recorder:
        yield recorder


@pytest.mark.parametrize("store", [None, "none", "file:///payloads", "gs://payloads"])
def test_there_is_none_without_a_store_in_s3(store: str | None) -> None:
    plan = planned(store)
    assert plan.payloads is None
    [function] = plan.functions
    made = cloudformation.environment(plan, function, PLACE)
    assert "CLOUDQ_PAYLOAD_STORE" not in made
    for role in ("producer", "worker", "operator"):
        assert "s3:" not in json.dumps(document(statements(plan, role), PLACE))
    assert "aws_s3_bucket" not in configuration(plan)["resource"]


def test_its_functions_are_told_of_it() -> None:
    plan = planned(payload_expires=3.5 * 86_400)
    assert plan.payloads == Payloads(bucket="payloads", prefix="shop/", days=4)
    [function] = plan.functions
    made = cloudformation.environment(plan, function, PLACE)
    assert made["CLOUDQ_PAYLOAD_STORE"] == f"s3://payloads/shop/?region={REGION}"
    [row] = [row for row in summary(plan) if row[0] == "bucket"]
    assert row[1:] == (
        "payloads",
        "large payloads under shop/, kept 4 d; it belongs to no stack, and stays",
    )


def test_it_is_where_the_functions_are() -> None:
    with pytest.raises(ConfigurationError, match="is in eu-west-1, and the functions are in us-e"):
        planned("s3://payloads?region=eu-west-1")
    assert planned(f"s3://payloads?region={REGION}").payloads
    with pytest.raises(ConfigurationError, match="payload_store"):
        planned("s3://Payloads_of_shop")


def use(driver: S3) -> None:
    """Everything that a worker does with payloads."""
    keys = [new_key(), new_key()]
    driver.put(keys[0], io.BytesIO(b"x"), 1)
    driver.put(keys[1], io.BytesIO(bytes(LARGE)), LARGE)
    with pytest.raises(ValueError, match="the content has"):
        driver.put(new_key(), io.BytesIO(), LARGE)
    list(driver.read(keys[0]))
    driver.delete(keys)
    driver.check_place()


def test_who_uses_it_may_and_no_more(aws: Endpoint, calls: Calls) -> None:
    bucket = unique("payloads")
    plan = planned(f"s3://{bucket}/shop")
    url = f"s3://{bucket}/shop?region={REGION}&endpoint_url={aws.url}"
    with closing(open_blobs(parse(url))) as driver:
        driver.create_place(expires=86_400.0)
        calls.take()
        use(driver)
        used = calls.take()
        driver.list(after=None, limit=1000)
        listed = calls.take()
    [function] = plan.functions
    policies = [
        *(document(statements(plan, role), PLACE) for role in ("producer", "worker", "operator")),
        document(of_function(plan, function), PLACE),
    ]
    for policy in policies:
        assert refused(used | listed, policy) == []
        of_s3 = {action for action in actions(granted(policy)) if action.startswith("s3:")}
        assert of_s3 == actions(used | listed)
    other = document(statements(planned(f"s3://{bucket}/other"), "worker"), PLACE)
    assert {call[0] for call in refused(used, other)} == actions(used)


def test_a_deployer_makes_it_and_leaves_what_others_have_there(aws: Endpoint, calls: Calls) -> None:
    bucket = unique("payloads")
    plan = planned(f"s3://{bucket}/shop")
    assert plan.payloads is not None
    made = Aws(region=REGION, endpoint_url=aws.url)
    prepare_payloads(made, plan.payloads)
    client: Any = made.s3
    theirs = {
        "ID": "theirs",
        "Status": "Enabled",
        "Filter": {"Prefix": "logs/"},
        "Expiration": {"Days": 1},
    }
    [ours] = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    client.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": [ours, theirs]}
    )
    prepare_payloads(made, plan.payloads)
    rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert {rule["ID"] for rule in rules} == {"theirs", "cloudq shop/"}
    policy = document(deployer(plan), PLACE)
    assert refused(calls.take(), policy) == []
    of_payloads = next(each for each in policy["Statement"] if each["Sid"] == "Payloads")
    assert of_payloads["Resource"] == [f"arn:aws:s3:::{bucket}"]


def days_of(client: Any, bucket: str) -> int:
    [rule] = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    return rule["Expiration"]["Days"]


def test_an_apply_makes_it_and_a_destroy_leaves_it(
    aws: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    name = unique("shop")

    def deployment(days: int) -> AwsDeployment:
        app = CloudQ(
            name,
            broker="sqs://",
            payload_store=f"s3://{name}-payloads/shop",
            payload_expires=days * 86_400.0,
        )
        app.task(name="a")(lambda: None)
        return deployed(app, "shop:app", tmp_path, {"endpoint_url": aws.url, "region": REGION})

    deployment(3).apply(adopt=False, yes=True, json=False)
    store = f"s3://{name}-payloads/shop/?region={REGION}"
    assert f"export CLOUDQ_PAYLOAD_STORE='{store}'" in capsys.readouterr().out
    client: Any = deployment(3).aws.s3
    assert days_of(client, f"{name}-payloads") == 3
    functions: Any = deployment(3).aws.functions
    variables = functions.get_function_configuration(FunctionName=f"{name}-default")["Environment"]
    assert variables["Variables"]["CLOUDQ_PAYLOAD_STORE"] == store
    # It is no change of the stack.
    deployment(4).apply(adopt=False, yes=True, json=True)
    assert days_of(client, f"{name}-payloads") == 4
    client.put_object(Bucket=f"{name}-payloads", Key="logs/of-others", Body=b"x")
    deployment(4).destroy(data=True, yes=True)
    assert client.get_object(Bucket=f"{name}-payloads", Key="logs/of-others")["Body"].read() == b"x"


def test_a_bucket_that_cannot_be_made_is_told(aws: Endpoint) -> None:
    there = Aws(region=REGION, endpoint_url=aws.url)
    wrong = Payloads(bucket="No", prefix="", days=1)
    with pytest.raises(DeployError, match="cannot make bucket No"):
        prepare_payloads(there, wrong)


def test_terraform_makes_it_too() -> None:
    made = json.loads(json.dumps(configuration(planned())))
    assert complaints(made, "aws") == []
    found = made["resource"]
    assert found["aws_s3_bucket"]["payloads"]["lifecycle"] == {"prevent_destroy": True}
    [rule] = found["aws_s3_bucket_lifecycle_configuration"]["payloads"]["rule"]
    assert (rule["filter"], rule["expiration"]) == ({"prefix": "shop/"}, {"days": 15})
    assert rule["id"] == "cloudq shop/"
    private = found["aws_s3_bucket_public_access_block"]["payloads"]
    assert [name for name, value in private.items() if value is not True] == ["bucket"]


# ---- the other clouds


def app_with(store: str | None, **settings: Any) -> CloudQ:
    app = CloudQ("shop", payload_store=store, **settings)
    app.task(name="shop.add")(lambda: None)
    return app


def on_google(store: str | None) -> Any:
    options = GoogleOptions(project="my-project", region="europe-west1")
    return google.plan_of(app_with(store), "shop.tasks:app", options)


def on_azure(store: str | None, **given: Any) -> Any:
    options = AzureOptions(region="westeurope", **given)
    return azure.plan_of(app_with(store), "shop.tasks:app", options)


def test_google_makes_a_bucket_and_gives_functions_the_right() -> None:
    plan = on_google("gs://shop-payloads/shop")
    made = json.loads(json.dumps(google_configuration(plan)))
    assert complaints(made, "google") == []
    bucket = made["resource"]["google_storage_bucket"]["payloads"]
    [rule] = bucket["lifecycle_rule"]
    assert rule["condition"] == {"age": 15, "matches_prefix": ["shop/"]}
    assert bucket["lifecycle"] == {"prevent_destroy": True}
    [member] = made["resource"]["google_storage_bucket_iam_member"].values()
    assert (member["bucket"], member["role"]) == (
        "${google_storage_bucket.payloads.name}",
        "roles/storage.objectUser",
    )
    [function] = made["resource"]["google_cloudfunctions2_function"].values()
    variables = function["service_config"]["environment_variables"]
    assert variables["CLOUDQ_PAYLOAD_STORE"] == "gs://shop-payloads/shop"
    rows = list(google_summary(plan))
    assert ("bucket", "shop-payloads", "large payloads under shop/, kept 15 d") in rows
    script = gcloud.script(plan)
    place = "project=my-project&location=europe-west1"
    assert f"'CLOUDQ_PAYLOAD_STORE=gs://shop-payloads/shop?{place}' cloudq queues create" in script
    assert "gcloud storage buckets add-iam-policy-binding gs://shop-payloads --member=" in script


def test_azure_makes_a_container_and_the_account_s_rule() -> None:
    plan = on_azure("azblob://shopstore/payloads/shop")
    made = json.loads(json.dumps(azure_configuration(plan)))
    assert complaints(made, "azurerm") == []
    container = made["resource"]["azurerm_storage_container"]["payloads"]
    assert (container["name"], container["container_access_type"]) == ("payloads", "private")
    [rule] = made["resource"]["azurerm_storage_management_policy"]["store"]["rule"]
    named = "${azurerm_storage_container.payloads.name}"
    assert rule["filters"]["prefix_match"] == [f"{named}/shop/"]
    assert list(rule["actions"]["base_blob"].values()) == [15]
    app = made["resource"]["azurerm_function_app_flex_consumption"]["tasks"]
    store = app["app_settings"]["CLOUDQ_PAYLOAD_STORE"]
    assert store == "azblob://shopstore/payloads/shop"
    assert ("container", "payloads", "large payloads under shop/, kept 15 d") in list(
        azure_summary(plan)
    )


def test_azure_has_one_storage_account() -> None:
    with pytest.raises(ConfigurationError, match="is in the account other, and the stack's is"):
        on_azure("azblob://other/payloads")
    assert on_azure("azblob://other/payloads", account="other").payloads
    with pytest.raises(ConfigurationError, match="payload_store"):
        on_azure("azblob://shopstore/Pay_loads")


@pytest.mark.parametrize("store", [None, "none", "s3://payloads"])
def test_other_clouds_make_none_without_a_store_of_their_own(store: str | None) -> None:
    made = azure_configuration(on_azure(store))["resource"]
    assert "payloads" not in made["azurerm_storage_container"]
    assert "azurerm_storage_management_policy" not in made
    assert (
        "payloads"
        not in google_configuration(on_google(store))["resource"]["google_storage_bucket"]
    )
