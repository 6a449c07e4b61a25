"""The settings as a model of pydantic, which judges each value that is not plainly right."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Self, get_type_hints
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

import cloudq.settings as declared
from cloudq.amounts import CENTURY
from cloudq.driver.keys import key_bytes
from cloudq.driver.loader import check_scheme
from cloudq.errors import ConfigurationError, did_you_mean, plainly
from cloudq.settings.fields import MOST
from cloudq.settings.sources import WrongSource, config_file, variable_of
from cloudq.text import masked, text_of

KeyId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
# HMAC-SHA256 needs a key that is as long as its output.
Key = Annotated[SecretStr, Field(min_length=32)]


def _installed_format(name: Any) -> Any:
    known = declared.format_names()
    if name in known:
        return name
    quoted = [repr(each) for each in known]
    expected = " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))
    raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})


def _encryption_key(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if "://" in text:
        check_scheme("key", text)
        return secret
    try:
        key_bytes(text)
    except ValueError:
        raise ValueError(
            "base64 of 32 bytes is expected for each key, as cloudq keys new makes it"
        ) from None
    return secret


EncryptionKey = Annotated[SecretStr, AfterValidator(_encryption_key)]
Protocol = Annotated[str, BeforeValidator(_installed_format)]
# What these are, closer than their hints say.
_CLOSER: Mapping[str, Any] = {
    "signing_keys": dict[KeyId, Key],
    "encryption_keys": dict[KeyId, EncryptionKey],
    "queue_accept": dict[str, list[Protocol]],
    "queue_produce": dict[str, Protocol],
    "queue_limits": dict[
        str, dict[Literal["bytes", "depth", "age"], Annotated[float, Field(ge=0)]]
    ],
}

_NUMBERS = (int, float, int | None, float | None)
_SECRET = frozenset({"signing_keys", "signing_key", "encryption_keys", "encryption_key"})
# What pydantic says of keys and their ids, in plain words.
_OF_KEYS = {
    "string_pattern_mismatch": "the id of a key is 1 to 64 letters, digits, dots, _ and -",
    "too_short": "a key of at least 32 characters is expected",
    "dict_type": 'keys by their ids are expected, as {"2026-11": "..."}',
    "string_type": "each key and each id has to be a text",
}


class _Checks(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _numbers(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        """Refuse True and False, and what no service takes: times without end, huge counts."""
        if cls.model_fields[str(info.field_name)].annotation not in _NUMBERS:
            return handler(value)
        if isinstance(value, bool):
            raise ValueError("it must be a number")
        made = handler(value)
        if isinstance(made, float) and made > CENTURY:
            raise ValueError("it must be a number of seconds, a century at most")
        if isinstance(made, int) and made > MOST:
            raise ValueError(f"it must be {MOST:,} at most")
        return made

    @field_validator("result_serializer", mode="before", check_fields=False)
    @classmethod
    def _json_results(cls, name: Any) -> Any:
        if name != "json":
            raise ValueError(
                'results are always stored as JSON: leave it "json", or unset. task_serializer '
                "sets the serializer of arguments"
            )
        return name

    @field_validator("timezone", check_fields=False)
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            why = f"there is no time zone {name!r}: use one such as Europe/Vienna"
            raise ValueError(why) from error
        return name

    @model_validator(mode="after")
    def _has_its_keys(self) -> Self:
        for name in ("signing_key", "encryption_key"):
            key: Any = getattr(self, name, None)
            keys: Mapping[str, Any] = getattr(self, f"{name}s", {})
            if key is not None and key not in keys:
                known = ", ".join(map(repr, keys))
                ids = f"whose ids are {known}" if known else "and there are none: set them too"
                raise ValueError(f"{name} is not the id of one of the {name}s, {ids}")
        return self

    @model_validator(mode="after")
    def _waits_in_a_scheduler(self) -> Self:
        eta: Any = getattr(self, "scheduler_eta", None)
        if eta is not None and getattr(self, "scheduler", None) is None:
            raise ValueError(
                "scheduler_eta needs a scheduler: set `scheduler` to the URL of a cloud's scheduler"
            )
        return self


@cache
def model() -> type[BaseModel]:
    """Return the model, which is made of the declarations."""
    names = {**vars(declared), "SecretStr": SecretStr}
    hints = {**get_type_hints(declared.Settings, names, include_extras=True), **_CLOSER}
    fields: dict[str, Any] = {
        name: (
            hints[name],
            Field(default=field.default, description=field.description, **field.rules),
        )
        for name, field in declared.DECLARED.items()
    }
    return create_model("Settings", __base__=_Checks, **fields)


def validated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as the model takes them. Raises `ValidationError`."""
    made = model()(**values)
    return {name: getattr(made, name) for name in made.model_fields_set}


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as JSON has them; routes may be functions and classes, which it has not."""
    return model().model_construct(**values).model_dump(mode="json", fallback=text_of)


def explained(error: Exception, values: Mapping[str, Any]) -> ConfigurationError:
    """Return the error to raise for one of pydantic; `values` were given in code."""
    assert isinstance(error, ValidationError)
    named = [name for item in error.errors() for name in (item["loc"][:1] or values)]
    kind = WrongSource if values.keys().isdisjoint(named) else ConfigurationError
    return kind(_explain(error, values))


def _explain(error: ValidationError, values: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for item in error.errors():
        is_secret = not _SECRET.isdisjoint(item["loc"])
        name = ".".join(map(str, item["loc"][: 1 if is_secret else None])) or "settings"
        origin = _origin(name, values)
        if item["type"] == "extra_forbidden":
            known = f"known: {', '.join(declared.DECLARED)}"
            hint = did_you_mean(name, declared.DECLARED, otherwise=known)
            lines.append(f"there is no setting {name!r}{origin}: {hint}")
        else:
            # Keys are never shown, nor their ids, which may be keys, nor all settings at once.
            got = (
                f" (got {next(iter(masked({name: item['input']}).values()))!r})"
                if item["loc"] and not is_secret
                else ""
            )
            said = plainly(item["msg"])
            of_one = f"setting {name!r}{origin}: " if item["loc"] else ""
            if is_secret:  # what stands right behind the colon would be taken for a key
                of_one = f"setting {name!r}{origin} cannot be used: "
                said = _OF_KEYS.get(item["type"], said)
            lines.append(f"{of_one}{said}{got}")
    return "; ".join(lines)


def _origin(name: str, values: Mapping[str, Any]) -> str:
    """Name the source of a setting that was not given in code, for an error message."""
    setting = name.partition(".")[0]
    if setting in values:
        return ""
    if variable := variable_of(setting):
        return f" from {variable}"
    file = config_file()
    return f" in {file}" if file.is_file() else ""
