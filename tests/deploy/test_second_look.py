"""A second command sees what the first one did: options, names that are taken, what was left."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from cloudq import CloudQ
from cloudq_deploy.aws.deployment import AwsDeployment, planned
from cloudq_deploy.aws.remembered import again, metadata
from cloudq_deploy.aws.stack.access import DeployError
from cloudq_deploy.aws.stack.leftovers import left_over
from cloudq_deploy.aws.stack.state import template_of
from cloudq_deploy.aws.stack.watch import Event
from cloudq_deploy.aws.terminal import Progress
from cloudq_deploy.cli.options import note_environment
from localstack.servers import Endpoint
from tests.servers import unique

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/shop@sha256:" + "a" * 64
PROJECT = f"""
[tool.cloudq.deploy]
package = "image"
image = "{IMAGE}"
runtime = "python3.12"
architecture = "arm64"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CLOUDQ_BROKER", "CLOUDQ_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    return tmp_path


class Project:
    """An app in a folder, deployed to a stand-in."""

    def __init__(self, folder: Path, aws: Endpoint) -> None:
        self.name = unique("shop")
        self.folder = folder
        self.url = aws.url
        self.app = CloudQ(self.name)
        self.app.task(name="a")(lambda: None)

    def deployment(self, **given: Any) -> AwsDeployment:
        options = {"endpoint_url": self.url, "region": "us-east-1", **given}
        return planned(self.app, "shop:app", self.folder, options)

    def applied(self, **given: Any) -> set[str]:
        """Apply, and return the architectures of the functions."""
        self.deployment(**given).apply(adopt=False, yes=True, json=True)
        resources = template_of(self.deployment().aws, self.name)["Resources"].values()
        functions = [each for each in resources if each["Type"] == "AWS::Lambda::Function"]
        return {each["Properties"]["Architectures"][0] for each in functions}


@pytest.fixture
def project(folder: Path, aws: Endpoint) -> Project:
    return Project(folder, aws)


def test_a_second_apply_goes_by_the_options_of_the_first(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert project.applied(architecture="x86_64") == {"x86_64"}
    assert project.applied() == {"x86_64"}
    said = capsys.readouterr().err
    assert "as the last apply: --architecture x86_64" in said
    assert "is a stand-in: it runs functions with its own Python on this machine" in said
    assert project.applied(architecture="arm64") == {"arm64"}
    assert project.applied() == {"arm64"}
    file = project.folder / "pyproject.toml"
    file.write_text(PROJECT.replace("arm64", "x86_64"))
    assert project.applied() == {"x86_64"}, "the project says so now"


@pytest.mark.parametrize(
    "kept",
    [
        None,
        [],
        {"cloudq": 1},
        {"cloudq": {"runtime": "python3.11"}},
        {"cloudq": {"runtime": {"given": 5, "stated": None}}},
        {"cloudq": {"memory": {"given": "9", "stated": None}}},
    ],
)
def test_metadata_of_others_is_none_of_ours(kept: Any) -> None:
    assert again({"Metadata": kept}, {}, {}) == {}


def test_an_option_stands_until_the_project_says_another() -> None:
    class Chosen:
        runtime = "python3.12"

    stated = {"runtime": "python3.11"}
    template = metadata({"runtime": "python3.12", "region": "x"}, stated, Chosen)
    assert again(template, {}, stated) == {"runtime": "python3.12"}
    assert again(template, {"runtime": "python3.13"}, stated) == {}
    assert again(template, {}, {"runtime": "python3.13"}) == {}
    assert metadata({"region": "x"}, stated, Chosen) == {}


def test_a_taken_name_is_told_before_the_code_is_built(project: Project) -> None:
    sqs = boto3.client("sqs", endpoint_url=project.url, region_name="us-east-1")
    queue = f"{project.name}-default"
    sqs.create_queue(QueueName=queue)
    (project.folder / "pyproject.toml").write_text("")  # a zip: its build would fail here
    with pytest.raises(DeployError, match=f"queue {queue} exists already"):
        project.deployment().apply(adopt=False, yes=True, json=True)
    assert not (project.folder / "build").exists()


def test_what_a_stack_left_is_deleted_after_it(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.applied()
    deployment = project.deployment()
    deployment.destroy(data=False, yes=True)
    assert "to delete these too: cloudq deploy destroy --data" in capsys.readouterr().err
    kinds = sorted(each.kind for each in left_over(deployment.aws, deployment.plan))
    assert kinds == ["AWS::DynamoDB::Table", "AWS::SQS::Queue", "AWS::SQS::Queue"]
    sqs = boto3.client("sqs", endpoint_url=project.url, region_name="us-east-1")
    url = sqs.get_queue_url(QueueName=f"{project.name}-default")["QueueUrl"]
    sqs.tag_queue(QueueUrl=url, Tags={"cloudq:stack": "another"})
    deployment.destroy(data=True, yes=True)
    sqs.get_queue_attributes(QueueUrl=url)  # it belongs to somebody else
    with pytest.raises(DeployError, match="there is no stack"):
        deployment.destroy(data=True, yes=True)


def test_the_variables_that_name_queues_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note_environment("aws")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("CLOUDQ_BROKER", "sqs://us-east-1")
    note_environment("aws")
    assert capsys.readouterr().err == (
        "queues and table are named by CLOUDQ_BROKER=sqs://us-east-1: unset it for the stack's "
        "own\n"
    )


def test_a_terminal_gets_one_line_a_resource(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    stack = "AWS::CloudFormation::Stack"
    for number, (name, kind, status) in enumerate(
        [
            ("shop", stack, "CREATE_IN_PROGRESS"),
            ("Queue", "AWS::SQS::Queue", "CREATE_IN_PROGRESS"),
            ("Queue", "AWS::SQS::Queue", "CREATE_COMPLETE"),
            ("shop", stack, "CREATE_COMPLETE"),
        ]
    ):
        at = datetime(2030, 1, 1, tzinfo=UTC)
        progress.tell(Event(id=str(number), at=at, status=status, name=name, kind=kind, reason=""))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert [line.split()[:3] for line in lines] == [
        ["RESOURCE", "KIND", "STATE"],
        ["shop", "CloudFormation::Stack", "CREATE_COMPLETE"],
        ["Queue", "SQS::Queue", "CREATE_COMPLETE"],
    ]
