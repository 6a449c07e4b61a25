"""Makes clients of Firestore for one collection of a database from a backend's URL."""

# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import re
from dataclasses import dataclass

from google.cloud.firestore_admin_v1.services.firestore_admin import FirestoreAdminClient
from google.cloud.firestore_v1.services.firestore import FirestoreClient

from cloudq.driver import Address
from cloudq.errors import ConfigurationError
from cloudq_gcp.client import Channel, access, client

_DATABASE = re.compile(r"\(default\)|[a-z][a-z0-9-]{2,61}[a-z0-9]")
# A collection's id is part of a path, and Firestore keeps names such as __a__ for itself.
_COLLECTION = re.compile(r"(?!\.{1,2}$|__.*__$)[^/]{1,500}")
# Whose rights the emulator takes a request for; without, it asks the rules for web clients.
_OWNER = (("authorization", "Bearer owner"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A collection of a database, and the open connection to it."""

    database: str
    """The database's name, as the API has it."""
    collection: str
    host: str
    channel: Channel
    emulated: bool

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of each request."""
        routing = (("google-cloud-resource-prefix", self.database),)
        return routing + _OWNER if self.emulated else routing

    def client(self) -> FirestoreClient:
        """A client for documents, safe from many threads."""
        return client(FirestoreClient, self.channel, self.host)

    def admin(self) -> FirestoreAdminClient:
        """A client for the database itself."""
        return client(FirestoreAdminClient, self.channel, self.host)


def connect(address: Address) -> Place:
    """Read the URL and find credentials. Raises `ConfigurationError`; sends no request."""
    if not _COLLECTION.fullmatch(address.path):
        raise ConfigurationError(
            f"{address.url or 'firestore://'} names no collection:"
            " one is written firestore://my-project/cloudq"
        )
    database = address.options.get("database") or "(default)"
    if not _DATABASE.fullmatch(database):
        raise ConfigurationError(
            f'"{database}" in {address.url} is no name of a Firestore database'
        )
    reach = access(address, options=("database",), emulator_variable="FIRESTORE_EMULATOR_HOST")
    host = reach.emulator or reach.endpoint or FirestoreClient.DEFAULT_ENDPOINT
    return Place(
        database=f"projects/{reach.project}/databases/{database}",
        collection=address.path,
        host=host,
        channel=reach.channel(host, plain=reach.emulator is not None),
        emulated=reach.emulator is not None,
    )
