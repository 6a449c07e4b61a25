"""Renders the resources that `apply google` does not make as a script of `gcloud` commands.

These are accounts, rights, functions and the store. Run `apply` first: the script needs its topics
and subscriptions. A `create` fails for a resource that exists.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from cloudq_deploy.google.iam import Grant, grants
from cloudq_deploy.google.plan import Function, Plan
from cloudq_deploy.google.terraform import environment

Command = list[str]
_AGENT = "service-$NUMBER@gcp-sa-pubsub.iam.gserviceaccount.com"
_NUMBER = "NUMBER=$(gcloud projects describe {project} --format 'value(projectNumber)')"


def script(plan: Plan) -> str:
    """Render the shell script; it stops at the first command that fails."""
    lines = [
        f"# Makes the resources of the stack {plan.stack} that `cloudq deploy apply google` does "
        "not.",
        "# Build the zip first: cloudq deploy build google. Delete the lines that create resources",
        "# which exist already.",
        "set -eu",
        _NUMBER.format(project=plan.project),
        *(line(command) for command in prepared(plan)),
        *(line(_deploy(plan, function)) for function in plan.functions),
        *_pushing(plan),
        *(line(_grant(plan, grant)) for grant in grants(plan)),
    ]
    return "\n".join(lines)


def line(command: Iterable[str]) -> str:
    """Quote a command for the shell, which still expands `$NUMBER` and `$URL`."""
    return " ".join(_word(word) for word in command)


def _word(word: str) -> str:
    quoted = shlex.quote(word)
    known = ("$NUMBER", "$URL")
    return f'"{word}"' if any(name in word for name in known) and "'" in quoted else quoted


def prepared(plan: Plan) -> Iterator[Command]:
    """Yield the commands that come before the functions: accounts, database, bucket, zip."""
    place = ["--project", plan.project]
    for account in (plan.runtime_account, plan.push_account):
        yield ["gcloud", "iam", "service-accounts", "create", account, *place]
    store = plan.store
    if store is not None and store.database != "(default)":
        yield [
            *("gcloud", "firestore", "databases", "create", f"--database={store.database}"),
            *(f"--location={plan.location}", "--type=firestore-native", "--delete-protection"),
            *place,
        ]
    # It makes the bucket of payloads with its rule, too.
    if store is not None or plan.payloads is not None:
        create = ["cloudq", "queues", "create", "--store", "--backend", plan.backend]
        yield [*_payloads(plan), *create]
    bucket = f"gs://{plan.bucket}"
    yield [
        *("gcloud", "storage", "buckets", "create", bucket, f"--location={plan.location}"),
        *("--uniform-bucket-level-access", "--public-access-prevention", *place),
    ]
    yield ["gcloud", "storage", "cp", f"build/{plan.stack}-google.zip", f"{bucket}/code.zip"]


def _payloads(plan: Plan) -> Command:
    """The variable by which `cloudq` knows the payload store that it makes."""
    if plan.payloads is None:
        return []
    place = f"project={plan.project}&location={plan.location}"
    return ["env", f"CLOUDQ_PAYLOAD_STORE={plan.payloads.url}?{place}"]


def _deploy(plan: Plan, function: Function) -> Command:
    variables = environment(plan, function)
    # `gcloud topic escaping`: the separator must not occur in a value.
    mark = next(mark for mark in ("|", "@@", "##", "%%") if mark not in str(variables))
    env = mark.join(f"{name}={value}" for name, value in variables.items())
    command = [
        *("gcloud", "functions", "deploy", function.name, "--gen2", "--project", plan.project),
        *("--region", plan.location, "--runtime", function.runtime),
        *("--source", f"gs://{plan.bucket}/code.zip", "--entry-point", function.entry_point),
        *("--trigger-http", "--no-allow-unauthenticated"),
        *("--ingress-settings", "internal-only"),
        *("--run-service-account", plan.email(plan.runtime_account)),
        *("--memory", f"{function.memory}Mi", "--timeout", f"{function.timeout}s"),
        *("--concurrency", str(function.concurrency)),
        *("--min-instances", str(function.min_instances)),
        *("--max-instances", str(function.max_instances)),
        *("--set-env-vars", f"^{mark}^{env}"),
    ]
    if function.cpu is not None:
        command += ["--cpu", function.cpu]
    if plan.build_account is not None:
        account = f"projects/{plan.project}/serviceAccounts/{plan.build_account}"
        command += ["--build-service-account", account]
    return command


def _pushing(plan: Plan) -> Iterator[str]:
    email = plan.email(plan.push_account)
    for function in plan.functions:
        describe = [
            *("gcloud", "functions", "describe", function.name, "--gen2"),
            *("--project", plan.project, "--region", plan.location),
            *("--format", "value(serviceConfig.uri)"),
        ]
        yield f"URL=$({line(describe)})"
        for queue in plan.fed(function):
            yield line(
                [
                    *("gcloud", "pubsub", "subscriptions", "modify-push-config"),
                    *(queue.subscription, "--project", plan.project, "--push-endpoint=$URL"),
                    *(f"--push-auth-service-account={email}", "--push-auth-token-audience=$URL"),
                ]
            )


def _grant(plan: Plan, grant: Grant) -> Command:
    who = {
        "tasks": plan.email(plan.runtime_account),
        "push": plan.email(plan.push_account),
        "pubsub": _AGENT,
    }
    on = {
        "topic": ["pubsub", "topics", "add-iam-policy-binding", grant.on],
        "subscription": ["pubsub", "subscriptions", "add-iam-policy-binding", grant.on],
        "function": ["run", "services", "add-iam-policy-binding", grant.on],
        "bucket": ["storage", "buckets", "add-iam-policy-binding", f"gs://{grant.on}"],
        "account": ["iam", "service-accounts", "add-iam-policy-binding", plan.email(grant.on)],
        "key": ["kms", "keys", "add-iam-policy-binding", grant.on],
        "project": ["projects", "add-iam-policy-binding", grant.on],
    }
    command = ["gcloud", *on[grant.kind], f"--member=serviceAccount:{who[grant.who]}"]
    command += [f"--role={grant.role}"]
    if grant.kind == "function":
        command += [f"--region={plan.location}"]
    if grant.kind != "project":
        return [*command, f"--project={plan.project}"]
    database = f"projects/{plan.project}/databases/{grant.database}"
    expression = f'resource.name == "{database}"'
    return [*command, f"--condition=title={plan.stack}-database,expression={expression}"]
