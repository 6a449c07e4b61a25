"""Renders a plan as Terraform's JSON, for the Google provider 6 and 7."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from cloudq.driver.schedulers import Job
from cloudq_deploy.google.iam import Grant, grants
from cloudq_deploy.google.plan import Alert, Function, Payloads, Plan, Queue
from cloudq_deploy.terraform import literal
from cloudq_deploy.terraform import terraform_name as named

Configuration = dict[str, Any]

_NUMBER = "${data.google_project.here.number}"
_KEPT = {"lifecycle": {"prevent_destroy": True}}
# By default Pub/Sub deletes a subscription after 31 idle days.
_NEVER_EXPIRES = {"expiration_policy": {"ttl": ""}}
_DEFAULT_RETENTION = 30  # days, of the log bucket `_Default`


def configuration(plan: Plan) -> Configuration:
    """Render the plan; the variables are the project, the region and the zip."""
    resources = Resources()
    for queue in plan.queues:
        _add_queue(plan, queue, resources)
    _add_accounts(plan, resources)
    _add_code(plan, resources)
    for function in plan.functions:
        resources.add("cloudfunctions2_function", function.name, _function(plan, function))
    _add_store(plan, resources)
    if plan.payloads:
        resources.add("storage_bucket", "payloads", _payloads(plan, plan.payloads))
    for number, grant in enumerate(grants(plan), start=1):
        kind, values = _granted(plan, grant)
        resources.add(kind, f"{grant.who}-{grant.role.rpartition('.')[2]}-{number}", values)
    for job in plan.jobs:
        resources.add("cloud_scheduler_job", job.name, _job(plan, job))
    for alert in plan.alerts:
        resources.add("monitoring_alert_policy", alert.name, _alert(plan, alert))
    _add_logs(plan, resources)
    return {
        "terraform": {
            "required_providers": {"google": {"source": "hashicorp/google", "version": ">= 6.14"}}
        },
        "provider": {"google": {"project": "${var.project}", "region": "${var.region}"}},
        "variable": _variables(plan),
        "data": {"google_project": {"here": {"project_id": "${var.project}"}}},
        "resource": resources.by_kind,
        "output": {
            "broker": {"value": plan.broker},
            "backend": {"value": plan.backend},
            "functions": {
                "value": {
                    each.name: f"${{{_of(each)}.service_config[0].uri}}" for each in plan.functions
                }
            },
        },
    }


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of a configuration, by kind and name."""

    by_kind: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def add(self, kind: str, name: str, values: dict[str, Any]) -> None:
        """Add a resource of the provider, whose kinds all begin with `google_`."""
        self.by_kind.setdefault(f"google_{kind}", {})[named(name)] = values


def _variables(plan: Plan) -> dict[str, Any]:
    return {
        "project": {"type": "string", "default": plan.project},
        "region": {"type": "string", "default": plan.location},
        "zip": {
            "type": "string",
            "default": f"build/{plan.stack}-google.zip",
            "description": "The zip that `cloudq deploy build google` has written",
        },
    }


def _add_accounts(plan: Plan, resources: Resources) -> None:
    for account, name in (
        (plan.runtime_account, f"{plan.stack}: its functions run as this account"),
        (plan.push_account, f"{plan.stack}: Pub/Sub calls its functions as this account"),
    ):
        values = {"account_id": account, "display_name": name[:100]}
        resources.add("service_account", account, values)


def _add_code(plan: Plan, resources: Resources) -> None:
    bucket = {
        "name": plan.bucket,
        "location": "${var.region}",
        "uniform_bucket_level_access": True,
        "public_access_prevention": "enforced",
        "labels": dict(plan.labels),
    }
    resources.add("storage_bucket", "code", bucket)
    zipped = {
        "bucket": "${google_storage_bucket.code.name}",
        "name": f"{plan.stack}/${{filesha256(var.zip)}}.zip",
        "source": "${var.zip}",
    }
    resources.add("storage_bucket_object", "code", zipped)


def _of(function: Function) -> str:
    return f"google_cloudfunctions2_function.{named(function.name)}"


def _add_queue(plan: Plan, queue: Queue, resources: Resources) -> None:
    labels = {"labels": dict(plan.labels)}
    for topic in (queue.topic, queue.dead_topic):
        resources.add("pubsub_topic", topic, {"name": topic, **labels, **_KEPT})
    retention = {"message_retention_duration": f"{queue.retention}s"}
    common = retention | _NEVER_EXPIRES | labels | _KEPT
    dead = {
        "name": queue.dead_subscription,
        "topic": f"${{google_pubsub_topic.{named(queue.dead_topic)}.id}}",
        "ack_deadline_seconds": 60,
        **common,
    }
    resources.add("pubsub_subscription", queue.dead_subscription, dead)
    resources.add("pubsub_subscription", queue.subscription, _subscription(plan, queue) | common)


