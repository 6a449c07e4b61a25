"""Keys of key services: who uses the app may use them, and no others; the zip can encrypt."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest

from cloudq import CloudQ
from cloudq.driver.loader import open_keys
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws.deployment import planned as on_aws
from cloudq_deploy.aws.iam import document, of_function, statements
from cloudq_deploy.aws.options import AwsOptions
from cloudq_deploy.aws.plan import EncryptionKey, Plan
from cloudq_deploy.aws.planner import plan_of
from cloudq_deploy.aws.render import cloudformation
from cloudq_deploy.aws.summary import summary
from cloudq_deploy.aws.terraform import configuration
from cloudq_deploy.azure import planner as azure
from cloudq_deploy.azure.iam import grants as azure_grants
from cloudq_deploy.azure.options import AzureOptions
from cloudq_deploy.azure.package import layout_of
from cloudq_deploy.azure.terraform import configuration as azure_configuration
from cloudq_deploy.bundle.lock import Platform, locked
from cloudq_deploy.google import gcloud
from cloudq_deploy.google import planner as google
from cloudq_deploy.google.iam import grants as google_grants
from cloudq_deploy.google.options import GoogleOptions
from cloudq_deploy.google.terraform import configuration as google_configuration
from localstack.servers import Endpoint
from tests.deploy.provider_tables import complaints
from tests.deploy.recording import PLACE, REGION, Calls, actions, granted, recorded, refused

OWN = base64.b64encode(b"k" * 32).decode()
ID = "12345678-1234-1234-1234-123456789012"
USES = {"kms:Decrypt", "kms:GenerateDataKey"}


@pytest.fixture
def calls() -> Iterator[Calls]:
    with recorded() as recorder:
        yield recorder


def app_with(*keys: str, broker: str = "memory://deploy", **settings: Any) -> CloudQ:
    given = {f"k{number}": key for number, key in enumerate(keys)}
    app = CloudQ("shop", broker=broker, encryption_keys=given, **settings)
    app.task(name="shop.add")(lambda: None)
    return app


def planned(*keys: str) -> Plan:
    app = app_with(*keys, broker="sqs://")
    return plan_of(app, "shop.tasks:app", AwsOptions(region=REGION))


def policies(plan: Plan) -> list[Any]:
    [function] = plan.functions
    roles = [document(statements(plan, role), PLACE) for role in ("producer", "worker", "operator")]
    return [*roles, document(of_function(plan, function), PLACE)]


def of_keys(policy: Any) -> list[Any]:
    return [each for each in policy["Statement"] if each["Sid"].startswith("Key")]


@pytest.mark.parametrize("keys", [(), (OWN,), ("gcpkms://shop/eu/cloudq/k",)])
def test_no_right_without_a_key_of_kms(keys: tuple[str, ...]) -> None:
    plan = planned(*keys)
    assert plan.encryption_keys == ()
    assert "kms:" not in json.dumps(policies(plan))
    assert OWN not in json.dumps(plan.as_json())
    assert plan.extras == (("crypto",) if keys else ())


def test_who_uses_the_app_may_use_its_key_and_no_other(aws: Endpoint, calls: Calls) -> None:
    client: Any = boto3.client("kms", region_name=REGION, endpoint_url=aws.url)
    calls.listens = False
    id, other = (client.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
    plan = planned(f"awskms://{id}?region={REGION}", OWN)
    calls.listens = True
    with closing(open_keys(f"awskms://{id}?region={REGION}&endpoint_url={aws.url}")) as driver:
        driver.check()
    used = calls.take()
    assert actions(used) == USES
    for policy in policies(plan):
        assert refused(used, policy) == []
        [statement] = of_keys(policy)
        assert statement["Resource"] == [f"arn:aws:kms:{REGION}:{PLACE.account}:key/{id}"]
        assert {one for one in actions(granted(policy)) if one.startswith("kms:")} == USES
    for policy in policies(planned(f"awskms://{other}?region={REGION}")):
        assert {call[0] for call in refused(used, policy)} == USES
    assert "kms:" not in json.dumps(document(statements(plan, "scheduler"), PLACE))


def test_a_key_of_another_region_or_account_and_one_by_its_alias() -> None:
    plan = planned(
        f"awskms://{ID}?region=eu-west-3",
        f"awskms://arn:aws:kms:eu-west-1:222222222222:key/{ID}",
        "awskms://alias/shop",
        "awskms://arn:aws:kms:eu-west-1:222222222222:alias/bank",
    )
    assert EncryptionKey(name="alias/shop") in plan.encryption_keys
    for policy in policies(plan):
        by_name, *by_alias = of_keys(policy)
        assert by_name["Resource"] == [
            f"arn:aws:kms:eu-west-3:{PLACE.account}:key/{ID}",
            f"arn:aws:kms:eu-west-1:222222222222:key/{ID}",
        ]
        assert [(each["Resource"], each["Condition"]) for each in by_alias] == [
            ([f"arn:aws:kms:{region}:{account}:key/*"], condition)
            for region, account, condition in (
                (REGION, PLACE.account, _aliased("alias/shop")),
                ("eu-west-1", "222222222222", _aliased("alias/bank")),
            )
        ]
        assert len({each["Sid"] for each in policy["Statement"]}) == len(policy["Statement"])
    assert ("key", "alias/shop") in [row[:2] for row in summary(plan)]


def _aliased(name: str) -> dict[str, Any]:
    return {"ForAnyValue:StringEquals": {"kms:ResourceAliases": name}}


def test_templates_have_the_right_too() -> None:
    plan = planned(f"awskms://{ID}", "awskms://alias/shop")
    made = json.loads(json.dumps(configuration(plan)))
    assert complaints(made, "aws") == []
    for text in (json.dumps(made), json.dumps(cloudformation.template(plan))):
        assert f"key/{ID}" in text
        assert "kms:ResourceAliases" in text
        assert "kms:GenerateDataKey" in text


# ---- the other clouds


def test_google_gives_the_functions_the_role_on_the_key_alone() -> None:
    key = "projects/shop/locations/europe-west1/keyRings/cloudq/cryptoKeys/k"
    app = app_with("gcpkms://shop/europe-west1/cloudq/k", f"gcpkms://{key}", OWN)
    options = GoogleOptions(project="my-project", region="europe-west1")
    plan = google.plan_of(app, "shop.tasks:app", options)
    [grant] = [each for each in google_grants(plan) if "kms" in each.role]
    assert (grant.who, grant.kind, grant.on) == ("tasks", "key", key)
    made = json.loads(json.dumps(google_configuration(plan)))
    assert complaints(made, "google") == []
    [member] = made["resource"]["google_kms_crypto_key_iam_member"].values()
    assert (member["crypto_key_id"], member["role"]) == (
        key,
        "roles/cloudkms.cryptoKeyEncrypterDecrypter",
    )
    assert f"gcloud kms keys add-iam-policy-binding {key} --member=" in gcloud.script(plan)
    assert OWN not in json.dumps(plan.as_json())
    wrong = app_with("gcpkms://shop/europe-west1")
    with pytest.raises(ConfigurationError, match="names no key"):
        google.plan_of(wrong, "shop.tasks:app", options)


def test_azure_gives_the_identity_the_role_on_the_key_alone() -> None:
    app = app_with(
        "azkeyvault://shop/k",
        "azkeyvault://bank.vault.azure.cn/b",
        "azkeyvault://h.managedhsm.azure.net/h",
    )
    options = AzureOptions(region="westeurope", key_vault_group="security")
    plan = azure.plan_of(app, "shop.tasks:app", options)
    found = [(each.kind, each.on) for each in azure_grants(plan) if "Vault" in each.role]
    assert found == [("key", "security/shop/k"), ("key", "security/bank/b")]
    made = json.loads(json.dumps(azure_configuration(plan)))
    assert complaints(made, "azurerm") == []
    assigned = made["resource"]["azurerm_role_assignment"].values()
    scopes = [
        one["scope"] for one in assigned if one["role_definition_name"] == "Key Vault Crypto User"
    ]
    start = (
        "/subscriptions/${var.subscription}/resourceGroups/security/providers/Microsoft.KeyVault"
    )
    assert scopes == [f"{start}/vaults/shop/keys/k", f"{start}/vaults/bank/keys/b"]
    own = azure.plan_of(app, "shop.tasks:app", AzureOptions(region="westeurope"))
    assert own.encryption_keys[0].group == "shop"


# ---- the zip


@pytest.mark.parametrize("keys", [(), (OWN,), ("awskms://k",)])
def test_the_zip_has_what_encryption_needs(tmp_path: Path, keys: tuple[str, ...]) -> None:
    platform = Platform(python="3.13", architecture="x86_64")
    aws_app = app_with(*keys, broker="sqs://")
    layouts = [
        on_aws(aws_app, "shop:app", tmp_path, {"region": REGION})._layout,
        layout_of(azure.plan_of(app_with(*keys), "shop:app", AzureOptions(region="westeurope"))),
    ]
    assert layouts[0].needed == f"cloudq-tasks[aws{',crypto' if keys else ''}]"
    pins = locked(tmp_path, platform, None, layouts[0].needed)
    assert ("cryptography" in pins) is bool(keys)
    assert layouts[1].needed == f"cloudq-tasks[azure{',crypto' if keys else ''}]"
