"""Makes sessions of botocore that start fast: without boto3's own modules and the largest file.

botocore reads a megabyte of endpoints of all services for each session that makes a client, which
takes 7 MB and 50 ms, and then asks the rules of the service where it is. For a region of a
partition that it knows, all that it still takes from that file is what all services have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import botocore
from botocore.session import Session

_BUILTIN = Path(botocore.__file__).parent / "data"
# What the partitions' services have in common, as botocore's file of endpoints has it.
_DEFAULTS: Mapping[str, Any] = {
    "hostname": "{service}.{region}.{dnsSuffix}",
    "protocols": ["https"],
    "signatureVersions": ["v4"],
}


def session_of(profile: str | None) -> Session:
    """Return a session as boto3 makes one, with the credentials that it finds."""
    return Session(profile=profile)


def client_session(session: Session, region: str) -> Session:
    """Return a session to make clients of, for a region; the same where all endpoints are needed.

    It has the credentials of the other, whose own clients (STS, SSO) need all endpoints.
    """
    loader: Any = session.get_component("data_loader")
    variants = ("use_fips_endpoint", "use_dualstack_endpoint")
    if any(map(session.get_config_variable, variants)) or _has_own_endpoints(loader):
        return session
    partitions: Any = loader.load_data("partitions")
    if not any(region in each["regions"] for each in partitions["partitions"]):
        return session
    made = Session(profile=session.profile)
    made.register_component("data_loader", _Loader(loader, _endpoints(partitions)))
    made.register_component("credential_provider", _Credentials(session))
    return made


def _has_own_endpoints(loader: Any) -> bool:
    """Tell whether the user has a file of endpoints of their own."""
    folders = [Path(folder) for folder in loader.search_paths]
    return any((folder / "endpoints.json").exists() for folder in folders if folder != _BUILTIN)


def _endpoints(partitions: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "version": 3,
        "partitions": [
            {
                "partition": each["id"],
                "dnsSuffix": each["outputs"]["dnsSuffix"],
                "regionRegex": each["regionRegex"],
                "regions": each["regions"],
                "defaults": _DEFAULTS,
                "services": {},
            }
            for each in partitions["partitions"]
        ],
    }


class _Loader:
    """Loads botocore's data, with these endpoints in the place of its own."""

    def __init__(self, loader: Any, endpoints: Mapping[str, Any]) -> None:
        self._loader = loader
        self._endpoints = endpoints

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_data_with_path(self, name: str) -> tuple[Any, str]:
        """Return data, and the file that it is of."""
        if name == "endpoints":
            return self._endpoints, str(_BUILTIN / "endpoints.json")
        found: tuple[Any, str] = self._loader.load_data_with_path(name)
        return found


class _Credentials:
    """Gives the credentials of another session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def load_credentials(self) -> Any:
        """Return the credentials; None if there are none."""
        return self._session.get_credentials()
