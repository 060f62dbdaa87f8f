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
_LONG_RUN = re.compile(rb"\d{%d,}" % MAX_NUMBER_BYTES)
_NO_MARK = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS = bytes.maketrans(b"[]{}", b"1010")
_NUMBER = re.compile(rb"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
EXPLAINED_BYTES = 65_536
"""Of text up to this long that is no JSON it is said where it goes wrong, as Python's reader tells: it takes long."""
_SHOWN_BYTES = 5
"""A byte that is not UTF-8 is shown by so many in JSON."""


def _rises() -> tuple[list[int], list[int]]:
    """For each eight steps, the bits of a byte: how far they lead up in all, and how far at the most."""
    ends: list[int] = []
    peaks: list[int] = []
    for byte in range(256):
        heights = [0]
        for bit in f"{byte:08b}":
            heights.append(heights[-1] + (1 if bit == "1" else -1))
        ends.append(heights[-1])
        peaks.append(max(heights))
    return ends, peaks


_ENDS, _PEAKS = _rises()


def from_json(text: bytes) -> Value:
    """The value that a JSON text stands for.

    A number, and a string that does not look like a number, is kept as plain bytes, every other value as JSON text.
    Raises CommandError for text that is not JSON, or that is nested too deeply.
    """
    text = text.strip(b" \t\r\n")
    _check_json(text)
    if _is_number(text):
        return Value(text)
    if text.startswith(b'"'):
        try:
            data = _read(text.decode()).encode()
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
    return msgspec.json.encode(shown_text(value.data))


def least_json_bytes(value: Value) -> int:
    """The JSON text of a value has at least so many bytes, which takes far less time to find out than to make it."""
    size = len(value.data)
    if value.json:
        return size
    try:
        value.data.decode()
    except UnicodeDecodeError:
        # Each byte that is not UTF-8 becomes half of a pair, which has three bytes here.
        halves = len(value.data.decode(errors="surrogateescape").encode(errors="surrogatepass")) - size
        return size + (_SHOWN_BYTES - 1) * halves // 2
    return size


def shown_text(data: bytes) -> str:
    r"""The same as ``data.decode(errors="backslashreplace")``, which calls a function for each byte that is not UTF-8.

    Such a byte is first made half a surrogate pair, and that ``\udcff``, which is then made the ``\xff`` that it is.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        text = data.decode(errors="surrogateescape")
    if b"\\udc" not in data:
        return text.encode(errors="backslashreplace").replace(b"\\udc", b"\\x").decode()
    apart = text.replace("\\", "\\x5c").encode(errors="backslashreplace").replace(b"\\udc", b"\\x")
    return apart.replace(b"\\x5c", b"\\").decode()


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
        value.data.decode()
        text = value.data.strip(b" \t\r\n")
        if text.startswith(b"[") and text.count(b"[") == 1 and not (b'"' in text or b"{" in text):
            _read_through(text)
            commas = text.count(b",")  # of numbers and the like: each parts two items
            return commas + 1 if commas or text[1:-1].strip(b" \t\r\n") else 0
        return len(_read_items(_plain(text)))
    except _NOT_JSON:
        return None


def _is_number(text: bytes) -> bool:
    return len(text) <= MAX_NUMBER_BYTES and _NUMBER.fullmatch(text) is not None


def _check_json(text: bytes) -> None:
    """Raise CommandError for text that is no JSON, is nested too deeply, or has too long a number.

    Nothing is made of it: to make lists and objects takes up to a hundred times as long as to read them, and one
    client's megabyte would take the turn of all others.
    """
    if text.count(b"[") + text.count(b"{") > MAX_NESTING:
        _check_nesting(text)
    try:
        text.decode()  # no reader of bytes looks at the text inside strings
        _read_through(_plain(text))
    except _NOT_JSON as error:
        raise CommandError(f"the value is not valid JSON ({_why_not(text) or error})") from error
    if _LONG in text.translate(_ZEROS):
        _check_numbers(text)


def _why_not(text: bytes) -> str:
    """What Python's reader says of text that is no JSON, if it is short."""
    if len(text) > EXPLAINED_BYTES:
        return ""
    try:
        _read(text.decode())
    except (ValueError, RecursionError) as error:
        return str(error)
    return ""


def _plain(text: bytes) -> bytes:
    """Text that is JSON if and only if ``text`` is, without surrogates: JSON may have halves of pairs, Unicode not."""
    if b"\\u" not in text:
        return text
    return text.replace(rb"\\", rb"\/").replace(rb"\ud", rb"\u0").replace(rb"\uD", rb"\u0")


def _unescaped(text: bytes) -> bytes:
    """JSON in which every quote begins or ends a string."""
    return text.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in text else text


def _check_nesting(text: bytes) -> None:
    """Raise CommandError where JSON has too many lists and objects, or nests them too deeply.

    Only the brackets are looked at, eight at a time.
    """
    marks = _unescaped(text).translate(None, _NO_MARK).replace(b'""', b"")
    steps = b"".join(marks.split(b'"')[::2]).translate(_STEPS)
    if len(steps) > 2 * MAX_CONTAINERS:
        raise CommandError(
            f"the value is JSON with {len(steps) // 2:,} lists and objects, at most {MAX_CONTAINERS:,} are allowed:"
            " split it over keys"
        )
    size = (len(steps) + 7) // 8
    height = 0
    for byte in int(steps.ljust(8 * size, b"0") or b"0", 2).to_bytes(size):
        if height + _PEAKS[byte] > MAX_NESTING:
            raise CommandError(f"the value is JSON nested more than {MAX_NESTING} levels deep")
        height += _ENDS[byte]


def _check_numbers(text: bytes) -> None:
    """Raise CommandError where JSON has a whole number that is too long."""
    text = _unescaped(text)
    quotes = looked_at = 0
    for digits in _LONG_RUN.finditer(text):
        start, end = digits.span()
        quotes += text.count(b'"', looked_at, start)
        looked_at = end
        sign = text[start - 1 : start] if start else b""
        size = end - start + (sign == b"-")
        is_exponent = sign in _EXPONENT or (sign == b"-" and start > 1 and text[start - 2 : start - 1] in _EXPONENT)
        is_whole = not (quotes % 2 or is_exponent or text[end : end + 1] in _FRACTION)
        if is_whole and size > MAX_NUMBER_BYTES:
            raise CommandError(
                f"a whole number in the value has {size:,} characters, at most {MAX_NUMBER_BYTES} are allowed:"
                " write it as a string"
            )


_EXPONENT = {b".", b"e", b"E", b"+"}
"""What stands before the digits of a fraction or an exponent."""
_FRACTION = {b".", b"e", b"E"}
"""What stands behind whole digits that are only a part of a number."""


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


# In Python 1 == 1.0 == True, but in JSON these three differ: what stands for the numbers here equals nothing else.


def _whole(digits: str) -> bytes:
    """A whole number as its digits, of which JSON allows one form: to look at a stored value converts no number."""
    return b"0" if digits == "-0" else digits.encode()


def _fraction(digits: str) -> tuple[float]:
    return (float(digits),)


_read = json.JSONDecoder(parse_float=len, parse_int=len, parse_constant=_no_constant).decode
_read_apart = json.JSONDecoder(parse_int=_whole, parse_float=_fraction, parse_constant=_no_constant).decode
_read_through = msgspec.json.Decoder(msgspec.Raw).decode
_read_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_NOT_JSON = (msgspec.DecodeError, ValueError, RecursionError)


def _look(value: Value) -> object:
    """What a stored value says, with numbers of any length; its bytes if they are no JSON, which no door lets in."""
    try:
        return _read_apart(value.data.decode())
    except ValueError:
        return value.data
