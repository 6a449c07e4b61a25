"""Checks names of resources against the rules of a cloud."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloudq.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Naming:
    """The rules of a cloud for names: the longest length and the pattern, by kind of resource."""

    cloud: str
    rules: Mapping[str, tuple[int, str]]

    def check(self, kind: str, names: Iterable[str], where: str) -> None:
        """Raise `ConfigurationError` for a name that the cloud refuses.

        `where` tells the user the place to change the name at.
        """
        longest, pattern = self.rules[kind]
        for name in names:
            if len(name) > longest:
                raise ConfigurationError(
                    f"{kind} {name}: the name has {len(name)} characters, and {self.cloud} allows "
                    f"{longest}: shorten {where}"
                )
            if not re.fullmatch(pattern, name):
                raise ConfigurationError(
                    f"{kind} {name!r}: {self.cloud} allows names that match {pattern}: change "
                    f"{where}"
                )
