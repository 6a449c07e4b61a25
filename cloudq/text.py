"""Makes text that others wrote fit to be shown: one line, no control characters, no secrets.

All that cloudq logs and all that the command line prints passes through here. Task names, ids,
errors and arguments come from whoever can send a message. A terminal obeys escape sequences in
them, a line break forges a line of a log, and a bidirectional override reverses what is read.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import Enum
from functools import cache
from typing import Any, cast
from urllib.parse import unquote

HIDDEN = "***"
"""Stands for a secret."""
_CUT = "…"
# Deeper than any message may be, and as deep as the standard library's encoder may recurse.
_DEEPEST = 150
# Python refuses to write longer integers as decimals (`sys.set_int_max_str_digits`).
_LONGEST_INTEGER = 10_000

# C0, DEL and C1; invisible signs; marks and overrides of direction; line separators; surrogates
# without a partner. Joiners (U+200C, U+200D) are left, which words and emoji need.
_UNSAFE = (
    r"\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    r"\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
)
_ONE_LINE = f"[{_UNSAFE}]"
_BLOCK = f"(?!\n)[{_UNSAFE}]"
_SURROGATES = re.compile("[\ud800-\udfff]")

# ---- secrets

_WORDS = (
    r"secret|passw(?:or)?d|passphrase|pwd|credential|token|signature|authorization|cookie|sig(?=[_=])"
    r"|passcode|(?:api|access|account|shared|private|encryption|master|auth|session|license|ssh|hmac"
    r"|fernet|webhook)[_-]?key|signing[_-]?keys?"
)
# Names of values that are secret: client_secret, X-Amz-Signature, db_pass, AWS_SECRET_ACCESS_KEY.
_NAME = (
    rf"(?i){_WORDS}|(?:^|[_-])(?:pass|pw|auth|sig|sas|jwt|otp)$|(?:functions|subscription)-key$"
    r"|connection[_-]?string"
)
# Those that are followed by a colon in YAML, in headers and in prose; "token: " begins a reason.
_NAMED = (
    r"passw(?:or)?d|passphrase|pwd|(?<![a-z0-9])pass|(?:client|consumer)[_-]?secret"
    r"|(?:api|access|account|shared|private|encryption|functions|subscription)[_-]?key"
    r"|signing[_-]?keys"
)
# The quoted value, what stands in brackets, or up to what ends a parameter. A quote at the end
# belongs to who quotes it. What stands for a value in advice is shown, `servicebus://NAME?key=KEY`,
# and what our own messages say of a setting or an option after its name.
_VALUE = (
    r"(?!(?:KEY|NAME|SECRET|TOKEN|PASSWORD|VALUE|\.\.\.|…|\*\*\*)(?![\w.*-]))"
    r"(?!(?:did you mean|known:|it takes|it must|they come|(?:Input|Keys|Value) should) )"
    r"(?:'[^'\\]*(?:\\.[^'\\]*)*'|\"[^\"\\]*(?:\\.[^\"\\]*)*\"|\\\"[^\"\\]{0,512}\\\""
    r"|[\[({][^\])}]{0,512}[\])}]|(?:(?![\"'](?:[\s,;)}\]]|$))[^&;\s])+)"
)
# Before a parameter; a URL may be quoted as one of another.
_FIRST = r"(?:[?&;#]|%3F|%26|%23)"
# A text and the pattern that is tried where it is found; any, if it is empty.
# Every repetition is bounded or starts at a fixed word: an error of a megabyte takes linear time.
_SECRETS = (
    ("PRIVATE KEY", r"(-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----)(?:(?!-----)[\s\S])+"),
    # A signed token, whatever its name.
    ("eyJ", r"()\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+"),
    # The user and password of a URL, also where they contain "/" and "@". A port is none.
    (
        "://",
        r"(?<=://)()(?:[^\s/:@?#\"'<>]{0,64}:(?!\d{0,5}[/?#])[^\s\"'<>]{0,256}"
        r"|[^\s/?#\"'<>]{1,256})(?=@)",
    ),
    # The same where a URL is quoted as a parameter, or written as JavaScript's JSON.
    (
        "%",
        r"(?i)(%(?:25)?3a(?:%(?:25)?2f){2})(?:(?!%(?:25)?[23]f)[^\s\"'<>@/?&]){1,256}"
        r"(?=%(?:25)?40)",
    ),
    (":\\/", r"(:\\/\\/)[^\s/:@?#\"'<>]{0,64}:[^\s\"'<>]{0,256}(?=@)"),
    # Headers.
    (
        "",
        r"(?i)((?:\bauthorization[\"']?\s?[:=]\s?[\"']?|\bbearer\s)(?:bearer\s|basic\s)?)"
        r"(?!bearer\s|basic\s)[\w.~+/=-]{4,}",
    ),
    ("ookie", r"(?i)(\bcookie:\s?)[^\r\n]+"),
    # A parameter of a query: there "key" alone is a secret as well.
    (
        "",
        rf"(?i)({_FIRST}[\w.-]{{0,64}}?(?:key|sig|pass|pw|{_WORDS})[\w.-]{{0,64}}(?:=|%3D))"
        rf"{_VALUE}",
    ),
    ("code=", r"(?i)([?&]code=)[\w%~+/=-]{20,}"),  # a key of an Azure function
    # An assignment, in a connection string and in a repr; an entry of a dict or of JSON.
    ("=", rf"(?i)((?:{_WORDS}|(?<![a-z0-9])pass)[\w.-]{{0,64}}\s{{0,8}}=\s{{0,8}}){_VALUE}"),
    (":", rf"(?i)((?:{_WORDS}|(?<![a-z0-9])pass)[\w.-]{{0,64}}\\?[\"']\s?:\s?){_VALUE}"),
    (":", rf"(?i)((?:{_NAMED}):\s{{1,8}}){_VALUE}"),
    # An address that is a secret as a whole, since who has it may post.
    ("hooks", r"(?i)(//hooks\.slack\.com/[a-z]{1,16}/|/api/webhooks/\d{1,32}/)[\w/.-]+"),
    ("</", rf"(?i)(<\w{{0,64}}(?:{_WORDS})\w{{0,64}}>)[^<]+"),
)
# What every secret that is found has in or before it.
_SOME = re.compile(r"[=:<]|earer|%3|PRIVATE KEY|eyJ")
# Entries that name the value beside them, as those of a container's environment do.
_NAMES = ("name", "key")
# Settings that are URLs, here and in Celery.
_URLS = frozenset({"broker", "backend", "scheduler", "broker_url", "backend_url", "result_backend"})
_LONGEST_URL = 2000
_AT = r"(?i)@|%(?:25)*40"
# Before an "@" that ends no user and no password: what is hidden already, a file's path, and the
# start of a parameter's value, as in `?owner=me@example.com`.
_HARMLESS = (
    r"[\w+.-]+://(?:\*\*\*|/[^:?#]*"
    r"|(?:\*\*\*@)?[^\s@:?#]*(?::\d{1,5})?(?:/[^\s@:?#]*)?"
    r"\?(?:[^\s@#]*://\*\*\*|(?:[^\s@#]*&)?[\w.-]+=[^\s@:/&=#]*))"
)
# A parameter whose name is percent-encoded, in part or as a whole.
_QUOTED_NAME = rf"([?&;#]([\w.-]{{0,64}}%[\w.%-]{{1,128}})=){_VALUE}"


# At the first use: a start takes a tenth longer that compiles all, of which most need none.
@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@dataclass(frozen=True, slots=True)
class AsIs:
    """A value that is the user's own and is asked for: its secrets are not masked."""

    value: object


