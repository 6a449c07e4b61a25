"""The arguments of tasks that are declared with `typing=False`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloudq.errors import InvalidArguments
from cloudq.tasks.arguments import Arguments, Validate


class Unchecked(Arguments):
    """Passes on arguments that do not fit the function's parameters: the call of it tells."""

    def _each(
        self, validate: Validate, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        try:
            self.fit(args, kwargs)
        except InvalidArguments:
            return args, kwargs
        return super()._each(validate, args, kwargs)
