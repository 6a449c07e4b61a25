"""The fields of pydantic models as their own validation reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel, EncodedBytes, EncodedStr, Json
from pydantic.fields import FieldInfo

from cloudq.errors import EncodeError

Path = tuple[str | int, ...]

# Types that a model reads from text; they have no form of their own in a message.
_AS_TEXT = ("pydantic.networks", "ipaddress", "pathlib")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """The names and paths of one class's fields, and those that pydantic itself writes."""

    keys: dict[str, str]
    paths: dict[str, Path]
    encoded: frozenset[str]
    texts: frozenset[str]


def fields_of(model: BaseModel) -> dict[str, Any]:
    """Return a model's fields by the names under which its validation expects them.

    Values stay as they are, but for those that validation would decode once more (`Base64Bytes`,
    `Json`), and those that it reads from text (`HttpUrl`).
    """
    form = _form(type(model))
    keys = form.keys
    given = own_fields(model)
    if not (form.paths or form.encoded or form.texts):
        return {keys.get(name, name): item for name, item in given.items()}
    given |= _dumped(model, form)
    made = {keys.get(name, name): item for name, item in given.items() if name not in form.paths}
    for name, path in form.paths.items():
        if name in given:
            _put(made, path, given[name])
    return made


def own_fields(model: BaseModel) -> dict[str, Any]:
    """Return a model's fields and extra fields by name, without its cached properties."""
    known = type(model).model_fields
    own = {name: item for name, item in model.__dict__.items() if name in known}
    return own | (model.model_extra or {})


def _dumped(model: BaseModel, form: _Form) -> dict[str, Any]:
    """Return the fields that pydantic itself writes, in Python values or as JSON has them."""
    return _written(model, form.encoded, "python") | _written(model, form.texts, "json")


def _written(model: BaseModel, names: frozenset[str], mode: str) -> dict[str, Any]:
    """Have pydantic write fields. Raises `EncodeError`, which names the first that it cannot."""
    if not names:
        return {}
    try:
        return model.model_dump(include=set(names), mode=mode, round_trip=True, warnings=False)
    except Exception as error:  # also of a serializer of the user's own
        if len(names) > 1:
            for name in sorted(names):
                _written(model, frozenset({name}), mode)
        place = f"{type(model).__qualname__}.{min(names)}" if len(names) == 1 else "its fields"
        raise EncodeError(
            f"a {type(model).__module__}.{type(model).__qualname__} cannot be sent, for pydantic "
            f"cannot write {place}: {type(error).__name__}: {error}"
        ) from error


@lru_cache(maxsize=4096)
def _form(kind: type[BaseModel]) -> _Form:
    by_alias = kind.model_config.get("validate_by_alias", True)
    keys: dict[str, str] = {}
    paths: dict[str, Path] = {}
    for name, field in kind.model_fields.items():
        path = _path(field.validation_alias) if by_alias else None
        if path is not None and len(path) == 1:
            keys[name] = str(path[0])
        elif path is not None:
            paths[name] = path
    parts = {name: [*_parts(field)] for name, field in kind.model_fields.items()}
    texts = frozenset(name for name, inside in parts.items() if any(map(_is_text, inside)))
    encoded = frozenset(name for name, inside in parts.items() if any(map(_is_encoded, inside)))
    return _Form(keys=keys, paths=paths, encoded=encoded - texts, texts=texts)


def _path(alias: str | AliasPath | AliasChoices | None) -> Path | None:
    """Return where validation looks first; a plain name goes before a path."""
    if isinstance(alias, AliasChoices):
        plain = [choice for choice in alias.choices if isinstance(choice, str)]
        alias = next(iter([*plain, *alias.choices]), None)
    if isinstance(alias, AliasPath):
        return tuple(alias.path)
    return None if alias is None else (alias,)


def _put(made: dict[str, Any], path: Path, value: object) -> None:
    """Put a value at its path, making the dicts and lists on the way."""
    place: Any = made
    for step, following in zip(path, (*path[1:], None), strict=True):
        if isinstance(step, int):
            place += [None] * (step + 1 - len(place))
            inside = place[step]
        else:
            inside = place.get(step)
        if following is None:
            place[step] = value
        elif inside is None:
            inside = _empty(following)
            place[step] = inside
        place = inside


def _empty(step: str | int) -> Any:
    return [] if isinstance(step, int) else {}


def _parts(field: FieldInfo) -> Iterator[object]:
    """Yield the types and the annotations in a field's hint."""
    yield from field.metadata
    waiting: list[object] = [field.annotation]
    for _ in range(1000):
        if not waiting:
            return
        hint = waiting.pop()
        yield hint
        if get_origin(hint) is Annotated:
            yield from hint.__metadata__  # type: ignore[attr-defined]
        waiting += get_args(hint)


def _is_text(part: object) -> bool:
    module = part.__module__ if isinstance(part, type) else ""
    return module.startswith(_AS_TEXT)


def _is_encoded(part: object) -> bool:
    kinds: Any = EncodedBytes, EncodedStr, Json  # for type checkers Json is no class
    return isinstance(part, kinds) or part is Json