HIDING: ContextVar[Callable[[str], str] | None] = ContextVar("hiding", default=None)
"""What hides the secrets of the call that runs in this context; None for a call without any."""


def hidden(text: str) -> str:
    """Return a text without the secrets of the call that runs in this context."""
    return text if (hide := HIDING.get()) is None else hide(text)


def masked(value: Any, *, most: int = 0, longest: int = 0) -> Any:
    """Return the value with `***` for each secret: in URLs, connection strings, by their names.

    Mappings and sequences come back as dicts and lists, masked at every depth. `most` and
    `longest` are as those of `json_text`.
    """
    if isinstance(value, str):
        return _masked_text(_cut(value, longest))
    return _Plain(mask=True, most=most, longest=longest).of(value)


def _cut(text: str, longest: int) -> str:
    """Cut a long text; a quoted secret that does not end here ends with the rest."""
    if not longest or len(text) <= longest:
        return text
    return text[:longest].rstrip("\\") + f"'\"{_CUT}"


def masked_url(url: str) -> str:
    """Return what is meant as a URL with `***` for what may be secret in it, however it is written.

    A user and a password may stand where no URL has them, as in `user:password@host`.
    """
    text = _masked_text(url)
    ends = list(_compiled(_AT).finditer(text))
    last = ends[-1] if ends else None
    if last is not None:
        before = unquote(unquote(text[: last.start()]))
        if len(before) > _LONGEST_URL or _compiled(_HARMLESS).fullmatch(before) is None:
            scheme = _compiled(r"[\w+.-]+://").match(text)
            start = scheme[0] if scheme and scheme.end() <= last.start() else ""
            text = f"{start}{HIDDEN}@{text[last.end() :]}"
    shown, sign, _ = text.partition("#")
    return f"{shown}{sign}{HIDDEN}" if sign else shown


