"""Reads the state of a stack, and checks that it is ours and can be changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from cloudq_deploy.aws.render.cloudformation import described
from cloudq_deploy.aws.stack.access import Aws, DeployError, asking, message_of

_ADVICE = {
    "ROLLBACK_COMPLETE": (
        "its first apply failed and was rolled back, so it can only be deleted: "
        "`cloudq deploy destroy`, then apply again"
    ),
    "ROLLBACK_FAILED": (
        "its first apply failed, and so did the rollback: `cloudq deploy destroy`, then see "
        "whether AWS has kept a resource"
    ),
    "CREATE_FAILED": "its first apply failed: `cloudq deploy destroy`, then apply again",
    "DELETE_FAILED": "its deletion failed: `cloudq deploy status` says why; then `cloudq deploy "
    "destroy` again",
    "UPDATE_ROLLBACK_FAILED": (
        "an apply failed, and so did its rollback: repair what `cloudq deploy status` names, then "
        "`aws cloudformation continue-update-rollback --stack-name {name}`"
    ),
    "UPDATE_FAILED": (
        "an apply failed and was not rolled back: "
        "`aws cloudformation rollback-stack --stack-name {name}`"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StackState:
    """The state of an existing stack.

    `changed` is the time when it was made or last changed, as the service writes it.
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
        """Tell whether the stack is only proposed, with nothing in it."""
        return self.status == "REVIEW_IN_PROGRESS"


def look(aws: Aws, name: str) -> StackState | None:
    """Read the state of a stack; None where there is none."""
    with asking(f"read stack {name}"):
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
    return StackState(
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


def check_ours(state: StackState, app: str) -> None:
    """Raise `DeployError` for the stack of another app, or of somebody else."""
    owner = state.tags.get("cloudq:app")
    if owner == app or state.review:
        return
    if state.status == "IMPORT_COMPLETE" and state.description == described(app):
        return  # an apply with --adopt that ended after its import, which cannot set tags
    whose = f"belongs to the app {owner!r}" if owner else "was not made by cloudq"
    raise DeployError(
        f"stack {state.name} {whose}, so it was not changed: choose another name with --stack"
    )


def check_ready(state: StackState) -> None:
    """Raise `DeployError` for a stack that cannot be changed now."""
    status = state.status
    if status in _ADVICE:
        because = f" ({state.reason})" if state.reason else ""
        advice = _ADVICE[status].format(name=state.name)
        raise DeployError(f"stack {state.name} is in {status}{because}: {advice}")
    if status.endswith("_IN_PROGRESS") and not state.review:
        raise DeployError(f"stack {state.name} is in {status}: wait until that is done")


def template_of(aws: Aws, name: str) -> dict[str, Any]:
    """Read the template that the stack was last applied with."""
    with asking(f"read the template of stack {name}"):
        body: Any = aws.cloudformation.get_template(StackName=name).get("TemplateBody", {})
    # botocore parses a template of JSON, and leaves other templates as text.
    return json.loads(body) if isinstance(body, str) else body