def _subscription(plan: Plan, queue: Queue) -> dict[str, Any]:
    uri = f"${{google_cloudfunctions2_function.{named(queue.function)}.service_config[0].uri}}"
    low, high = queue.backoff
    return {
        "name": queue.subscription,
        "topic": f"${{google_pubsub_topic.{named(queue.topic)}.id}}",
        "ack_deadline_seconds": queue.ack_deadline,
        "enable_message_ordering": queue.fifo,
        **({"filter": literal(queue.filter)} if queue.filter else {}),
        "dead_letter_policy": {
            "dead_letter_topic": f"${{google_pubsub_topic.{named(queue.dead_topic)}.id}}",
            "max_delivery_attempts": queue.max_attempts,
        },
        "retry_policy": {"minimum_backoff": f"{low}s", "maximum_backoff": f"{high}s"},
        "push_config": {
            "push_endpoint": uri,
            "oidc_token": {"service_account_email": _email(plan.push_account), "audience": uri},
        },
        # Pub/Sub loses dead letters until their topic has a subscription.
        "depends_on": [f"google_pubsub_subscription.{named(queue.dead_subscription)}"],
    }


def _email(account: str) -> str:
    return f"${{google_service_account.{named(account)}.email}}"


def _function(plan: Plan, function: Function) -> dict[str, Any]:
    service: dict[str, Any] = {
        "available_memory": f"{function.memory}Mi",
        "timeout_seconds": function.timeout,
        "min_instance_count": function.min_instances,
        "max_instance_count": function.max_instances,
        "max_instance_request_concurrency": function.concurrency,
        "environment_variables": {
            name: literal(value) for name, value in environment(plan, function).items()
        },
        "ingress_settings": function.ingress,
        "all_traffic_on_latest_revision": True,
        "service_account_email": _email(plan.runtime_account),
    }
    if function.cpu is not None:
        service["available_cpu"] = function.cpu
    source = {
        "bucket": "${google_storage_bucket.code.name}",
        "object": "${google_storage_bucket_object.code.name}",
    }
    build: dict[str, Any] = {
        "runtime": function.runtime,
        "entry_point": function.entry_point,
        "source": {"storage_source": source},
    }
    if plan.build_account is not None:
        build["service_account"] = f"projects/{plan.project}/serviceAccounts/{plan.build_account}"
    return {
        "name": function.name,
        "location": "${var.region}",
        "description": f"Runs tasks of {plan.app}: {', '.join(function.queues)}"[:200],
        "labels": dict(plan.labels),
        "build_config": build,
        "service_config": service,
    }


def environment(plan: Plan, function: Function) -> dict[str, str]:
    """All environment variables of a function."""
    own = {"CLOUDQ_BROKER": plan.broker, "CLOUDQ_BACKEND": plan.backend}
    if plan.payloads:
        own["CLOUDQ_PAYLOAD_STORE"] = plan.payloads.url
    return dict(sorted({**function.env, **own}.items()))


def _add_store(plan: Plan, resources: Resources) -> None:
    store = plan.store
    if store is None:
        return
    database: str = store.database
    if store.database != "(default)":  # most projects have that one, and others use it
        resources.add(
            "firestore_database",
            "results",
            {
                "name": store.database,
                "location_id": "${var.region}",
                "type": "FIRESTORE_NATIVE",
                "delete_protection_state": "DELETE_PROTECTION_ENABLED",
                **_KEPT,
            },
        )
        database = "${google_firestore_database.results.name}"
    for name in store.unindexed:
        values: dict[str, Any] = {
            "database": database,
            "collection": store.collection,
            "field": name,
            "index_config": {},  # no index at all
        }
        if name == store.ttl:
            values["ttl_config"] = {}
        resources.add("firestore_field", name, values)


def _payloads(plan: Plan, payloads: Payloads) -> dict[str, Any]:
    condition: dict[str, Any] = {"age": payloads.days}
    if payloads.prefix:
        condition["matches_prefix"] = [payloads.prefix]
    return {
        "name": payloads.bucket,
        "location": "${var.region}",
        "uniform_bucket_level_access": True,
        "public_access_prevention": "enforced",
        # Else what is deleted is kept, and billed, for another week.
        "soft_delete_policy": {"retention_duration_seconds": 0},
        "lifecycle_rule": [{"action": {"type": "Delete"}, "condition": condition}],
        "labels": dict(plan.labels),
        **_KEPT,
    }