def _masked_text(text: str) -> str:
    text = hidden(text)
    if _SOME.search(text) is None:
        return text
    for needed, pattern in _SECRETS:
        if needed in text:
            text = _compiled(pattern).sub(_hide, text)
    return _compiled(_QUOTED_NAME).sub(_hide_quoted, text) if "%" in text else text


def _hide(found: re.Match[str]) -> str:
    # What was quoted stays quoted, so that JSON stays JSON.
    value = found[0][len(found[1]) :]
    quote = next((q for q in ("'", '"', '\\"') if value.startswith(q) and value.endswith(q)), "")
    return f"{found[1]}{quote}{HIDDEN}{quote}"


def _hide_quoted(found: re.Match[str]) -> str:
    name = unquote(unquote(found[2]))
    is_secret = _compiled(_NAME).search(name) or name.lower().endswith(("key", "sig"))
    return _hide(found) if is_secret else found[0]


# ---- control characters


def one_line(value: object) -> str:
    r"""Return the value as one line: what a terminal or a log would obey is written as `\x1b`."""
    text = text_of(value)
    return text if text.isprintable() else _compiled(_ONE_LINE).sub(_escape, text)


def block(value: object, *, indent: str = "") -> str:
    """Return the value with its line breaks; each line is made safe, and indented."""
    text = text_of(value).replace("\r\n", "\n").expandtabs(4)
    safe = _compiled(_BLOCK).sub(_escape, text)
    return "\n".join(indent + line for line in safe.split("\n")) if indent else safe


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def iso_time(moment: float | None) -> str | None:
    """Write a moment in epoch seconds as JSON has it everywhere: ISO 8601, in UTC.

    None for one that no calendar has.
    """
    if moment is None:
        return None
    try:
        return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # of the store: no calendar has it
        return None


def text_of(value: object) -> str:
    """Return `str(value)`, or what can be said of a value whose text cannot be made."""
    try:
        return str(value)
    except Exception as error:  # a class of the user's
        return f"<{type(value).__name__}: its text cannot be made, {type(error).__name__}>"


def describe(error: BaseException) -> str:
    """Return an error as a sentence: with its class where the text alone says little.

    The text of a `KeyError` is the bare key, and many exceptions have none.
    """
    text = text_of(error)
    if text and type(error).__module__ != "builtins":
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# ---- JSON


def json_text(
    value: object, *, indent: bool = False, mask: bool = True, most: int = 0, longest: int = 0
) -> str:
    """Return any value as JSON, without control characters; it never raises.

    What JSON lacks becomes text: NaN, bytes, objects, keys of other types, surrogates. With
    `most`, what follows after so many values is left out, and with `longest` what follows in a
    text after so many characters: to mask a megabyte takes a second.
    """
    tree = _Plain(mask=mask, most=most, longest=longest).of(value)
    separators = None if indent else (",", ":")
    text = json.dumps(tree, indent=2 if indent else None, separators=separators, ensure_ascii=False)
    return safe_json(text)


