"""Reads and writes numbers that arrive as text, within bounds that keep them cheap to use."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from cloudq.errors import EncodeError

# Python's own limit for whole numbers: above it the time of a conversion is felt.
_DIGITS = 4300
_LARGEST = 10**_DIGITS - 1
# The exponents of IEEE 754's decimal128. To make a whole number of a larger one takes seconds.
_EXPONENT = 6144
_INTEGER = r"[+-]?[0-9]{1,4300}"
_FLOATS = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def integer_of(text: Any) -> int:
    """Read a whole number. Raises `ValueError`."""
    if not isinstance(text, str) or re.fullmatch(_INTEGER, text) is None:
        raise ValueError(f"not a whole number of at most {_DIGITS} digits")
    return int(text)


def integer_text(number: int) -> str:
    """Write a whole number. Raises `EncodeError` for one that no reader takes."""
    if -_LARGEST <= number <= _LARGEST:
        return str(number)
    bits = number.bit_length()
    raise EncodeError(f"an integer of {bits} bits cannot be sent: {_DIGITS} digits at most")


def decimal_of(text: Any) -> Decimal:
    """Read a decimal. Raises `ValueError`, or `ArithmeticError` for what is none."""
    if not isinstance(text, str):
        raise TypeError(f"a decimal is a text, not {type(text).__name__}")
    if len(text) > _DIGITS + 10:
        raise ValueError(f"a decimal of {len(text)} characters: {_DIGITS} digits at most")
    number = Decimal(text)
    if _is_huge(number):
        raise ValueError(f"a decimal whose exponent is beyond {_EXPONENT}")
    return number


def decimal_text(number: Decimal) -> str:
    """Write a decimal. Raises `EncodeError` for one that no reader takes."""
    if _is_huge(number) or len(number.as_tuple().digits) > _DIGITS:
        raise EncodeError(
            f"a decimal of more than {_DIGITS} digits, or with an exponent beyond {_EXPONENT}, "
            "cannot be sent"
        )
    return str(number)


def float_of(text: Any) -> float:
    """Read a float that JSON has no word for. Raises `ValueError`."""
    if isinstance(text, str) and text in _FLOATS:
        return _FLOATS[text]
    raise ValueError("not one of nan, inf, -inf")


def _is_huge(number: Decimal) -> bool:
    """Tell whether the exponent is out of bounds; NaN and infinities have none."""
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):
        return False
    return abs(exponent) > _EXPONENT or (bool(number) and abs(number.adjusted()) > _EXPONENT)
