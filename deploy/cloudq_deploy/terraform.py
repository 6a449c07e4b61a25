"""Names and texts as Terraform takes them."""

from __future__ import annotations

import re


def terraform_name(name: str) -> str:
    """A name as Terraform takes it: letters, digits and _."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain[:1].isalpha() else f"r_{plain}"


def literal(text: str) -> str:
    """A text that Terraform is to leave as it is."""
    return text.replace("${", "$${").replace("%{", "%%{")
