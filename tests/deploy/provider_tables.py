"""Tables of the attributes of Terraform's providers, and a check of a configuration.

The tables in `providers/` are facts out of the typed schemas that HashiCorp published with its
CDK for Terraform (wheels `cdktf-cdktf-provider-google`, `-azurerm`, `-aws` on PyPI), for the
resource types that the renderers use. To make them anew, of wheels that pip has downloaded:

    python -m tests.deploy.provider_tables WHEEL...
"""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "providers"

USED = {
    "google": (
        "cloud_run_service_iam_member cloud_scheduler_job cloudfunctions2_function "
        "firestore_database firestore_field kms_crypto_key_iam_member "
        "logging_project_bucket_config logging_project_sink "
        "monitoring_alert_policy project_iam_member pubsub_subscription "
        "pubsub_subscription_iam_member pubsub_topic pubsub_topic_iam_member service_account "
        "service_account_iam_member storage_bucket storage_bucket_iam_member "
        "storage_bucket_object data_google_project"
    ),
    "azurerm": (
        "application_insights function_app_flex_consumption log_analytics_workspace "
        "monitor_metric_alert resource_group role_assignment service_plan servicebus_namespace "
        "servicebus_queue storage_account storage_container storage_management_policy "
        "storage_table user_assigned_identity"
    ),
    "aws": (
        "cloudwatch_log_group cloudwatch_metric_alarm data_aws_caller_identity data_aws_partition "
        "dynamodb_table iam_role iam_role_policy iam_role_policy_attachment lambda_alias "
        "lambda_event_source_mapping lambda_function lambda_function_recursion_config "
        "lambda_provisioned_concurrency_config s3_bucket s3_bucket_lifecycle_configuration "
        "s3_bucket_public_access_block scheduler_schedule scheduler_schedule_group "
        "sqs_queue"
    ),
}
# What every resource may have, whatever the provider.
_META = frozenset({"count", "depends_on", "for_each", "lifecycle", "provider"})
# What is named in an expression, alone or within one call of a function; `$${` is a text.
_REFERENCE = re.compile(r"(?<!\$)\$\{(?:[a-z0-9]+\()?([^{}()]+?)\)?\}")
Table = Mapping[str, Any]


# ---- a check


@cache
def table(provider: str) -> Table:
    """The table of a provider: its version, and resources with what they take and give."""
    return json.loads((HERE / f"{provider}.json").read_text())


def complaints(configuration: Mapping[str, Any], provider: str) -> list[str]:
    """List what the provider, or Terraform itself, would refuse in a JSON configuration."""
    known = table(provider)["resources"]
    found: list[str] = []
    for kind, named in configuration.get("resource", {}).items():
        for name, values in named.items():
            where = f"{kind}.{name}"
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name):
                found.append(f"{where}: not a name")
            if kind not in known:
                found.append(f"{where}: no such type of resource in the table")
            else:
                own = {key: value for key, value in values.items() if key not in _META}
                found += _wrong(own, known[kind]["takes"], where)
            for needed in values.get("depends_on", ()):
                found += _dangling(needed, configuration, known, where)
    for path in _references(configuration):
        found += _dangling(path, configuration, known, "${" + path + "}")
    return found


def _wrong(values: Mapping[str, Any], takes: Table, where: str) -> Iterator[str]:
    for name, value in values.items():
        if name not in takes:
            yield f"{where}: takes no {name}"
        else:
            yield from _mistyped(value, takes[name], f"{where}.{name}")
    for name, taken in takes.items():
        if taken.get("required") and name not in values:
            yield f"{where}: lacks {name}"


def _mistyped(value: Any, taken: Table, where: str) -> Iterator[str]:
    kind = taken["type"]
    if isinstance(value, str) and value.startswith("${") and value.endswith("}"):
        return
    if kind in ("block", "blocks"):
        many = value if isinstance(value, list) else [value]
        if kind == "block" and len(many) > 1:
            yield f"{where}: {len(many)} blocks, and there is one"
        for each in many:
            if isinstance(each, dict):
                yield from _wrong(each, taken["takes"], where)
            else:
                yield f"{where}: {each!r} is no block"
        return
    matches = {
        "string": isinstance(value, str),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
        "list": isinstance(value, list),
        "map": isinstance(value, dict),
    }
    if not matches.get(kind, True):
        yield f"{where}: {value!r} is no {kind}"
    elif kind == "map" and not all(isinstance(each, str) for each in value.values()):
        yield f"{where}: a value of the map is no string"


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _references(key)
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)
    elif isinstance(value, str):
        yield from _REFERENCE.findall(value)


