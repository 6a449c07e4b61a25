"""The names of `celery.canvas`."""

from cloudq.contrib.celery.current import chunks, maybe_signature, signature, xmap, xstarmap
from cloudq.contrib.celery.signatures import Signature, chain, chord, group

__all__ = [
    "Signature",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "signature",
    "xmap",
    "xstarmap",
]
