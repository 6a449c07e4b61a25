"""How a stack stands: is it there, is it ours, can it be changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from botocore.exceptions import ClientError

from cloudq_deploy.aws.render.cloudformation import described
from cloudq_deploy.aws.stack.access import Aws, DeployError, asking, message_of

_ADVICE = {
    "ROLLBACK_COMPLETE": (
        "its first apply failed and was rolled back; only deleting is left: "
        "`cloudq deploy destroy`, then apply again"
    ),
    "ROLLBACK_FAILED": (
        "its first apply failed, and so did the rollback: `cloudq deploy destroy`, and look at "
        "what is left"
    ),
    "CREATE_FAILED": "its first apply failed: `cloudq deploy destroy`, then apply again",
    "DELETE_FAILED": "its deletion failed: `cloudq deploy destroy` again; `status` says why",
    "UPDATE_ROLLBACK_FAILED": (
        "an apply failed, and so did its rollback: mend what `status` names, then "
        "`aws cloudformation continue-update-rollback --stack-name {name}`"
    ),
    "UPDATE_FAILED": "an apply failed and was not rolled back: `aws cloudformation rollback-stack`",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A stack that is there. `review`: only proposed, with nothing in it.

    `changed`: when it was last made or changed, in the service's words.
    """

    name: str
    status: str
    changed: str = ""
    reason: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    outputs: Mapping[str, str] = field(default_factory=dict[str, str])
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def review(self) -> bool:
        return self.status == "REVIEW_IN_PROGRESS"


def look(aws: Aws, name: str) -> Standing | None:
    """The stack; None where there is none."""
    with asking(f"look at the stack {name}"):
        try:
            [found] = aws.cloudformation.describe_stacks(StackName=name)["Stacks"]
        except ClientError as error:
            if "does not exist" in message_of(error):
                return None
            raise
    if found["StackStatus"] == "DELETE_COMPLETE":
        return None
    described_as = found.get("Description", "")
    if found["StackStatus"] == "IMPORT_COMPLETE" and not described_as:
        described_as = template_of(aws, name).get("Description", "")
    return Standing(
        name=name,
        status=found["StackStatus"],
        changed=str(found.get("LastUpdatedTime", found["CreationTime"])),
        reason=found.get("StackStatusReason", ""),
        description=described_as,
        tags={tag["Key"]: tag["Value"] for tag in found.get("Tags", ())},
        outputs={
            each.get("OutputKey", ""): each.get("OutputValue", "")
            for each in found.get("Outputs", ())
        },
        parameters={
            each.get("ParameterKey", ""): each.get("ParameterValue", "")
            for each in found.get("Parameters", ())
        },
    )


def check_ours(standing: Standing, app: str) -> None:
    """Raise `DeployError` for somebody else's stack."""
    owner = standing.tags.get("cloudq:app")
    if owner == app or standing.review:
        return
    if standing.status == "IMPORT_COMPLETE" and standing.description == described(app):
        return  # an apply with --adopt that got no further: an import cannot set tags
    whose = f"is of the app {owner!r}" if owner else "was not made by cloudq"
    raise DeployError(
        f"the stack {standing.name} {whose}, so it is left alone: choose another name with --stack"
    )


def check_ready(standing: Standing) -> None:
    """Raise `DeployError` for a stack that cannot be changed now."""
    status = standing.status
    if status in _ADVICE:
        because = f" ({standing.reason})" if standing.reason else ""
        advice = _ADVICE[status].format(name=standing.name)
        raise DeployError(f"the stack {standing.name} is in {status}{because}: {advice}")
    if status.endswith("_IN_PROGRESS") and not standing.review:
        raise DeployError(f"the stack {standing.name} is in {status}: wait until that is done")


def template_of(aws: Aws, name: str) -> dict[str, Any]:
    """The template that the stack was last applied with."""
    with asking(f"read the template of the stack {name}"):
        body: object = aws.cloudformation.get_template(StackName=name).get("TemplateBody", {})
    return as_mapping(body)


def as_mapping(body: object) -> dict[str, Any]:
    """A template that botocore gives as a mapping where it is JSON, else as text."""
    return json.loads(body) if isinstance(body, str) else cast("dict[str, Any]", body)