def _dangling(path: str, configuration: Mapping[str, Any], known: Table, where: str) -> list[str]:
    first, *rest = re.sub(r"\[[^\]]*\]", "", path).split(".")
    if first == "var":
        return [] if rest[0] in configuration.get("variable", {}) else [f"{where}: no variable"]
    if not rest:
        return [f"{where}: names nothing"]
    place = configuration.get("data" if first == "data" else "resource", {})
    kind, *tail = rest if first == "data" else (first, *rest)
    name, *attributes = tail
    if name not in place.get(kind, {}):
        return [f"{where}: leads nowhere"]
    gives = known[f"data_{kind}" if first == "data" else kind]["gives"] if attributes else []
    if attributes and attributes[0] not in gives:
        return [f"{where}: {kind} gives no {attributes[0]}"]
    return []


# ---- the tables


def extract(wheel: Path) -> None:
    """Write the table of the provider whose wheel this is."""
    schema = _schema(wheel)
    provider = schema["name"].rpartition("provider-")[2]
    types = {name.split(".", 1)[1]: each for name, each in schema["types"].items()}
    resources: dict[str, Any] = {}
    for short in USED[provider].split():
        kind = short if short.startswith("data_") else f"{provider}_{short}"
        module, whole = _camel(short, first=False), _camel(short, first=True)
        config = types[f"{module}.{whole}Config"]
        resources[kind] = {
            "takes": _takes(config, types),
            "gives": sorted(
                _snake(each["name"])
                for each in types[f"{module}.{whole}"]["properties"]
                if not each["name"].endswith("Input") and each["name"] != "tfResourceType"
            ),
        }
    version = re.search(rf"hashicorp/{provider}/([0-9.]+)/docs", json.dumps(config))
    assert version is not None
    made = {
        "provider": f"hashicorp/{provider}",
        "version": version[1],
        "source": wheel.name,
        "resources": resources,
    }
    text = json.dumps(made, separators=(",", ":"), sort_keys=True)
    # A line for each type of resource, so that a change can be read.
    lines = re.sub(r'(?<=[{,])("(?:data_)?[a-z]+_[a-z0-9_]+":\{"gives")', r"\n\1", text)
    (HERE / f"{provider}.json").write_text(lines + "\n")


def _schema(wheel: Path) -> dict[str, Any]:
    with zipfile.ZipFile(wheel) as outer:
        name = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as inner:
            file = inner.extractfile("package/.jsii")
            assert file is not None
            return json.load(file)


# Of the constructs that the schema is written for, not of Terraform.
_FOREIGN = frozenset(
    {"connection", "count", "dependsOn", "forEach", "lifecycle", "provider", "provisioners"}
)


def _takes(struct: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for each in struct.get("properties", ()):
        if each["name"] in _FOREIGN:
            continue
        taken = _type(each["type"], types)
        if not each.get("optional"):
            taken["required"] = True
        made[_name(each)] = taken
    return made


def _name(property: Mapping[str, Any]) -> str:
    # The documentation's address has the name as Terraform writes it.
    text = json.dumps(property.get("docs", {}))
    found = re.search(r"/docs/[a-z-]+/[a-z0-9_]+#([a-z0-9_]+) ", text)
    return found[1] if found else _snake(property["name"])


def _type(given: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    if "union" in given:
        [given] = [each for each in given["union"]["types"] if "IResolvable" not in str(each)][:1]
    if "fqn" in given:
        struct = types[given["fqn"].split(".", 1)[1]]
        return {"type": "block", "takes": _takes(struct, types)}
    if "collection" in given:
        of = given["collection"]
        inner = _type(of["elementtype"], types)
        if inner["type"] == "block":
            return {"type": "blocks", "takes": inner["takes"]}
        return {"type": "map" if of["kind"] == "map" else "list"}
    return {"type": {"boolean": "bool"}.get(given["primitive"], given["primitive"])}


def _camel(name: str, *, first: bool) -> str:
    words = [word[:1].upper() + word[1:] for word in name.split("_")]
    return "".join(words) if first else name.split("_")[0] + "".join(words[1:])


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


if __name__ == "__main__":
    for given in sys.argv[1:]:
        extract(Path(given))
