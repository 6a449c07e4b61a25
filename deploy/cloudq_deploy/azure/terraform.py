"""Renders a plan as Terraform's JSON, for the azurerm provider 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudq_deploy.azure.iam import Grant, grants
from cloudq_deploy.azure.plan import Alert, Payloads, Plan, Queue
from cloudq_deploy.terraform import literal
from cloudq_deploy.terraform import terraform_name as named

Configuration = dict[str, Any]

_KEPT = {"lifecycle": {"prevent_destroy": True}}
_GROUP = "${azurerm_resource_group.group.name}"
_IDENTITY = "azurerm_user_assigned_identity.tasks"
_CONTAINER = "deployments"
_DEDUP = "PT10M"


def configuration(plan: Plan) -> Configuration:
    """Render the plan; the variables are the location, the subscription and the zip."""
    resources = Resources()
    tags = {"tags": {name: literal(value) for name, value in plan.tags.items()}}
    placed = {"resource_group_name": _GROUP, "location": "${var.location}", **tags}
    group = {"name": plan.resource_group, "location": "${var.location}", **tags}
    resources.add("resource_group", "group", group)
    resources.add("user_assigned_identity", "tasks", {"name": plan.identity, **placed})
    resources.add("servicebus_namespace", "bus", _namespace(plan) | placed)
    for queue in plan.queues:
        resources.add("servicebus_queue", queue.name, _queue(plan, queue))
    _add_storage(plan, placed, resources)
    _add_logs(plan, placed, resources)
    sku = {"os_type": "Linux", "sku_name": "FC1"}
    resources.add("service_plan", "plan", {"name": f"{plan.stack}-plan", **sku, **placed})
    for number, grant in enumerate(grants(plan), start=1):
        resources.add("role_assignment", f"{grant.kind}-{number}", _granted(grant))
    resources.add("function_app_flex_consumption", "tasks", _function_app(plan) | placed)
    for alert in plan.alerts:
        resources.add("monitor_metric_alert", alert.name, _alert(plan, alert) | tags)
    return {
        "terraform": {
            "required_providers": {"azurerm": {"source": "hashicorp/azurerm", "version": "~> 4.40"}}
        },
        "provider": {"azurerm": {"features": {}, "subscription_id": "${var.subscription}"}},
        "variable": _variables(plan),
        "resource": resources.by_kind,
        "output": {"broker": {"value": plan.broker}, "backend": {"value": plan.backend}},
    }


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of a configuration, by kind and name."""

    by_kind: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def add(self, kind: str, name: str, values: dict[str, Any]) -> None:
        """Add a resource of the provider, whose kinds all begin with `azurerm_`."""
        self.by_kind.setdefault(f"azurerm_{kind}", {})[named(name)] = values


def _variables(plan: Plan) -> dict[str, Any]:
    return {
        "subscription": {"type": "string", "description": "The id of the subscription"},
        "location": {"type": "string", "default": plan.location},
        "zip": {
            "type": "string",
            "default": f"build/{plan.stack}-azure.zip",
            "description": "The zip that `cloudq deploy build azure` has written",
        },
    }


def _add_storage(plan: Plan, placed: Mapping[str, Any], resources: Resources) -> None:
    account = {
        "name": plan.account,
        "account_tier": "Standard",
        "account_replication_type": plan.replication,
        "min_tls_version": "TLS1_2",
        "allow_nested_items_to_be_public": False,
        **placed,
    }
    resources.add("storage_account", "store", account)
    container = {
        "name": _CONTAINER,
        "storage_account_id": "${azurerm_storage_account.store.id}",
        "container_access_type": "private",
    }
    resources.add("storage_container", "code", container)
    if plan.table is not None:
        name = "${azurerm_storage_account.store.name}"
        table = {"name": plan.table, "storage_account_name": name, **_KEPT}
        resources.add("storage_table", "results", table)

    if plan.payloads is not None:
        payloads = container | {"name": plan.payloads.container, **_KEPT}
        resources.add("storage_container", "payloads", payloads)
        resources.add("storage_management_policy", "store", _rules(plan.payloads))


def _rules(payloads: Payloads) -> dict[str, Any]:
    """The rules of the account, which has one list of them."""
    name = "${azurerm_storage_container.payloads.name}"
    rule = {
        "name": "cloudq-payloads",
        "enabled": True,
        "filters": {"blob_types": ["blockBlob"], "prefix_match": [f"{name}/{payloads.prefix}"]},
        "actions": {
            "base_blob": {"delete_after_days_since_modification_greater_than": payloads.days}
        },
    }
    return {"storage_account_id": "${azurerm_storage_account.store.id}", "rule": [rule]}


def _add_logs(plan: Plan, placed: Mapping[str, Any], resources: Resources) -> None:
    workspace = {
        "name": f"{plan.stack}-logs",
        "sku": "PerGB2018",
        "retention_in_days": max(plan.log_retention, 30),
        **placed,
    }
    resources.add("log_analytics_workspace", "logs", workspace)
    insights = {
        "name": f"{plan.stack}-insights",
        "application_type": "other",
        "workspace_id": "${azurerm_log_analytics_workspace.logs.id}",
        **placed,
    }
    resources.add("application_insights", "insights", insights)


def _namespace(plan: Plan) -> dict[str, Any]:
    premium = {"capacity": 1, "premium_messaging_partitions": 1} if plan.premium else {}
    return {
        "name": plan.namespace,
        "sku": "Premium" if plan.premium else "Standard",
        "local_auth_enabled": False,
        "minimum_tls_version": "1.2",
        **premium,
    }


