"""The names of resources within a template: letters and digits, each once."""

from __future__ import annotations

import re


def logical(kind: str, name: str) -> str:
    """`logical("Queue", "order-mail.fifo")` is `OrderMailFifoQueue`."""
    words = re.findall(r"[A-Za-z0-9]+", name)
    return "".join(word[0].upper() + word[1:] for word in words) + kind


def terraform_name(name: str) -> str:
    """A name as Terraform takes it: letters, digits and _."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain[:1].isalpha() else f"r_{plain}"


def literal(text: str) -> str:
    """A text that Terraform is to leave as it is."""
    return text.replace("${", "$${").replace("%{", "%%{")