def safe_json(text: str) -> str:
    """Return JSON that is written already, with its control characters escaped as JSON does."""
    return text if text.isprintable() else _compiled(_BLOCK).sub(_json_escape, text)


def _json_escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]


def _like_url(text: str) -> bool:
    """Tell whether a text may be meant as a URL, and is no sentence of a user's."""
    return ":" in text or len(text.split()) == 1


class _Plain:
    """Turns a value into dicts, lists and scalars that every JSON encoder takes."""

    def __init__(self, *, mask: bool, most: int = 0, longest: int = 0) -> None:
        self._mask = mask
        self._longest = longest
        self._left = most or -1
        self._path: set[int] = set()

    def of(self, value: Any) -> Any:
        """Return the plain form; what raises is described in its place."""
        if self._left == 0:
            return _CUT
        self._left -= 1
        if value is None or value is True or value is False:
            return value
        try:
            return self._made(value)
        except Exception as error:  # methods of the user's classes run in here
            return f"<{type(value).__name__}: {type(error).__name__}>"

    def _made(self, value: Any) -> Any:
        place = id(value)
        if isinstance(value, AsIs):
            return _Plain(mask=False).of(value.value)
        if isinstance(value, Enum):
            return self.of(value.value)
        if isinstance(value, str):
            return self._text(str(value))
        if isinstance(value, int):
            size = int.bit_length(value)
            return int(value) if size <= _LONGEST_INTEGER else f"an integer of {size} bits"
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if isinstance(value, date | time):
            return value.isoformat()
        if place in self._path or len(self._path) >= _DEEPEST:
            return _CUT
        self._path.add(place)
        try:
            if isinstance(value, Mapping):
                return self._pairs(cast("Mapping[Any, Any]", value).items())
            if isinstance(value, list | tuple | Set):
                return self._items(cast("Iterable[Any]", value))
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                named = [field.name for field in dataclasses.fields(value) if field.repr]
                return self._pairs([(name, getattr(value, name)) for name in named])
            return self._text(text_of(value))
        finally:
            self._path.discard(place)

    def _text(self, text: str) -> str:
        text = _cut(text, self._longest)
        if self._mask:
            text = _masked_text(text)
        return text if text.isascii() else _SURROGATES.sub(_escape, text)

    def _pairs(self, pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        is_named = False  # as a secret, by the entry before: {"name": "DB_PASSWORD", "value": "x"}
        for key, value in pairs:
            name = self._key(key)
            while name in found:
                name += "_"
            is_secret = self._is_secret(name) or (is_named and name.lower() == "value")
            if is_secret:
                found[name] = self._hidden(value)
            elif self._mask and name in _URLS and type(value) is str and _like_url(value):
                found[name] = self._text(masked_url(value))
            else:
                found[name] = self.of(value)
            if name.lower() in _NAMES and isinstance(value, str):
                is_named = self._is_secret(value)
            if self._left == 0:
                break
        return found

    def _items(self, values: Iterable[Any]) -> list[Any]:
        found: list[Any] = []
        for value in values:
            # Headers and options are pairs too: [["Authorization", "..."]].
            is_paired = len(found) == 1 and isinstance(found[0], str) and self._is_secret(found[0])
            found.append(self._hidden(value) if is_paired else self.of(value))
            if self._left == 0:
                break
        return found

    def _is_secret(self, name: str) -> bool:
        return self._mask and len(name) <= 64 and _compiled(_NAME).search(name) is not None

    def _hidden(self, value: Any) -> Any:
        if isinstance(value, AsIs):
            return self.of(value)
        if value is None or isinstance(value, bool) or value == "":
            return value
        if isinstance(value, Mapping):
            # The names stay: ids of keys, names of hosts.
            return {self._key(name): HIDDEN for name in cast("Mapping[Any, Any]", value)}
        if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
            return [HIDDEN] * len(cast("Sequence[Any]", value))
        return HIDDEN

    def _key(self, key: Any) -> str:
        if key is None or isinstance(key, bool):
            return json.dumps(key)
        return self._text(text_of(key.value if isinstance(key, Enum) else key))
