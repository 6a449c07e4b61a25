"""The names of `celery.canvas`."""

from typing import Any

from cloudq.contrib.celery.current import chunks, maybe_signature, signature, xmap, xstarmap
from cloudq.contrib.celery.current import signature as subtask
from cloudq.contrib.celery.missing import names_of
from cloudq.contrib.celery.signatures import Signature, chain, chord, group

__all__ = [
    "Signature",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]


def __getattr__(name: str) -> Any:
    return names_of(__name__, name)
