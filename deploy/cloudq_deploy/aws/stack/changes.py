"""Proposes changes of a stack: CloudFormation's change set, and the properties that differ."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from botocore.exceptions import ClientError

from cloudq_deploy.aws.stack.access import Aws, DeployError, asking, message_of, naps
from cloudq_deploy.aws.stack.adopt import Found
from cloudq_deploy.aws.stack.bucket import Bucket
from cloudq_deploy.aws.stack.state import StackState, template_of

_NOTHING = ("didn't contain changes", "no updates are to be performed", "no changes")
_PATIENCE = 300.0
# CloudFormation takes larger templates from a bucket only.
_LARGEST_BODY = 51_200
_DATA = ("AWS::SQS::Queue", "AWS::DynamoDB::Table")
_ABSENT = "(none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A property that changes: its path, and its values before and after as text."""

    path: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A resource that changes. `action` is Add, Modify, Remove or Import.

    `replaced`: AWS makes a new resource in its place.
    """

    action: str
    name: str
    kind: str
    physical: str
    replaced: bool
    differences: Sequence[Difference] = ()

    @property
    def loses_data(self) -> bool:
        """Tell whether the change deletes or abandons messages or results."""
        return self.kind in _DATA and (self.replaced or self.action == "Remove")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSet:
    """Changes that CloudFormation has accepted and not yet made."""

    id: str
    stack: str
    first: bool
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The wanted state of a stack."""

    stack: str
    template: Mapping[str, Any]
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    imports: Sequence[Found] = ()


def propose(
    aws: Aws, proposal: Proposal, state: StackState | None, bucket: Bucket
) -> ChangeSet | None:
    """Have CloudFormation work out the changes; returns None if there are none.

    Makes nothing but a change set, which `discard` deletes. Raises `DeployError`.
    """
    first = state is None or state.review
    before = {} if first else template_of(aws, proposal.stack)
    name = f"cloudq-{datetime.now(UTC):%Y%m%d%H%M%S%f}"
    with asking(f"propose changes of stack {proposal.stack}"):
        reply = aws.cloudformation.create_change_set(
            StackName=proposal.stack,
            ChangeSetName=name,
            ChangeSetType="IMPORT" if proposal.imports else "CREATE" if first else "UPDATE",
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value}
                for key, value in proposal.parameters.items()
            ],
            Capabilities=["CAPABILITY_NAMED_IAM"],
            # CloudFormation allows no tags in an import; the next apply sets them.
            Tags=[]
            if proposal.imports
            else [{"Key": key, "Value": value} for key, value in proposal.tags.items()],
            **_imports(proposal),
            **_body(aws, proposal, bucket),
        )
    made = ChangeSet(id=reply["Id"], stack=proposal.stack, first=first, changes=())
    try:
        found = _settled(aws, made)
    except BaseException:
        discard(aws, made)
        raise
    if found is None:
        discard(aws, made)
        return None
    old: Mapping[str, str] = {} if state is None else state.parameters
    changes = [_change(each, before, proposal, old) for each in found]
    return ChangeSet(id=made.id, stack=made.stack, first=first, changes=changes)


def _imports(proposal: Proposal) -> Any:
    listed = [
        {
            "ResourceType": each.kind,
            "LogicalResourceId": each.name,
            "ResourceIdentifier": dict(each.identifier),
        }
        for each in proposal.imports
    ]
    return {"ResourcesToImport": listed} if listed else {}


def _body(aws: Aws, proposal: Proposal, bucket: Bucket) -> Any:
    text = json.dumps(proposal.template)
    if len(text.encode()) <= _LARGEST_BODY:
        return {"TemplateBody": text}
    bucket.prepare()
    key = f"{proposal.stack}/template.json"
    with asking(f"upload the template to bucket {bucket.name}"):
        aws.s3.put_object(
            Bucket=bucket.name, Key=key, Body=text.encode(), ExpectedBucketOwner=aws.account
        )
    return {"TemplateURL": f"{aws.s3.meta.endpoint_url}/{bucket.name}/{key}"}


def _settled(aws: Aws, made: ChangeSet) -> list[Any] | None:
    """Wait until CloudFormation has worked out the changes; returns None if there are none."""
    deadline = time.monotonic() + _PATIENCE
    for nap in naps():
        if time.monotonic() > deadline:
            break
        with asking(f"read the changes of stack {made.stack}"):
            reply = aws.cloudformation.describe_change_set(ChangeSetName=made.id)
            status, reason = reply["Status"], reply.get("StatusReason", "")
            if status == "FAILED":
                if any(said in reason.lower() for said in _NOTHING):
                    return None
                raise DeployError(
                    f"CloudFormation refuses the changes of stack {made.stack}: "
                    f"{reason or status}; nothing was changed"
                )
            if status == "CREATE_COMPLETE":
                pages = aws.cloudformation.get_paginator("describe_change_set").paginate(
                    ChangeSetName=made.id
                )
                return [each for page in pages for each in page.get("Changes", ())]
        time.sleep(nap)
    raise DeployError(
        f"CloudFormation did not work out the changes of stack {made.stack} within "
        f"{_PATIENCE:g} s: apply again; nothing was changed"
    )


def discard(aws: Aws, made: ChangeSet) -> None:
    """Delete the change set, and a stack that consists of this proposal alone.

    Another apply may have proposed changes of the same stack by now, or be making it.
    """
    with asking(f"discard the proposed changes of stack {made.stack}"):
        aws.cloudformation.delete_change_set(ChangeSetName=made.id)
        if not made.first:
            return
        try:
            [stack] = aws.cloudformation.describe_stacks(StackName=made.stack)["Stacks"]
            proposed = aws.cloudformation.list_change_sets(StackName=made.stack)["Summaries"]
            others = [each for each in proposed if each.get("ChangeSetId") != made.id]
            if stack["StackStatus"] == "REVIEW_IN_PROGRESS" and not others:
                aws.cloudformation.delete_stack(StackName=made.stack)
        except ClientError as error:
            if "does not exist" not in message_of(error):
                raise


# ---- differences


def _change(
    given: Any, before: Mapping[str, Any], proposal: Proposal, old: Mapping[str, str]
) -> Change:
    found = given["ResourceChange"]
    name = found["LogicalResourceId"]
    earlier = before.get("Resources", {}).get(name, {})
    later = proposal.template["Resources"].get(name, {})
    return Change(
        action=found["Action"],
        name=name,
        kind=found["ResourceType"],
        physical=found.get("PhysicalResourceId", ""),
        replaced=found.get("Replacement") == "True",
        differences=list(_differences("", _read(earlier, old), _read(later, proposal.parameters)))
        if found["Action"] == "Modify"
        else (),
    )


def _read(value: Any, parameters: Mapping[str, str]) -> Any:
    """Replace references to parameters by the parameters' values."""
    if isinstance(value, dict):
        mapping = cast("dict[str, Any]", value)
        if set(mapping) == {"Ref"} and mapping["Ref"] in parameters:
            return parameters[mapping["Ref"]]
        return {key: _read(each, parameters) for key, each in mapping.items()}
    if isinstance(value, list):
        return [_read(each, parameters) for each in cast("list[Any]", value)]
    return value


def _differences(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        one, other = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
        for key in sorted(one.keys() | other.keys()):
            longer = f"{path}.{key}" if path else key
            yield from _differences(longer, one.get(key), other.get(key))
        return
    yield Difference(
        path=path.removeprefix("Properties."), before=_text(before), after=_text(after)
    )


def _text(value: Any) -> str:
    if value is None:
        return _ABSENT
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
