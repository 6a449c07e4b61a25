"""Fixtures of the whole suite: an environment that is nobody's own, and each cloud's services."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from cloudq.app.shared_task import APPS
from localstack.aws import MINISTACK, REGION
from localstack.azure import BLOBS, SERVICEBUS, TABLES
from localstack.google import FIRESTORE, PUBSUB, STORAGE
from localstack.servers import FOREIGN, Endpoint, Spec
from tests.servers import serving
from tests.support.models import read_once

pytest_plugins = ["tests.quick", "tests.support.fixtures", "tests.support.sharing"]

# How long an example takes says nothing on a machine that has other things to do.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Nothing that the collection of tests makes is garbage: see `pytest_runtestloop`.
gc.disable()

# A shell starts what it puts in the background with SIGINT ignored, and that is inherited: the
# programs that tests interrupt would not notice.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Make tests cheap that have been collected: their modules are passed over by the collector."""
    read_once()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def own_apps() -> Iterator[None]:
    """Undo, after each test, its choice of current app and the tasks it shares with all apps."""
    shared = list(APPS._definitions)  # pyright: ignore[reportPrivateUsage]
    yield
    APPS.set_current(None)
    APPS.set_default(None)
    APPS._definitions[:] = shared  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(scope="session", autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Keep the user's own clouds and set-up out of every test, with keys that are nobody's."""
    nowhere = tmp_path_factory.mktemp("nobody")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(FOREIGN) and name not in ("CLOUDQ_STATE", "CLOUDQ_DRILL"):
                patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", REGION)
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("AWS_CONFIG_FILE", str(nowhere / "config"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "credentials"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # Where the libraries look for what `gcloud auth` and `az login` have left.
        patch.setenv("CLOUDSDK_CONFIG", str(nowhere / "gcloud"))
        patch.setenv("NO_GCE_CHECK", "true")
        patch.setenv("AZURE_CONFIG_DIR", str(nowhere / "azure"))
        yield patch


@pytest.fixture(scope="session")
def aws(isolated: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A real server of SQS and DynamoDB, without docker (see localstack/up.py)."""
    with serving(MINISTACK) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def pubsub(shared: Callable[[Spec], Endpoint]) -> Endpoint:
    """Google's own emulator of Pub/Sub."""
    return shared(PUBSUB)


@pytest.fixture(scope="session")
def firestore(shared: Callable[[Spec], Endpoint]) -> Endpoint:
    """Google's own emulator of Firestore."""
    return shared(FIRESTORE)


@pytest.fixture(scope="session")
def storage(isolated: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An emulator of Google's Cloud Storage, which answers one request at a time."""
    with serving(STORAGE) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def tables(shared: Callable[[Spec], Endpoint]) -> Endpoint:
    """Microsoft's own emulator of Table storage."""
    return shared(TABLES)


@pytest.fixture(scope="session")
def blobs(shared: Callable[[Spec], Endpoint]) -> Endpoint:
    """Microsoft's own emulator of Blob storage."""
    return shared(BLOBS)


@pytest.fixture(scope="session")
def servicebus(isolated: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A Service Bus that the SDK takes for Microsoft's emulator (see localstack/servicebus/)."""
    with serving(SERVICEBUS) as endpoint:
        yield endpoint
