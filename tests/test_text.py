"""Text of others is made safe: no control characters, no secrets, JSON of anything."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from cloudq.errors import BrokerError, ConfigurationError
from cloudq.text import AsIs, block, describe, json_text, masked, masked_url, one_line

DANGEROUS = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff",
    "\ud800",
    "\udc80",
    "\U000e0041",
]


@pytest.mark.parametrize("sign", DANGEROUS)
def test_no_dangerous_character_is_left_in_a_line_or_in_json(sign: str) -> None:
    text = f"a{sign}b"
    assert sign not in one_line(text)
    assert len(one_line(text).splitlines()) == 1
    written = json_text({"x": text, text: [text]})
    assert sign not in written
    written.encode()
    if not 0xD800 <= ord(sign) < 0xE000:
        assert json.loads(written)["x"] == text


def test_letters_and_signs_of_all_languages_are_left() -> None:
    text = "Ärger, 寿司, \u0645\u06cc\u200c\u062e, 👩\u200d💻, a\u00a0b \\ 'x'"
    assert one_line(text) == text
    assert json.loads(json_text(text)) == text
    assert text in json_text(text).replace("\\\\", "\\")


def test_a_block_keeps_its_lines_and_nothing_else() -> None:
    assert block("a\r\n\tb\x1b[2J\rc\u2028d") == "a\n    b\\x1b[2J\\rc\\u2028d"
    assert block("a\nb", indent="  ") == "  a\n  b"


# ---- secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:pw@h:1/0", "redis://***@h:1/0"),
        ("amqps://user:p/a@s@h/x", "amqps://***@h/x"),
        ("postgres://u:p%40w@h/db?password=zz&x=1", "postgres://***@h/db?password=***&x=1"),
        ("no a://u:p@h nor b://v:q@i", "no a://***@h nor b://***@i"),
        ("https://b.s3/x?X-Amz-Signature=aa&a=3", "https://b.s3/x?X-Amz-Signature=***&a=3"),
        ("sqs://eu?aws_secret_access_key=abc", "sqs://eu?aws_secret_access_key=***"),
        ("'sqs://h?key=abc', next", "'sqs://h?key=***', next"),
        ("SMTP(user='u', password='a \"b', x=1)", "SMTP(user='u', password='***', x=1)"),
        ("{'client_secret': 'x y', 'a': 1}", "{'client_secret': '***', 'a': 1}"),
        ('{"token": "a"}', '{"token": "***"}'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("AccountName=x;AccountKey=Eby8==;", "AccountName=x;AccountKey=***;"),
        ("Authorization=Bearer abc.def", "Authorization=*** ***"),
        ("x://h?pass=a&pw=b&x=1", "x://h?pass=***&pw=***&x=1"),
        (
            "x://h?%70assword=a&Access%5FKey=b&a%20b=c",
            "x://h?%70assword=***&Access%5FKey=***&a%20b=c",
        ),
        ("to=sqs%3A%2F%2Fu%3Ap%40h%2Fx", "to=sqs%3A%2F%2F***%40h%2Fx"),
        ("to=sqs%253A%252F%252Fu%253Ap%2540h", "to=sqs%253A%252F%252F***%2540h"),
        ("to=https%3A%2F%2Fb%3Fsig%3Dab%26x%3D1 y", "to=https%3A%2F%2Fb%3Fsig%3D*** y"),
        ('{"url":"amqp:\\/\\/u:p@h"}', '{"url":"amqp:\\/\\/***@h"}'),
        ("x/api?code=AbC0123456789-_AbC0123456789==", "x/api?code=***"),
        ('{"password":"a\\"b"}', '{"password":"***"}'),
        ("password='a\\'b', x=1", "password='***', x=1"),
        ('"{\\"password\\": \\"a b\\"}"', '"{\\"password\\": \\"***\\"}"'),
        ("signing_keys={'k1': 'a', 'k2': 'b'}, x=1", "signing_keys=***, x=1"),
        ("{'tokens': ['a', 'b'], 'x': 1}", "{'tokens': ***, 'x': 1}"),
        ("db_pass=a pass = b compass=c", "db_pass=*** pass = *** compass=c"),
        ("password: a b", "password: *** b"),
        ("X-Api-Key: a\nx-functions-key: b", "X-Api-Key: ***\nx-functions-key: ***"),
        ("Set-Cookie: a=b; path=/\nx", "Set-Cookie: ***\nx"),
        ("<SecretAccessKey>a/b</SecretAccessKey>", "<SecretAccessKey>***</SecretAccessKey>"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nab\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----",
        ),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln of it", "got *** of it"),
        ("https://hooks.slack.com/services/T0/B0/x", "https://hooks.slack.com/services/***"),
        ("https://discord.com/api/webhooks/1/a-b", "https://discord.com/api/webhooks/1/***"),
        ("password  =  pw, x", "password  =  *** x"),
        ("private_key:   pw", "private_key:   ***"),
        ("Signing_key=pw hmac-key=pw passcode=pw", "Signing_key=*** hmac-key=*** passcode=***"),
        # What is no secret.
        ("?code=404 GET /x?code=retry", "?code=404 GET /x?code=retry"),
        ("token: Input should be valid", "token: Input should be valid"),
        ("no setting 'password': did you mean a?", "no setting 'password': did you mean a?"),
        ("no user and no password: they come from", "no user and no password: they come from"),
        ("'signing_keys': Keys should match", "'signing_keys': Keys should match"),
        ("bad signature: it has expired", "bad signature: it has expired"),
        ("https%3A%2F%2Fh%3A8080%2Fa%40b", "https%3A%2F%2Fh%3A8080%2Fa%40b"),
        ("http://h:8080/a@b", "http://h:8080/a@b"),
        ("sqlite:////home/a@b/x.db", "sqlite:////home/a@b/x.db"),
        ("group_key='g' idempotency_key=k", "group_key='g' idempotency_key=k"),
        ("write servicebus://NAME?key=KEY", "write servicebus://NAME?key=KEY"),
    ],
)
def test_secrets_in_text_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown


@dataclass
class _Mail:
    host: str
    password: str
    hidden: str = field(default="x", repr=False)


def test_secrets_are_masked_at_every_depth_by_their_names() -> None:
    value = {
        "a": [{"db_password": "p"}, ("Authorization", "Basic abc"), _Mail("h", "p")],
        "signing_keys": {"k1": SecretStr("s"), "k2": "s"},
        "urls": {"x": "amqp://u:p@h"},
        "api_key": None,
        "keys": {"name": "kept"},
        "environment": [{"name": "DB_PASSWORD", "value": "p"}, {"Key": "a", "Value": "kept"}],
    }
    assert masked(value) == {
        "a": [{"db_password": "***"}, ["Authorization", "***"], {"host": "h", "password": "***"}],
        "signing_keys": {"k1": "***", "k2": "***"},
        "urls": {"x": "amqp://***@h"},
        "api_key": None,
        "keys": {"name": "kept"},
        "environment": [{"name": "DB_PASSWORD", "value": "***"}, {"Key": "a", "Value": "kept"}],
    }
    assert json.loads(json_text({"password": AsIs("p"), "b": AsIs({"password": "p"})})) == {
        "password": "p",
        "b": {"password": "p"},
    }


def test_errors_that_quote_a_url_show_no_secret() -> None:
    url = "sqs://user:hunter2@eu?key=hunter2"
    for error in (ConfigurationError(f"bad {url}"), BrokerError(f"bad {url}", code="unknown")):
        assert "hunter2" not in f"{error} {error!r}"
        assert "sqs://***@eu?key=***" in str(error)


@pytest.mark.parametrize(
    "part",
    [
        *("password='", "x?a=", "token=a ", "a://b:", "://", "sig=", "aa", "password=(", "<token>"),
        *("%3a%2f%2f", "password='\\'", 'token=\\"', "eyJaaaaaaaa.", "-----BEGIN PRIVATE KEY-----"),
        *("cookie: ", "?%41%41", "password: [", "&aaaaaaaaaaaaaaaaaaaaaaaaaaa", ":\\/\\/"),
    ],
)
def test_a_long_text_is_masked_in_linear_time(part: str) -> None:
    text = part * (500_000 // len(part))
    start = time.process_time()
    one_line(masked(text))
    assert time.process_time() - start < 2


def test_an_error_is_a_sentence() -> None:
    assert describe(KeyError("x")) == "KeyError: 'x'"
    assert describe(TimeoutError()) == "TimeoutError"
    assert describe(ConfigurationError("do that")) == "do that"
    assert describe(ConfigurationError()) == "ConfigurationError"


# ---- JSON of anything


class _Raises:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class _RaisingDict(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("no items")


class _Colour(Enum):
    RED = "red"


def test_what_json_lacks_is_written_as_text() -> None:
    value = {
        1: 2**70,
        "1": float("nan"),
        None: float("-inf"),
        (1, 2): {3},
        "long": 10**5000,
        "raises": _Raises(),
        "items": _RaisingDict(a=1),
        "bytes": b"\xff",
        "when": datetime(2030, 1, 2, tzinfo=UTC),
        "id": UUID(int=1),
        "enum": _Colour.RED,
        _Colour.RED: "\ud800",
        _Raises(): 1,
    }
    read = json.loads(json_text(value))
    assert read["1"] == 2**70
    assert read["1_"] == "nan"
    assert read["null"] == "-inf"
    assert read["(1, 2)"] == [3]
    assert read["long"] == "an integer of 16610 bits"
    assert read["raises"] == "<_Raises: its text cannot be made, RuntimeError>"
    assert read["items"] == "<_RaisingDict: RuntimeError>"
    assert read["when"] == "2030-01-02T00:00:00+00:00"
    assert (read["enum"], read["red"]) == ("red", "\\ud800")
    assert read["id"] == str(UUID(int=1))
    assert len(read) == len(value)


def test_what_contains_itself_or_is_deep_ends() -> None:
    circle: list[Any] = []
    circle.extend([circle, circle])
    assert json.loads(json_text(circle)) == ["…", "…"]
    deep: Any = ()
    for _ in range(100_000):
        deep = (deep,)
    assert len(json_text(deep)) < 1000
    laughs: list[Any] = ["ha"]
    for _ in range(64):
        laughs = [laughs, laughs]
    assert len(json_text(laughs, most=1000)) < 10_000


_CHARACTERS = st.text(st.characters())
_ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.none(), inner),
    max_leaves=20,
)


@given(_ANY)
def test_any_value_is_one_safe_line_of_json(value: Any) -> None:
    line = json_text(value)
    json.loads(line)
    assert one_line(line) == line


PW = "hunter2"
# No URLs, or not those that were meant: each with a user and a password, or a key.
MALFORMED = [
    f"u:{PW}@host",
    f"{PW}@host",
    f"sqs:u:{PW}@r",
    f"sqs:/u:{PW}@r",
    f"sqs//u:{PW}@r",
    f"//u:{PW}@r",
    f" sqs://u:{PW}@r",
    f"sqs:// u:{PW}@x",
    f"sqs://u:{PW} x@h",
    f"sqs://u:{PW}@",
    f"sqs://u:x/{PW}@h",
    f"u:x?{PW}@h",
    f"u:x#{PW}@h",
    f"u:{PW}@{PW}@h",
    f"sqs://h?k=a@b@{PW}@d",
    f"sqs://eu?x=u:{PW}@h",
    f"u:{PW}%40h",
    f"u%3A{PW}%40h",
    f"u%253A{PW}%2540h",
    f"sqs://eu?endpoint_url=http%3A%2F%2Fu%3A{PW}%40h",
    f"sqs://u:{PW * 300}@h",
    f"sqs://eu-west-1#key={PW}",
    f"sqs://eu-west-1#{PW}",
    f"sqs://eu-west-1?a=b#%6Bey={PW}",
    f"sqs://eu-west-1?%6Bey={PW}",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_setting_that_is_meant_as_a_url_shows_no_password(url: str) -> None:
    shown = masked_url(url)
    assert PW not in shown
    assert masked_url(shown) == shown
    for name in ("broker", "backend", "scheduler"):
        assert PW not in repr(masked({name: url}))
        assert PW not in json_text({name: url})


@pytest.mark.parametrize(
    "url",
    [
        "sqs://eu-west-1",
        "none",
        "sqlite:///home/a@b/q.db",
        "sqlite:///C:/x/q.db",
        "sqs://eu-west-1?prefix=a@b&endpoint_url=http://localhost:4566",
        "cloudscheduler://P/L?service_account=me@p.iam.gserviceaccount.com",
    ],
)
def test_a_url_without_a_secret_is_shown_as_it_is(url: str) -> None:
    assert masked_url(url) == url


def test_time_for_many_signs_grows_with_their_number_and_not_its_square() -> None:
    start = time.process_time()  # another process may have the machine
    for text in ("@" * 10**5, "x://" + "/@" * 10**5, "a=b&" * 10**5 + "@", "%40" * 10**5):
        masked_url(text)
    assert time.process_time() - start < 60
