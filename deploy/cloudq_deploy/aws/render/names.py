"""Names of resources in a CloudFormation template, which have only letters and digits."""

from __future__ import annotations

import re


def logical(kind: str, name: str) -> str:
    """`logical("Queue", "order-mail.fifo")` is `OrderMailFifoQueue`."""
    words = re.findall(r"[A-Za-z0-9]+", name)
    return "".join(word[0].upper() + word[1:] for word in words) + kind
