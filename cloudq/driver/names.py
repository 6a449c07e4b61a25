"""Keys in the form that a service takes: what it would refuse becomes a prefix and a hash.

Names of messages and of stores' partitions are made of what programs give: ids, keys, names. A
service has a length and sometimes characters for them. What fits stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_PLAIN = r"[^0-9A-Za-z_.:#-]+"
# The readable part of what does not fit.
_PREFIX = 40


def fitting(key: str, fits: Callable[[str], bool]) -> str:
    """Return the key, or if it does not fit a text of at most 105 plain characters in its place.

    The same for the same key, and another for any other: it ends in the key's SHA-256. One that
    was made so fits, and is left as it is when it is sent again.
    """
    if fits(key):
        return key
    import hashlib  # loads OpenSSL, which few processes need

    # A half of a surrogate pair is no text, and yet a key.
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
    return f"{re.sub(_PLAIN, '_', key)[:_PREFIX]}~{digest}"