def _queue(plan: Plan, queue: Queue) -> dict[str, Any]:
    ordered: dict[str, Any] = {}
    if queue.fifo:
        ordered = {
            "requires_session": True,
            "requires_duplicate_detection": True,
            "duplicate_detection_history_time_window": _DEDUP,
        }
    large = {"max_message_size_in_kilobytes": 102_400} if plan.premium else {}
    return {
        "name": queue.full_name,
        "namespace_id": "${azurerm_servicebus_namespace.bus.id}",
        "lock_duration": duration(queue.lock),
        "max_delivery_count": queue.max_delivery_count,
        "dead_lettering_on_message_expiration": True,
        **ordered,
        **large,
        **_KEPT,
    }


def duration(seconds: int) -> str:
    """Write a time span below an hour as in ISO 8601: 300 s are `PT5M`."""
    minutes, rest = divmod(seconds, 60)
    return "PT" + (f"{minutes}M" if minutes else "") + (f"{rest}S" if rest or not minutes else "")


def _key(on: str) -> str:
    """Return the resource id of a key: of a group, a vault and a name."""
    group, vault, name = on.split("/")
    provider = f"Microsoft.KeyVault/vaults/{vault}/keys/{name}"
    return f"/subscriptions/${{var.subscription}}/resourceGroups/{group}/providers/{provider}"


def _granted(grant: Grant) -> dict[str, Any]:
    if grant.kind == "key":
        return _assigned(grant, _key(grant.on))
    scopes = {
        "queue": f"${{azurerm_servicebus_queue.{named(grant.on)}.id}}",
        "table": "${azurerm_storage_table.results.resource_manager_id}",
        "account": "${azurerm_storage_account.store.id}",
    }
    return _assigned(grant, scopes[grant.kind])


def _assigned(grant: Grant, scope: str) -> dict[str, Any]:
    return {
        "scope": scope,
        "role_definition_name": grant.role,
        "principal_id": f"${{{_IDENTITY}.principal_id}}",
        "principal_type": "ServicePrincipal",
    }


def _function_app(plan: Plan) -> dict[str, Any]:
    function_app = plan.function_app
    endpoint = "${azurerm_storage_account.store.primary_blob_endpoint}"
    ready = [
        {"name": f"function:{queue.function}", "instance_count": queue.always_ready}
        for queue in plan.queues
        if queue.always_ready
    ]
    connection = "${azurerm_application_insights.insights.connection_string}"
    return {
        "name": function_app.name,
        "service_plan_id": "${azurerm_service_plan.plan.id}",
        "storage_container_type": "blobContainer",
        "storage_container_endpoint": f"{endpoint}${{azurerm_storage_container.code.name}}",
        "storage_authentication_type": "UserAssignedIdentity",
        "storage_user_assigned_identity_id": f"${{{_IDENTITY}.id}}",
        "runtime_name": "python",
        "runtime_version": function_app.python,
        "instance_memory_in_mb": function_app.memory,
        "maximum_instance_count": function_app.max_instances,
        "identity": {"type": "UserAssigned", "identity_ids": [f"${{{_IDENTITY}.id}}"]},
        "https_only": True,
        "webdeploy_publish_basic_authentication_enabled": False,
        "site_config": {"application_insights_connection_string": connection},
        "app_settings": settings(plan),
        "zip_deploy_file": "${var.zip}",
        **({"always_ready": ready} if ready else {}),
        # An app that starts before it has its rights fails.
        "depends_on": [
            f"azurerm_role_assignment.{named(f'{grant.kind}-{number}')}"
            for number, grant in enumerate(grants(plan), start=1)
        ],
    }


def settings(plan: Plan) -> dict[str, str]:
    """The app settings: variables of the app, and the identity for the host's connections."""
    client = f"${{{_IDENTITY}.client_id}}"
    managed = {"credential": "managedidentity", "clientId": client}
    bus = {"fullyQualifiedNamespace": f"{plan.namespace}.servicebus.windows.net", **managed}
    own = {
        "AZURE_CLIENT_ID": client,  # the identity that the adapters use
        "CLOUDQ_BROKER": plan.broker,
        "CLOUDQ_BACKEND": plan.backend,
        **({"CLOUDQ_PAYLOAD_STORE": plan.payload_store} if plan.payload_store else {}),
        **{f"ServiceBusConnection__{name}": value for name, value in bus.items()},
        "AzureWebJobsStorage__accountName": plan.account,
        **{f"AzureWebJobsStorage__{name}": value for name, value in managed.items()},
    }
    env = {name: literal(value) for name, value in plan.function_app.env.items()}
    return dict(sorted({**env, **own}.items()))


def _alert(plan: Plan, alert: Alert) -> dict[str, Any]:
    return {
        "name": alert.name.replace("/", "-"),
        "resource_group_name": _GROUP,
        "scopes": ["${azurerm_servicebus_namespace.bus.id}"],
        "frequency": "PT5M",
        "window_size": "PT5M",
        "criteria": {
            "metric_namespace": "Microsoft.ServiceBus/namespaces",
            "metric_name": alert.metric,
            "aggregation": "Maximum",
            "operator": "GreaterThan",
            "threshold": alert.threshold,
            "dimension": {"name": "EntityName", "operator": "Include", "values": [alert.of]},
        },
        **({"action": {"action_group_id": plan.action_group}} if plan.action_group else {}),
    }
