"""Makes a stack as a plan says: propose, show, ask, upload, execute, follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from botocore.exceptions import ClientError

from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.render.cloudformation import template
from cloudq_deploy.aws.stack.access import Aws, DeployError, asking, code_of
from cloudq_deploy.aws.stack.adopt import adoptable, importing
from cloudq_deploy.aws.stack.bucket import Bucket, Release
from cloudq_deploy.aws.stack.changes import ChangeSet, Proposal, discard, propose
from cloudq_deploy.aws.stack.drift import Drift, drift
from cloudq_deploy.aws.stack.foreign import check_free
from cloudq_deploy.aws.stack.state import Standing, check_ours, check_ready, look
from cloudq_deploy.aws.stack.watch import Event, follow, seen

# After an import, or before there is anything, CloudFormation compares nothing.
_COMPARABLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
# Of a change set that another apply has made worthless, or that comes while it goes on.
_OVERTAKEN = ("InvalidChangeSetStatus", "ChangeSetNotFound", "ValidationError")
_MADE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE", "IMPORT_COMPLETE")
_DONE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")


class Screen(Protocol):
    """Whom an apply shows what it does, and asks."""

    def show(self, changes: ChangeSet) -> None: ...
    def confirm(self, changes: ChangeSet) -> bool: ...
    def tell(self, event: Event) -> None: ...
    def note(self, message: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What functions run: a zip by the digest of its contents, or an image."""

    digest: str
    path: Path | None = None
    image: str | None = None


def apply(
    aws: Aws,
    plan: Plan,
    code: Code,
    screen: Screen,
    *,
    bucket: Bucket,
    adopt: bool = False,
    ignore_drift: bool = False,
) -> Mapping[str, str] | None:
    """Make the stack equal to the plan; its outputs, or None if the answer was no.

    Raises `DeployError`: before anything is changed, or after a failure and its rollback.
    """
    parameters = {"CodeBucket": bucket.name, "CodeKey": bucket.code_key(code.digest)}
    if code.image:
        parameters = {"ImageUri": code.image}
    made = template(plan, code.digest)
    # A stack keeps its parameters as it keeps its template, so these are what a rollback needs.
    proposal = Proposal(stack=plan.stack, template=made, parameters=parameters, tags=plan.tags)
    if adopt and not _adopt(aws, plan, proposal, screen, bucket):
        return None
    upload = None
    if code.path is not None:
        upload = partial(_upload, bucket, code.path, parameters["CodeKey"], screen)
    return change(
        aws, plan.app, proposal, screen, bucket=bucket, upload=upload, ignore_drift=ignore_drift
    )


def _adopt(aws: Aws, plan: Plan, proposal: Proposal, screen: Screen, bucket: Bucket) -> bool:
    """Take queues and tables that exist into the stack, as a change of its own; False for no."""
    standing = look(aws, plan.stack)
    found = adoptable(aws, plan.stack, proposal.template, standing)
    if not found:
        return True
    template = importing(aws, plan.stack, proposal.template, found, standing)
    declared = template.get("Parameters", {})
    taking = replace(
        proposal,
        template=template,
        parameters={}
        if standing is None
        else {name: value for name, value in standing.parameters.items() if name in declared},
        imports=found,
    )
    taken = change(
        aws, plan.app, taking, screen, bucket=bucket, upload=None, ignore_drift=True, keep=False
    )
    return taken is not None


def roll_back(
    aws: Aws, app: str, stack: str, tags: Mapping[str, str], screen: Screen, *, bucket: Bucket
) -> Mapping[str, str] | None:
    """Make the stack as it was before its last apply. Raises `DeployError`."""
    releases = bucket.releases()
    if len(releases) < 2:
        raise DeployError(f"the stack {stack} has no release before the present one")
    earlier: Release = bucket.release(releases[1])
    screen.note(f"back to the release of {earlier.at}")
    proposal = Proposal(
        stack=stack, template=earlier.template, parameters=earlier.parameters, tags=tags
    )
    return change(aws, app, proposal, screen, bucket=bucket, upload=None, ignore_drift=True)


