"""Says who may look and who may operate: passwords, tokens, and users that a proxy names."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from cloudq.amounts import counted
from cloudq.errors import ConfigurationError
from cloudq.text import one_line

# scrypt with 32 MB and about 50 ms a try: a stolen file is dear to search.
_N, _R, _P = 2**15, 8, 1
_MEMORY = 64 * 1024 * 1024
_NAME = re.compile(r"[\w.@+-]{1,100}")
_SHORTEST_TOKEN, _LONGEST = 16, 1024

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Role(StrEnum):
    """The rights of a user: `look` reads, without arguments; `operate` acts too."""

    LOOK = "look"
    OPERATE = "operate"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody who uses the dashboard, by name."""

    name: str
    role: Role

    @property
    def may_operate(self) -> bool:
        """Tell whether the role allows actions, and the sight of arguments."""
        return self.role is Role.OPERATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Password:
    """A user with the hash of a password, as `hash_password` writes it."""

    user: User
    hashed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The ways in. With none of them everybody who reaches the port is let in, as `open_role`.

    `tokens` maps a token to its user. `proxies` (addresses or networks) are believed when they say
    for whom they ask, and whether by https; `proxy_header` names the header in which they say who
    has signed in there, and such a user has `proxy_role`.
    """

    passwords: Sequence[Password] = ()
    tokens: Mapping[str, User] = field(default_factory=dict[str, User])
    proxy_header: str | None = None
    proxies: Sequence[Network] = ()
    proxy_role: Role = Role.LOOK
    open_role: Role = Role.OPERATE

    @property
    def is_open(self) -> bool:
        """Tell whether nobody has to sign in."""
        return not (self.passwords or self.tokens or self.proxy_header)

    @property
    def signs_in(self) -> bool:
        """Tell whether there is a form to sign in with."""
        return bool(self.passwords or self.tokens)

    @property
    def open_user(self) -> User:
        """The user of a dashboard without users."""
        return User(name="local", role=self.open_role)

    def knows(self, name: str) -> bool:
        """Tell whether there is a password of this name."""
        return any(each.user.name == name for each in self.passwords)

    def by_password(self, name: str, password: str) -> User | None:
        """Return the user with this password; as slow for an unknown name as for a known one."""
        if len(password) > _LONGEST:
            return None
        known = {each.user.name: each for each in self.passwords}
        found = known.get(name)
        fits = _fits(password, found.hashed if found else _NOBODY)
        return found.user if found is not None and fits else None

    def by_token(self, token: str) -> User | None:
        """Return the user of a token. Every known token is compared, each in constant time."""
        given, found = token.encode(errors="replace"), None
        for known, user in self.tokens.items():
            if hmac.compare_digest(given, known.encode()):
                found = user
        return found

    def by_proxy(self, peer: str | None, headers: Mapping[str, str]) -> User | None:
        """Return the user that a trusted proxy names; None where another peer names one."""
        if self.proxy_header is None or not self.is_proxy(peer):
            return None
        name = headers.get(self.proxy_header, "")
        return User(name=name, role=self.proxy_role) if _NAME.fullmatch(name) else None

    def client(self, peer: str, headers: Mapping[str, str]) -> str:
        """Return the address of a browser: the one that a trusted proxy tells, else the peer's."""
        if not self.is_proxy(peer):
            return peer
        return headers.get("x-forwarded-for", "").rpartition(",")[2].strip()[:100] or peer

    def is_proxy(self, peer: str | None) -> bool:
        """Tell whether an address is that of a trusted proxy."""
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:
            return False
        return any(address in network for network in self.proxies)


