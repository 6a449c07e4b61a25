"""The Azure services: Microsoft's Azurite for tables and blobs, and a Service Bus of our own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from localstack.servers import HOST, ROOT, Spec, UpError, install, run

ACCOUNT = "devstoreaccount1"
TABLE = "cloudq"
AZURITE = "azurite@3.35.0"


def _install_azurite(home: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UpError("no npm: Azurite is installed with it (on Debian, apt install npm)")
    run(
        [npm, "install", "--prefix", str(home), "--omit=dev", "--no-audit", "--no-fund", AZURITE],
        "npm install",
        "It needs a network, or a package mirror that npm is told of (npm config set registry):",
    )


def _azurite(service: str) -> Callable[[Sequence[int]], list[str]]:
    """Runs one service of Azurite, each of which is a program."""

    def command(ports: Sequence[int]) -> list[str]:
        node = shutil.which("node")
        if node is None:
            raise UpError("no Node.js: Azurite runs on it (on Debian, apt install nodejs npm)")
        home = install("azurite", (AZURITE,), _install_azurite)
        # The SDK asks for newer API versions, and for headers, than Azurite knows of.
        return [
            *(node, str(home / f"node_modules/azurite/dist/src/{service}/main.js")),
            *(f"--{service}Host", HOST, f"--{service}Port", str(ports[0])),
            *("--inMemoryPersistence", "--skipApiVersionCheck", "--loose"),
            *("--disableTelemetry", "--silent"),
        ]

    return command


TABLES = Spec(
    name="azurite",
    cloud="azure",
    services="Table storage",
    lacks="keys are checked, but not roles; a partition has no throughput limit",
    ports=(10002,),
    command=_azurite("table"),
    exports=lambda ports: {
        "CLOUDQ_BACKEND": f"aztables://{ACCOUNT}/{TABLE}"
        f"?endpoint=http://{HOST}:{ports[0]}/{ACCOUNT}",
    },
)
BLOBS = Spec(
    name="blobs",
    cloud="azure",
    services="Blob storage",
    lacks="keys are checked, but not roles; rules delete nothing",
    ports=(10000,),
    command=_azurite("blob"),
    exports=lambda _: {},
)
SERVICEBUS = Spec(
    name="servicebus",
    cloud="azure",
    services="Service Bus",
    lacks="topics and transactions; see localstack/servicebus/README.md",
    ports=(5672, 5300),
    command=lambda ports: [
        *(sys.executable, "-m", "localstack.servicebus"),
        *("--port", str(ports[0]), "--admin-port", str(ports[1])),
    ],
    settings=lambda _ports, _folder: {"PYTHONPATH": str(ROOT)},
    exports=lambda ports: {
        "CLOUDQ_BROKER": f"servicebus://{HOST}:{ports[0]}?emulator=true&admin={HOST}:{ports[1]}",
    },
    scheme="amqp",
)
