"""What names a cloud takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloudq.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Naming:
    """The rules of a cloud: by kind of resource, how long its names are, and their pattern."""

    cloud: str
    rules: Mapping[str, tuple[int, str]]

    def check(self, kind: str, names: Iterable[str], where: str) -> None:
        """Raise `ConfigurationError` for a name the cloud refuses; `where` is to be changed."""
        longest, pattern = self.rules[kind]
        for name in names:
            if len(name) > longest:
                raise ConfigurationError(
                    f"{kind} {name}: that name has {len(name)} characters, and {self.cloud} takes "
                    f"{longest}: shorten {where}"
                )
            if not re.fullmatch(pattern, name):
                raise ConfigurationError(
                    f"{kind} {name!r}: {self.cloud} takes names like {pattern}: change {where}"
                )
