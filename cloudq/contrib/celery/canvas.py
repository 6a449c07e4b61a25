"""The names of `celery.canvas`."""

from cloudq.canvas.nodes import Signature, chain, chord, group
from cloudq.contrib.celery.current import chunks, maybe_signature, signature, xmap, xstarmap

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
