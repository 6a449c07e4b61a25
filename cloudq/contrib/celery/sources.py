"""The sources of a Celery project's settings: the program, its modules, the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CONFIG_MODULE = "CELERY_CONFIG_MODULE"
"""The variable that names the module of settings of an app that is given none."""

# These variables stand above what the program itself says, as in Celery.
_ABOVE = {
    "CELERY_BROKER_URL": "broker_url",
    "CELERY_BROKER_READ_URL": "broker_read_url",
    "CELERY_BROKER_WRITE_URL": "broker_write_url",
    "CELERY_RESULT_BACKEND": "result_backend",
}


@dataclass(slots=True, kw_only=True)
class Sources:
    """The names of the settings that an app was given, by their sources.

    `own` are those of the constructor and of `conf.update`, `defaults` those of `add_defaults`;
    `source` are the settings of the last `config_from_object`.
    """

    own: set[str] = field(default_factory=set[str])
    defaults: set[str] = field(default_factory=set[str])
    source: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def free(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the settings of a source that no other source stands above."""
        above = self.own | self.defaults
        return {name: value for name, value in found.items() if name not in above}


def of_environment() -> dict[str, str]:
    """Return the settings that the environment gives, above the program's own."""
    return {name: os.environ[each] for each, name in _ABOVE.items() if os.environ.get(each)}
