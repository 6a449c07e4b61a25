"""The names of `celery.canvas`."""

from cloudq.contrib.celery.current import chunks, maybe_signature, signature, xmap, xstarmap
from cloudq.contrib.celery.current import signature as subtask
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


# Names of Celery's canvas without a counterpart, and why.
REFUSED = {
    "StampingVisitor": "a call carries headers, and no stamps: give headers={...}",
    "abstract": "derive no classes of signatures: compose group, chain and chord",
}


def __getattr__(name: str) -> object:
    if name in REFUSED:
        raise ImportError(f"cloudq has no {name}: {REFUSED[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
