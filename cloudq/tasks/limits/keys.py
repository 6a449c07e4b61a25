"""The ordering and deduplication keys that a task gives its calls: `group_key=`, `dedup_key=`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from cloudq.driver.immutable import immutable
from cloudq.errors import CloudQError, ConfigurationError, InvalidArguments
from cloudq.tasks.arguments import Arguments
from cloudq.tasks.limits.rules import KeyRule, Throttle, check_template, fields_in, key_text


@immutable
class Keys:
    """The rules that make the keys of a task's calls; a key given with a call comes first."""

    group_key: KeyRule | None = None
    dedup_key: KeyRule | None = None

    def missing(
        self,
        arguments: Arguments,
        given: Mapping[str, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> dict[str, str]:
        """Make the keys that a call lacks; `given` has its own.

        Raises `InvalidArguments` if the arguments make no key.
        """
        found: dict[str, str] = {}
        task = arguments.name
        for option, rule in (("group_key", self.group_key), ("dedup_key", self.dedup_key)):
            if rule is None or given.get(option) is not None:
                continue
            try:
                found[option] = key_text(rule, arguments, args, kwargs)
            except CloudQError as error:
                raise InvalidArguments(f"{task}: {option}: {error}") from error
            except Exception as error:  # from the user's function, or a missing attribute
                raise InvalidArguments(
                    f"{task}: {option}: the arguments make no key: {type(error).__name__}: {error}"
                ) from error
            if not found[option]:
                raise InvalidArguments(f"{task}: {option}: the key of these arguments is empty")
        return found


class Later:
    """A placeholder for the values of a chord's members, used when its body is sent."""

    def __getattr__(self, name: str) -> Any:
        raise InvalidArguments("the values of a chord's members are read when its body runs")

    def __str__(self) -> str:
        return str(self.values)

    __repr__ = __str__

    def __getitem__(self, index: object) -> Any:
        return self.values


def keys_of(options: dict[str, Any]) -> Keys | None:
    """Take the keys out of a task's options; None if there are none.

    Raises `ConfigurationError`.
    """
    keys = Keys(
        group_key=_rule("group_key", options.pop("group_key", None)),
        dedup_key=_rule("dedup_key", options.pop("dedup_key", None)),
    )
    return None if keys == Keys() else keys


def _rule(option: str, given: Any) -> KeyRule | None:
    if given is None or callable(given) or (isinstance(given, str) and given):
        return cast("KeyRule | None", given)
    raise ConfigurationError(
        f'{option} is {given!r}: it must be a key like "user:{{user_id}}", or a function'
    )


def check_keys(task: str, keys: Keys | None, parameters: Sequence[str], *, open: bool) -> None:
    """Check that key templates name only the task's parameters.

    Raises `ConfigurationError`.
    """
    if keys is not None:
        check_template(task, "group_key", keys.group_key, parameters, open=open)
        check_template(task, "dedup_key", keys.dedup_key, parameters, open=open)


def check_shown(
    task: str, throttle: Throttle | None, keys: Keys | None, secret: frozenset[str]
) -> None:
    """Check that no key template names a secret parameter: a key is stored and shown as it is.

    Raises `ConfigurationError`.
    """
    rules: dict[str, object] = {}
    if throttle is not None and secret:
        concurrency = throttle.concurrency
        rules |= {"concurrency": concurrency and concurrency.key, "unique": throttle.unique}
    if keys is not None and secret:
        rules |= {"group_key": keys.group_key, "dedup_key": keys.dedup_key}
    for option, rule in rules.items():
        if isinstance(rule, str) and (shown := secret.intersection(fields_in(rule))):
            raise ConfigurationError(
                f"task {task}: {option} is {rule!r}, and {min(shown)} is secret: a key is shown. "
                "Give a function that returns a hash of it"
            )
