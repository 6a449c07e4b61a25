"""Makes the stack of a plan: propose changes, show them, ask, upload, execute, follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from botocore.exceptions import ClientError

from cloudq.amounts import counted
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.render.cloudformation import template
from cloudq_deploy.aws.stack.access import Aws, DeployError, asking, code_of
from cloudq_deploy.aws.stack.adopt import adoptable, importing
from cloudq_deploy.aws.stack.bucket import Bucket, Release
from cloudq_deploy.aws.stack.changes import ChangeSet, Proposal, discard, propose
from cloudq_deploy.aws.stack.drift import Drift, drift
from cloudq_deploy.aws.stack.foreign import check_free, check_names
from cloudq_deploy.aws.stack.payloads import prepare_payloads
from cloudq_deploy.aws.stack.state import StackState, check_ours, check_ready, look
from cloudq_deploy.aws.stack.watch import Event, follow, seen

# In other states, such as after an import, CloudFormation compares nothing.
_COMPARABLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
# Errors for a change set that another apply has overtaken.
_OVERTAKEN = ("InvalidChangeSetStatus", "ChangeSetNotFound", "ValidationError")
_MADE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE", "IMPORT_COMPLETE")
_DONE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")


class Terminal(Protocol):
    """Shows the progress of an apply, and asks whether to go on."""

    def show(self, changes: ChangeSet) -> None: ...
    def confirm(self, changes: ChangeSet) -> bool: ...
    def tell(self, event: Event) -> None: ...
    def note(self, message: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The code of the functions: a zip, or the address of an image.

    `digest` is the hash of its contents.
    """

    digest: str
    path: Path | None = None
    image: str | None = None


