"""The check of Terraform's JSON can fail, and AWS's passes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cloudq_deploy.aws import terraform
from cloudq_deploy.aws.plan import Plan
from tests.deploy.provider_tables import complaints, table
from tests.deploy.test_templates import PLANS

TOPIC: dict[str, Any] = {"name": "a", "labels": {"x": "y"}}
SUBSCRIPTION = {"name": "a", "topic": "${google_pubsub_topic.a.id}"}


def checked(**resources: dict[str, Any]) -> list[str]:
    return complaints({"resource": {f"google_{kind}": each for kind, each in resources.items()}},
                      "google")  # fmt: skip


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_provider_of_aws_takes_what_is_rendered(plan: Callable[[], Plan]) -> None:
    made = json.loads(json.dumps(terraform.configuration(plan())))
    assert complaints(made, "aws") == []


def test_a_right_configuration_has_no_complaint() -> None:
    assert checked(pubsub_topic={"a": TOPIC}, pubsub_subscription={"b": SUBSCRIPTION}) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"color": 1}, "takes no color"),
        ({"name": 1}, "1 is no string"),
        ({"ack_deadline_seconds": "ten"}, "'ten' is no number"),
        ({"enable_message_ordering": "yes"}, "is no bool"),
        ({"labels": {"x": 1}}, "no string"),
        ({"push_config": {}}, "lacks push_endpoint"),
        ({"push_config": {"push_endpoint": "x", "to": "y"}}, "takes no to"),
        ({"push_config": [{"push_endpoint": "x"}] * 2}, "there is one"),
        ({"topic": "${google_pubsub_topic.b.id}"}, "leads nowhere"),
        ({"topic": "${google_pubsub_topic.a.arn}"}, "gives no arn"),
        ({"topic": "${var.topic}"}, "no variable"),
        ({"depends_on": ["google_pubsub_topic.b"]}, "leads nowhere"),
    ],
)
def test_what_is_wrong_is_told(values: dict[str, Any], said: str) -> None:
    wrong = {"b": SUBSCRIPTION | values}
    [complaint] = checked(pubsub_topic={"a": TOPIC}, pubsub_subscription=wrong)
    assert said in complaint


def test_what_is_lacking_is_told() -> None:
    assert checked(pubsub_subscription={"b": {"name": "a"}}) == [
        "google_pubsub_subscription.b: lacks topic"
    ]
    assert checked(pubsub_nothing={"b": {}}) == [
        "google_pubsub_nothing.b: no such type of resource in the table"
    ]


@pytest.mark.parametrize("provider", ["google", "azurerm", "aws"])
def test_each_table_names_its_version_and_source(provider: str) -> None:
    found = table(provider)
    assert found["version"][0].isdigit()
    assert found["source"].startswith(f"cdktf_cdktf_provider_{provider}-")
