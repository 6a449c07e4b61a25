"""Names and strings in the form that Terraform's JSON requires."""

from __future__ import annotations

import re


def terraform_name(name: str) -> str:
    """Turn a name into one of Terraform: letters, digits and _."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain[:1].isalpha() else f"r_{plain}"


def literal(text: str) -> str:
    """Escape a string, so that Terraform interpolates nothing in it."""
    return text.replace("${", "$${").replace("%{", "%%{")