def change(
    aws: Aws,
    app: str,
    proposal: Proposal,
    screen: Screen,
    *,
    bucket: Bucket,
    upload: Callable[[], None] | None,
    ignore_drift: bool,
    keep: bool = True,
) -> Mapping[str, str] | None:
    """The steps of every change of a stack."""
    stack = proposal.stack
    standing = look(aws, stack)
    if standing is not None:
        check_ours(standing, app)
        check_ready(standing)
        if not ignore_drift and standing.status in _COMPARABLE:
            staying = proposal.template["Resources"].keys()
            _check_drift([each for each in drift(aws, stack) if each.name in staying], stack)
    proposed = propose(aws, proposal, standing, bucket)
    if proposed is None:
        screen.note(f"no changes: the stack {stack} is as the code says")
        if keep and standing is not None:
            # An apply that was interrupted has not kept what CloudFormation went on to make.
            bucket.keep(proposal.template, proposal.parameters)
        return standing.outputs if standing else {}
    try:
        if not proposal.imports:
            check_free(aws, proposed.changes, proposal.template)
        screen.show(proposed)
        agreed = screen.confirm(proposed)
        if agreed:
            bucket.prepare()
            if upload is not None:
                upload()
            _check_still(look(aws, stack), standing, stack)
    except BaseException as error:
        discard(aws, proposed)
        if isinstance(error, KeyboardInterrupt):
            screen.note(f"interrupted: nothing of the stack {stack} was changed")
        raise
    if not agreed:
        discard(aws, proposed)
        screen.note("nothing was changed")
        return None
    _execute(aws, proposed, screen)
    if keep:
        bucket.save(proposal.template, proposal.parameters)
    after = look(aws, stack)
    return after.outputs if after else {}


def _check_drift(drifts: Sequence[Drift], stack: str) -> None:
    if drifts:
        raise DeployError(
            f"the stack {stack} was changed by hand: {'; '.join(map(str, drifts))}. An apply "
            "leaves what its template does not change: put it back, or go on with "
            "--ignore-drift; nothing was changed"
        )


def _check_still(now: Standing | None, before: Standing | None, stack: str) -> None:
    """Raise `DeployError` if the stack is another than when the changes were worked out."""
    first = before is None or before.review
    if now is None or now.review != first or (not first and now != before):
        raise _overtaken(stack)


def _overtaken(stack: str) -> DeployError:
    return DeployError(
        f"somebody else changes the stack {stack}, or did since these changes were worked out; "
        "this apply changed nothing: wait until `cloudq deploy status` shows it done, and apply "
        "again"
    )


def _upload(bucket: Bucket, path: Path, key: str, screen: Screen) -> None:
    if bucket.upload(path, key):
        screen.note(f"uploaded s3://{bucket.name}/{key}")


def _execute(aws: Aws, proposed: ChangeSet, screen: Screen) -> None:
    stack = proposed.stack
    known = seen(aws, stack)
    with asking(f"change the stack {stack}"):
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
        screen.tell(event)

    try:
        status, why = follow(aws, stack, known, tell)
    except KeyboardInterrupt:
        screen.note(
            f"interrupted after {len(done)} of {len(proposed.changes)} resources: AWS goes on "
            f"with the stack {stack} to the end, or back. `cloudq deploy status` shows how it "
            "stands; when it is done `cloudq deploy apply` goes on from there, and `cloudq deploy "
            "destroy` takes it down"
        )
        raise
    if status not in _DONE:
        raise DeployError(_failure(stack, status, why))


def _failure(stack: str, status: str, why: str | None) -> str:
    back = {
        "ROLLBACK_COMPLETE": "what it had made was taken back; `cloudq deploy destroy` clears it",
        "UPDATE_ROLLBACK_COMPLETE": "the stack is as it was before",
    }
    stands = back.get(status, f"the stack is in {status} and was not rolled back to the end")
    return f"the stack {stack} could not be changed: {why or 'no reason was given'}; {stands}"
