"""The AWS services: ministack, or LocalStack itself, each in a virtual environment of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from localstack.servers import HOST, Spec, python_module

REGION = "us-east-1"
TABLE = "cloudq"


def _ministack_settings(ports: Sequence[int], folder: Path) -> dict[str, str]:
    # IOT_MTLS_ENABLED opens a second, fixed port; two servers would fight over it.
    return {
        "BIND_HOST": HOST,
        "GATEWAY_PORT": str(ports[0]),
        "IOT_MTLS_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        "MINISTACK_REGION": REGION,
        "TMPDIR": str(folder),
    }


def _localstack_settings(ports: Sequence[int], folder: Path) -> dict[str, str]:
    return {
        "DISABLE_EVENTS": "1",
        "DNS_ADDRESS": "0",
        "GATEWAY_LISTEN": f"{HOST}:{ports[0]}",
        "LOCALSTACK_HOST": f"{HOST}:{ports[0]}",
        "SERVICES": "sqs",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "SQS_ENDPOINT_STRATEGY": "path",
        "TMPDIR": str(folder),
    }


def _exports(backend: str) -> Callable[[Sequence[int]], Mapping[str, str]]:
    return lambda ports: {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": f"http://{HOST}:{ports[0]}",
        "CLOUDQ_BROKER": "sqs://",
        "CLOUDQ_BACKEND": backend,
    }


MINISTACK = Spec(
    name="ministack",
    cloud="aws",
    services="SQS, DynamoDB, S3, EventBridge Scheduler, Lambda, CloudFormation",
    lacks="queue move tasks; purges are immediate; delays over 900 s are taken",
    ports=(4566,),
    command=python_module(
        "ministack",
        "ministack",
        ("ministack==1.5.33", "boto3==1.43.106", "aws-sam-translator>=1.90"),
    ),
    settings=_ministack_settings,
    exports=_exports(f"dynamodb://{TABLE}"),
    health="/_localstack/health",
)
LOCALSTACK = Spec(
    name="localstack",
    cloud="aws",
    services="SQS",
    lacks="DynamoDB and Lambda (they want a download or docker), schedules never fire",
    ports=(4566,),
    command=python_module(
        "localstack",
        "localstack.runtime.main",
        (
            "localstack-core[runtime]==4.13.1",
            "cbor2<6",
            "pyopenssl<26",
            "localstack-twisted==25.5.0",
        ),
    ),
    settings=_localstack_settings,
    exports=_exports("none"),
    health="/_localstack/health",
    patience=90,
)