def apply(
    aws: Aws,
    plan: Plan,
    code: Code,
    terminal: Terminal,
    *,
    bucket: Bucket,
    adopt: bool = False,
    ignore_drift: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Mapping[str, str] | None:
    """Make the stack equal to the plan; returns its outputs, or None if the answer was no.

    `metadata` is kept in the stack's template.

    Raises `DeployError`: before anything is changed, or after a failure and its rollback.
    """
    parameters = {"CodeBucket": bucket.name, "CodeKey": bucket.code_key(code.digest)}
    if code.image:
        parameters = {"ImageUri": code.image}
    made = template(plan, code.digest) | dict(metadata or {})
    # A rollback needs the parameters as well as the template.
    proposal = Proposal(stack=plan.stack, template=made, parameters=parameters, tags=plan.tags)
    if adopt and not _adopt(aws, plan, proposal, terminal, bucket):
        return None
    upload = None
    if code.path is not None:
        upload = partial(_upload, bucket, code.path, parameters["CodeKey"], terminal)
    outputs = change(
        aws,
        plan.app,
        proposal,
        terminal,
        bucket=bucket,
        upload=partial(_before, aws, plan, upload),
        ignore_drift=ignore_drift,
    )
    if outputs is not None and plan.payloads is not None:  # its rule is no change of the stack
        prepare_payloads(aws, plan.payloads)
    return outputs


def _before(aws: Aws, plan: Plan, upload: Callable[[], None] | None) -> None:
    """Make what the stack needs and is not in it."""
    if upload is not None:
        upload()
    if plan.payloads is not None:
        prepare_payloads(aws, plan.payloads)


def check_first(aws: Aws, plan: Plan) -> None:
    """Raise `DeployError` if the first apply of a stack would meet what somebody else owns.

    It is checked again before the change: this is for what is known before the code is built.
    """
    made = template(plan, "")
    check_names(aws, made["Resources"], made)


def _adopt(aws: Aws, plan: Plan, proposal: Proposal, terminal: Terminal, bucket: Bucket) -> bool:
    """Take existing queues and tables into the stack, as a separate change; False for no."""
    state = look(aws, plan.stack)
    found = adoptable(aws, plan.stack, proposal.template, state)
    if not found:
        return True
    template = importing(aws, plan.stack, proposal.template, found, state)
    declared = template.get("Parameters", {})
    taking = replace(
        proposal,
        template=template,
        parameters={}
        if state is None
        else {name: value for name, value in state.parameters.items() if name in declared},
        imports=found,
    )
    taken = change(
        aws, plan.app, taking, terminal, bucket=bucket, upload=None, ignore_drift=True, keep=False
    )
    return taken is not None


def roll_back(
    aws: Aws, app: str, stack: str, tags: Mapping[str, str], terminal: Terminal, *, bucket: Bucket
) -> Mapping[str, str] | None:
    """Apply the release before the present one again. Raises `DeployError`."""
    releases = bucket.releases()
    if len(releases) < 2:
        raise DeployError(
            f"stack {stack} has no earlier release to go back to: nothing was changed"
        )
    earlier: Release = bucket.release(releases[1])
    terminal.note(f"the release of {earlier.at} would be in force again:")
    proposal = Proposal(
        stack=stack, template=earlier.template, parameters=earlier.parameters, tags=tags
    )
    return change(aws, app, proposal, terminal, bucket=bucket, upload=None, ignore_drift=True)


def change(
    aws: Aws,
    app: str,
    proposal: Proposal,
    terminal: Terminal,
    *,
    bucket: Bucket,
    upload: Callable[[], None] | None,
    ignore_drift: bool,
    keep: bool = True,
) -> Mapping[str, str] | None:
    """Change a stack: propose, show, ask, upload, execute; returns the outputs, or None for no."""
    stack = proposal.stack
    state = look(aws, stack)
    if state is not None:
        check_ours(state, app)
        check_ready(state)
        if not ignore_drift and state.status in _COMPARABLE:
            staying = proposal.template["Resources"].keys()
            _check_drift([each for each in drift(aws, stack) if each.name in staying], stack)
    proposed = propose(aws, proposal, state, bucket)
    if proposed is None:
        terminal.note(f"no changes: stack {stack} is up to date")
        if keep and state is not None:
            # An interrupted apply did not save the release that CloudFormation went on to make.
            bucket.keep(proposal.template, proposal.parameters)
        return state.outputs if state else {}
    try:
        if not proposal.imports:
            check_free(aws, proposed.changes, proposal.template)
        terminal.show(proposed)
        agreed = terminal.confirm(proposed)
        if agreed:
            bucket.prepare()
            if upload is not None:
                upload()
            _check_still(look(aws, stack), state, stack)
    except BaseException as error:
        discard(aws, proposed)
        if isinstance(error, KeyboardInterrupt):
            terminal.note(f"interrupted: stack {stack} was not changed")
        raise
    if not agreed:
        discard(aws, proposed)
        terminal.note("nothing was changed")
        return None
    _execute(aws, proposed, terminal)
    if keep:
        bucket.save(proposal.template, proposal.parameters)
    after = look(aws, stack)
    return after.outputs if after else {}


def _check_drift(drifts: Sequence[Drift], stack: str) -> None:
    if drifts:
        raise DeployError(
            f"stack {stack} was changed by hand: {'; '.join(map(str, drifts))}. An apply would not "
            "undo that: undo it by hand, or apply with --ignore-drift; nothing was changed"
        )


def _check_still(now: StackState | None, before: StackState | None, stack: str) -> None:
    """Raise `DeployError` if the stack has changed since the proposal."""
    first = before is None or before.review
    if now is None or now.review != first or (not first and now != before):
        raise _overtaken(stack)


def _overtaken(stack: str) -> DeployError:
    return DeployError(
        f"somebody else is changing stack {stack}, or has changed it since these changes were "
        "proposed; this apply changed nothing: wait until `cloudq deploy status` shows that it is "
        "done, then apply again"
    )


def _upload(bucket: Bucket, path: Path, key: str, terminal: Terminal) -> None:
    if bucket.upload(path, key):
        terminal.note(f"uploaded s3://{bucket.name}/{key}")


def _execute(aws: Aws, proposed: ChangeSet, terminal: Terminal) -> None:
    stack = proposed.stack
    known = seen(aws, stack)
    with asking(f"change stack {stack}"):
        try:
            aws.cloudformation.execute_change_set(ChangeSetName=proposed.id)
        except ClientError as error:
            if code_of(error) not in _OVERTAKEN:
                raise
            raise _overtaken(stack) from error
    done: set[str] = set()

    def tell(event: Event) -> None:
        if event.status in _MADE:
            done.add(event.name)
        terminal.tell(event)

    try:
        status, why = follow(aws, stack, known, tell)
    except KeyboardInterrupt:
        terminal.note(
            f"interrupted after {len(done)} of {counted(len(proposed.changes), 'resource')}: AWS "
            f"goes on changing stack {stack}, or rolls it back. `cloudq deploy status` shows its "
            "state; when it is done, `cloudq deploy apply` goes on from there, and `cloudq deploy "
            "destroy` deletes it"
        )
        raise
    if status not in _DONE:
        raise DeployError(_failure(stack, status, why))


def _failure(stack: str, status: str, why: str | None) -> str:
    back = {
        "ROLLBACK_COMPLETE": "its resources were deleted again; `cloudq deploy destroy` removes "
        "the empty stack",
        "UPDATE_ROLLBACK_COMPLETE": "the stack is as it was before",
    }
    now = back.get(
        status,
        f"the stack is in {status}, and its rollback did not finish: see `cloudq deploy status`",
    )
    return f"stack {stack} could not be changed: {why or 'AWS gave no reason'}; {now}"
