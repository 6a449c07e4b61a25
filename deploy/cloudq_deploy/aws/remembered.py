"""Options of the last apply that its command line gave: they stand until the project says others.

They lie in the template's metadata, each with what `[tool.cloudq.deploy]` said at that time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudq.messages.values import is_object

NAMES = ("architecture", "functions", "runtime")
_SECTION = "cloudq"


def metadata(given: Mapping[str, Any], stated: Mapping[str, Any], chosen: object) -> dict[str, Any]:
    """Return the part of a template that remembers the options given; empty if there are none."""
    kept = {
        name: {"given": getattr(chosen, name), "stated": stated.get(name)}
        for name in NAMES
        if name in given
    }
    return {"Metadata": {_SECTION: kept}} if kept else {}


def again(
    template: Mapping[str, Any], given: Mapping[str, Any], stated: Mapping[str, Any]
) -> dict[str, str]:
    """Return the remembered options that neither the command line nor the project now overrides."""
    section = template.get("Metadata")
    kept = section.get(_SECTION) if is_object(section) else None
    found: dict[str, str] = {}
    for name in NAMES:
        entry = kept.get(name) if is_object(kept) else None
        if name in given or not is_object(entry) or entry.get("stated") != stated.get(name):
            continue
        value = entry.get("given")
        if isinstance(value, str) and value != stated.get(name):
            found[name] = value
    return found