def access(
    *,
    passwords: Path | None = None,
    token: str | None = None,
    proxy_header: str | None = None,
    proxies: Sequence[str] = (),
    role: Role | str | None = None,
) -> Access:
    """Make the ways in from a file of passwords, a token, or a header of a trusted proxy.

    `role` is that of the token, of the proxy's users, and of everybody where there are no users:
    left out, it is `operate` where there are none, else `look`. Users in the file have roles of
    their own. Raises `ConfigurationError`.
    """
    given = None if role is None else role_of(str(role), "role")
    if proxy_header is not None and not proxies:
        raise ConfigurationError(
            f"the header {proxy_header!r} is believed from a named proxy only: name its address, "
            "such as --proxy 10.0.0.5"
        )
    if token is not None and not _SHORTEST_TOKEN <= len(token) <= _LONGEST:
        raise ConfigurationError(
            f"the token has {counted(len(token), 'character')}: it needs {_SHORTEST_TOKEN} at "
            f"least, {_LONGEST:,} at most, such as those of "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'`"
        )
    user = User(name="token", role=given or Role.LOOK)
    return Access(
        passwords=read_passwords(passwords) if passwords is not None else (),
        tokens={} if token is None else {token: user},
        proxy_header=proxy_header.lower() if proxy_header else None,
        proxies=[_network(each) for each in proxies],
        proxy_role=given or Role.LOOK,
        open_role=given or Role.OPERATE,
    )


def read_passwords(path: Path) -> list[Password]:
    """Read lines of `name:role:hash`. Raises `ConfigurationError` that names the line."""
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"there is no file of passwords {path}: `cloudq dashboard --add-user NAME` prints a "
            "line for it"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the passwords in {path}: {error}") from error
    found: list[Password] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        role, _, hashed = rest.partition(":")
        place = f"{path}, line {number}"
        if not _NAME.fullmatch(name) or _parts(hashed) is None:
            raise ConfigurationError(
                f"{place}: it is no line NAME:ROLE:HASH (`cloudq dashboard --add-user NAME` makes "
                "one)"
            )
        found.append(Password(user=User(name=name, role=role_of(role, place)), hashed=hashed))
    if not found:
        raise ConfigurationError(
            f"{path} names no user: `cloudq dashboard --add-user NAME` makes a line for it"
        )
    return found


def line_of(name: str, password: str, role: Role) -> str:
    """Write the line of a user for the file of passwords. Raises `ConfigurationError`."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{one_line(name)[:100]!r} is no name of a user: use letters, digits, and . @ + - _"
        )
    if not 8 <= len(password) <= _LONGEST:
        raise ConfigurationError("a password needs 8 characters at least")
    return f"{name}:{role}:{hash_password(password)}"


def hash_password(password: str) -> str:
    """Hash a password with scrypt and a salt of its own."""
    salt = secrets.token_bytes(16)
    hashed = _scrypt(password, salt, _N, _R, _P)
    return f"scrypt${_N}${_R}${_P}${b64encode(salt).decode()}${b64encode(hashed).decode()}"


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    raw = password.encode(errors="replace")
    return hashlib.scrypt(raw, salt=salt, n=n, r=r, p=p, maxmem=_MEMORY)


def _parts(hashed: str) -> tuple[int, int, int, bytes, bytes] | None:
    kind, *parts = hashed.split("$")
    if kind != "scrypt" or len(parts) != 5:
        return None
    try:
        n, r, p = map(int, parts[:3])
        salt, digest = (b64decode(part, validate=True) for part in parts[3:])
    except ValueError:
        return None
    # What a file asks for must not be cheap to search, nor more than this process gives.
    fits = 2**14 <= n <= 2**16 and 8 <= r <= 16 and 1 <= p <= 4 and 128 * n * r < _MEMORY
    return (n, r, p, salt, digest) if fits and len(digest) >= 32 and len(salt) >= 8 else None


def _fits(password: str, hashed: str) -> bool:
    parts = _parts(hashed)
    if parts is None:
        return False
    n, r, p, salt, digest = parts
    return hmac.compare_digest(_scrypt(password, salt, n, r, p), digest)


_NOBODY = f"scrypt${_N}${_R}${_P}${b64encode(bytes(16)).decode()}${b64encode(bytes(64)).decode()}"


def role_of(text: str, place: str) -> Role:
    """Read the name of a role. Raises `ConfigurationError`."""
    try:
        return Role(text)
    except ValueError:
        known = " or ".join(Role)
        raise ConfigurationError(
            f"{place}: {one_line(text)[:40]!r} is no role: it is {known}"
        ) from None


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigurationError(
            f"the proxy {one_line(text)[:60]!r} is no address and no network such as 10.0.0.5 or "
            f"10.0.0.0/24: {error}"
        ) from None
