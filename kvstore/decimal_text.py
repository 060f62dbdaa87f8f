"""Numbers as texts: exact and the same on every machine, unlike binary fractions."""

from __future__ import annotations

import re
from decimal import Context, Decimal

INTEGER = re.compile(rb"0|-?[1-9]\d{0,18}")
"""The form in which ``incr`` writes integers, and the only one that it takes, so that it never rewrites another one."""
DIGITS = 17
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_CONTEXT = Context(prec=DIGITS)
_LIMIT = Decimal("1e308")
_SMALLEST = Decimal("1e-20")


def decimal_of(text: bytes) -> Decimal | None:
    """The number that a text stands for; None if it is not a number, or is beyond 1e308."""
    if len(text) > 400 or not _NUMBER.fullmatch(text):
        return None
    number = Decimal(text.decode())
    return number if abs(number) <= _LIMIT else None


def add(one: Decimal, other: Decimal) -> bytes | None:
    """The sum as text without an exponent, rounded to 17 digits; None when it is beyond 1e308."""
    total = _CONTEXT.add(one, other)
    if abs(total) > _LIMIT:
        return None
    if abs(total) < _SMALLEST:
        return b"0"
    text = f"{total:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).encode()