def _granted(plan: Plan, grant: Grant) -> tuple[str, dict[str, Any]]:
    agent = f"serviceAccount:service-{_NUMBER}@gcp-sa-pubsub.iam.gserviceaccount.com"
    members = {
        "tasks": f"serviceAccount:{_email(plan.runtime_account)}",
        "push": f"serviceAccount:{_email(plan.push_account)}",
        "pubsub": agent,
    }
    given = {"role": grant.role, "member": members[grant.who]}
    place = named(grant.on)
    if grant.kind == "topic":
        return "pubsub_topic_iam_member", {"topic": f"${{google_pubsub_topic.{place}.id}}", **given}
    if grant.kind == "subscription":
        subscription = f"${{google_pubsub_subscription.{place}.id}}"
        return "pubsub_subscription_iam_member", {"subscription": subscription, **given}
    if grant.kind == "function":
        service = f"${{google_cloudfunctions2_function.{place}.name}}"
        values = {"service": service, "location": "${var.region}", **given}
        return "cloud_run_service_iam_member", values
    if grant.kind == "bucket":
        return "storage_bucket_iam_member", {
            "bucket": "${google_storage_bucket.payloads.name}",
            **given,
        }
    if grant.kind == "key":
        return "kms_crypto_key_iam_member", {"crypto_key_id": grant.on, **given}
    if grant.kind == "account":
        account = f"${{google_service_account.{place}.name}}"
        return "service_account_iam_member", {"service_account_id": account, **given}
    name = f"projects/${{var.project}}/databases/{grant.database}"
    condition = {
        "title": f"{plan.stack}: only its database",
        "expression": f'resource.name == "{name}"',
    }
    values = {"project": "${var.project}", "condition": condition, **given}
    return "project_iam_member", values


def _job(plan: Plan, job: Job) -> dict[str, Any]:
    topic = next(queue.topic for queue in plan.queues if queue.name == job.queue)
    return {
        "name": job.name,
        "region": "${var.region}",
        "description": literal(job.description),
        "schedule": job.expression,
        "time_zone": job.timezone,
        "paused": not job.enabled,
        "retry_config": {"retry_count": plan.retries},
        "pubsub_target": {
            "topic_name": f"${{google_pubsub_topic.{named(topic)}.id}}",
            "data": base64.b64encode(job.body.encode()).decode(),
        },
    }


# By metric: the type of resource, the label with its name, Google's metric, and its aligner.
_METRICS = {
    "age": (
        "pubsub_subscription",
        "subscription_id",
        "pubsub.googleapis.com/subscription/oldest_unacked_message_age",
        "ALIGN_MAX",
    ),
    "dead": (
        "pubsub_subscription",
        "subscription_id",
        "pubsub.googleapis.com/subscription/num_undelivered_messages",
        "ALIGN_MAX",
    ),
    "errors": (
        "cloud_run_revision",
        "service_name",
        "run.googleapis.com/request_count",
        "ALIGN_DELTA",
    ),
}


def _alert(plan: Plan, alert: Alert) -> dict[str, Any]:
    kind, label, metric, aligner = _METRICS[alert.metric]
    only = ' AND metric.labels.response_code_class = "5xx"' if alert.metric == "errors" else ""
    condition = {
        "filter": f'resource.type = "{kind}" AND resource.labels.{label} = "{alert.of}" AND '
        f'metric.type = "{metric}"{only}',
        "comparison": "COMPARISON_GT",
        "threshold_value": alert.threshold,
        "duration": "0s",
        "aggregations": [{"alignment_period": "300s", "per_series_aligner": aligner}],
    }
    return {
        "display_name": alert.name,
        "combiner": "OR",
        "conditions": [{"display_name": alert.name, "condition_threshold": condition}],
        "user_labels": dict(plan.labels),
        **({"notification_channels": list(plan.alarm_channels)} if plan.alarm_channels else {}),
    }


def _add_logs(plan: Plan, resources: Resources) -> None:
    """Add a log bucket, if logs are to be kept for another time than the project's."""
    if plan.log_retention == _DEFAULT_RETENTION:
        return
    bucket = f"{plan.stack}-tasks"
    resources.add(
        "logging_project_bucket_config",
        "logs",
        {
            "project": "${var.project}",
            "location": "${var.region}",
            "bucket_id": bucket,
            "retention_days": plan.log_retention,
        },
    )
    services = " OR ".join(f'"{each.name}"' for each in plan.functions)
    resources.add(
        "logging_project_sink",
        "logs",
        {
            "name": bucket,
            "destination": "logging.googleapis.com/${google_logging_project_bucket_config.logs.id}",
            "filter": 'resource.type = "cloud_run_revision" AND resource.labels.service_name = '
            f"({services})",
            "unique_writer_identity": True,
        },
    )
