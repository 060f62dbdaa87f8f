"""JSON values and how a key holds them: typed where their bytes alone would be read back as something else."""

from __future__ import annotations

import json
import re

import msgspec

from kvstore.commands import Value
from kvstore.errors import CommandError

MAX_NESTING = 128
"""Every replica compares and changes values by recursion, at a depth of its stack that differs from replica to replica,
so a value that is nested too deeply for one of them must not reach the log."""

MAX_NUMBER_BYTES = 640
"""Longer texts do not count as numbers, and JSON must not hold a longer whole one. How many digits Python reads depends
on its version and on its environment, which must not decide what a slot does."""

MAX_CONTAINERS = 200_000
"""Lists and objects in one value: to look how deeply more of them are nested would take the turn of all others."""

_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG = b"0" * MAX_NUMBER_BYTES
_OTHER = bytes(set(range(256)) - set(b"[]{}"))
_ALIKE = bytes.maketrans(b"{}", b"[]")
_NUMBER = re.compile(rb"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")


def from_json(text: bytes) -> Value:
    """The value that a JSON text stands for.

    A number, and a string that does not look like a number, is kept as plain bytes, every other value as JSON text.
    Raises CommandError for text that is not JSON, or that is nested too deeply.
    """
    text = text.strip(b" \t\r\n")
    try:
        # Given bytes, json would also accept UTF-16 and UTF-32, which no other reader here does.
        parsed = (_read_carefully if _LONG in text.translate(_ZEROS) else _read)(text.decode())
    except (ValueError, RecursionError) as error:
        raise CommandError(f"the value is not valid JSON ({error})") from error
    if text.count(b"[") + text.count(b"{") > MAX_NESTING:
        _check_nesting(text)
    if _is_number(text):
        return Value(text)
    if isinstance(parsed, str):
        try:
            data = parsed.encode()
        except UnicodeEncodeError as half:
            raise CommandError(
                "the value is a JSON string with half a surrogate pair, which is not Unicode text"
            ) from half
        if not _is_number(data):
            return Value(data)
    return Value(text, True)


def to_json(value: Value) -> bytes:
    """The JSON text of a value. Plain bytes become a number if they look like one, else a string."""
    if value.json or _is_number(value.data):
        return value.data
    return msgspec.json.encode(value.data.decode(errors="backslashreplace"))


def same(one: Value, other: Value) -> bool:
    """Whether two values are equal: the same bytes, or JSON that means the same with the same types."""
    if one == other:
        return True
    if not (one.json and other.json):
        return False
    return bool(_look(one) == _look(other))


def items_of(value: Value) -> int | None:
    """How many items a JSON list has; None if the value is anything else."""
    if not value.json:
        return None
    try:
        parsed = _read_form(value.data.decode())
    except ValueError:
        return None
    return len(parsed) if isinstance(parsed, list) else None


def _is_number(text: bytes) -> bool:
    return len(text) <= MAX_NUMBER_BYTES and _NUMBER.fullmatch(text) is not None


def _check_nesting(text: bytes) -> None:
    """Raise CommandError where JSON has too many lists and objects, or nests them too deeply.

    Only the brackets are looked at, without the innermost ones in each round.
    """
    unescaped = text.replace(rb"\\", b"").replace(rb"\"", b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    brackets = outside_strings.translate(_ALIKE, _OTHER)
    if len(brackets) > 2 * MAX_CONTAINERS:
        raise CommandError(
            f"the value is JSON with {len(brackets) // 2:,} lists and objects, at most {MAX_CONTAINERS:,} are allowed:"
            " split it over keys"
        )
    for _ in range(MAX_NESTING):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return
    raise CommandError(f"the value is JSON nested more than {MAX_NESTING} levels deep")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


# In Python 1 == 1.0 == True, but in JSON these three differ: what stands for the numbers here equals nothing else.


def _whole(digits: str) -> bytes:
    """A whole number as its digits, of which JSON allows one form: to look at a stored value converts no number."""
    return b"0" if digits == "-0" else digits.encode()


def _whole_within_bound(digits: str) -> bytes:
    if len(digits) > MAX_NUMBER_BYTES:
        raise CommandError(
            f"a whole number in the value has {len(digits):,} characters, at most {MAX_NUMBER_BYTES} are allowed:"
            " write it as a string"
        )
    return _whole(digits)


def _fraction(digits: str) -> tuple[float]:
    return (float(digits),)


# What a fraction is worth is asked only where values are compared: to find out takes longest of all.
_read_form = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_no_constant).decode
_read = json.JSONDecoder(parse_float=len, parse_constant=_no_constant).decode
_read_carefully = json.JSONDecoder(parse_int=_whole_within_bound, parse_float=len, parse_constant=_no_constant).decode
_read_apart = json.JSONDecoder(parse_int=_whole, parse_float=_fraction, parse_constant=_no_constant).decode


def _look(value: Value) -> object:
    """What a stored value says, with numbers of any length; its bytes if they are no JSON, which no door lets in."""
    try:
        return _read_apart(value.data.decode())
    except ValueError:
        return value.data
