"""Google's own emulators of Pub/Sub and Firestore, without `gcloud`, and one of Cloud Storage."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from localstack.servers import HOST, Spec, UpError, python_module, run

PROJECT = "cloudq-local"
DATABASE = "cloudq"

# Short-lived servers with little to do: a quick start counts for more than the best code.
_JAVA_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Duser.language=en")


@functools.cache
def _gcloud_root(gcloud: str) -> Path:
    shown = run([gcloud, "info", "--format=value(installation.sdk_root)"], "gcloud info")
    return Path(shown.strip())


def sdk_root() -> Path:
    """Find the Cloud SDK, by `$CLOUDSDK_ROOT` or by asking `gcloud`. Raises `UpError`."""
    if given := os.environ.get("CLOUDSDK_ROOT"):
        return Path(given)
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        raise UpError(
            "no Google Cloud SDK: gcloud is not on the PATH. Install it"
            " (https://cloud.google.com/sdk/docs/install), or set CLOUDSDK_ROOT"
        )
    return _gcloud_root(gcloud)


def _emulator(
    pattern: str, main: str, component: str, package: str
) -> Callable[[Sequence[int]], list[str]]:
    """Runs the class `main` of a jar of the Cloud SDK."""

    def command(ports: Sequence[int]) -> list[str]:
        java = shutil.which("java")
        if java is None:
            raise UpError(
                "no Java: Google's emulators need a Java 11 or newer on the PATH"
                " (on Debian, apt install default-jre-headless)"
            )
        root = sdk_root()
        jars = sorted(root.glob(f"platform/{pattern}"))
        if not jars:
            raise UpError(
                f"no {component} in {root}: gcloud components install {component},"
                f" or with Google's Debian packages, apt install {package}"
            )
        listen = (f"--host={HOST}", f"--port={ports[0]}")
        return [java, *_JAVA_OPTIONS, "-cp", str(jars[-1]), main, *listen]

    return command


PUBSUB = Spec(
    name="pubsub",
    cloud="google",
    services="Pub/Sub",
    lacks="filters are ignored; StreamingPull gives about 2,000 messages a second",
    ports=(8085,),
    command=_emulator(
        "pubsub-emulator/lib/cloud-pubsub-emulator-*.jar",
        "com.google.cloud.pubsub.testing.v1.Main",
        "pubsub-emulator",
        "google-cloud-cli-pubsub-emulator",
    ),
    exports=lambda ports: {
        "PUBSUB_EMULATOR_HOST": f"{HOST}:{ports[0]}",
        "PUBSUB_PROJECT_ID": PROJECT,
        "CLOUDQ_BROKER": f"pubsub://{PROJECT}",
    },
    health="/",
    patience=60,
)
FIRESTORE = Spec(
    name="firestore",
    cloud="google",
    services="Firestore",
    lacks="expired documents stay; queries need no index; limits are loose",
    ports=(8086,),
    command=_emulator(
        "cloud-firestore-emulator/cloud-firestore-emulator*.jar",
        "com.google.cloud.datastore.emulator.firestore.CloudFirestore",
        "cloud-firestore-emulator",
        "google-cloud-cli-firestore-emulator",
    ),
    exports=lambda ports: {
        "FIRESTORE_EMULATOR_HOST": f"{HOST}:{ports[0]}",
        "CLOUDQ_BACKEND": f"firestore://{PROJECT}/{DATABASE}",
    },
    health="/",
    patience=60,
)
STORAGE = Spec(
    name="storage",
    cloud="google",
    services="Cloud Storage",
    lacks="one request at a time; lists have one page; rules delete nothing; nobody is refused",
    ports=(9023,),
    command=python_module(
        "storage",
        "gcp_storage_emulator",
        ("gcp-storage-emulator==2026.7.19", "google-crc32c==1.9.0"),
        lambda ports: ("start", "--host", HOST, "--port", str(ports[0]), "--in-memory", "--quiet"),
    ),
    exports=lambda ports: {"STORAGE_EMULATOR_HOST": f"http://{HOST}:{ports[0]}"},
    health="/",
)
