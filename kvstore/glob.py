"""Glob patterns on bytes as Redis has them: ``*``, ``?``, ``[a-z]``, ``[^a-z]``, a backslash for what is literal."""

from __future__ import annotations

import re
from collections.abc import Callable

_TRIED_AT_ONCE = 7
_READ_AT_ONCE = 8
"""Shifts: so many bytes are compared with an item of a pattern in a unit of work, and so many of keys are read."""


def matcher(pattern: bytes) -> Callable[[bytes], bool]:
    """A function that tells whether a key matches the pattern."""
    if pattern in (b"", b"*"):
        return lambda key: True
    parts = [_compiled(part) for part in _split(pattern)]
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return lambda key: first[0].fullmatch(key) is not None

    def matches(key: bytes) -> bool:
        # Between two stars the earliest match is as good as any, so that no pattern takes more than a linear search for
        # each of its parts; a regular expression with many stars would try exponentially many ways.
        found = first[0].match(key)
        if found is None or len(key) - found.end() < last[1]:
            return False
        at = found.end()
        for part, _ in parts[1:-1]:
            found = part.search(key, at)
            if found is None:
                return False
            at = found.end()
        tail = len(key) - last[1]
        return tail >= at and last[0].fullmatch(key, tail) is not None

    return matches


def compile_work(pattern: bytes) -> int:
    """The work of ``matcher``, in units of at most half a microsecond."""
    return 80 + (6 if b"[" in pattern else 2) * len(pattern)


def match_work(pattern: bytes, size: int) -> int:
    """The work of comparing a pattern with keys of ``size`` bytes in all, besides some for each key and each star.

    What follows a star and is not literal is tried at each place of a key, item by item. Literals are found by a search
    that is linear. In a slot all is done twice, for the estimate and then for the command.
    """
    behind = pattern.split(b"*")[1:]
    tried = sum([len(part) for part in behind if b"?" in part or b"[" in part])
    return (tried * size >> _TRIED_AT_ONCE) + (size >> _READ_AT_ONCE)


def _split(pattern: bytes) -> list[list[bytes]]:
    """The items between the stars, each an expression for one byte."""
    parts: list[list[bytes]] = [[]]
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            if parts[-1] or len(parts) == 1:
                parts.append([])
            at += 1
        elif char == b"[":
            item, at = _one_of(pattern, at + 1)
            parts[-1].append(item)
        elif char == b"\\" and at + 1 < len(pattern):
            parts[-1].append(re.escape(pattern[at + 1 : at + 2]))
            at += 2
        else:
            parts[-1].append(b"." if char == b"?" else re.escape(char))
            at += 1
    return parts


def _compiled(items: list[bytes]) -> tuple[re.Pattern[bytes], int]:
    """The expression for items in a row, and how many bytes it takes."""
    return re.compile(b"".join(items), re.DOTALL), len(items)


def _one_of(pattern: bytes, at: int) -> tuple[bytes, int]:
    """An expression for the bytes of a set that begins at ``at``, and where the pattern goes on.

    As Redis reads it: a set that is not closed ends with the pattern, and a range may end in any byte, even in ``]``.
    """
    negated = pattern[at : at + 1] == b"^"
    at += negated
    wanted: set[int] = set()
    while at < len(pattern) and pattern[at] != ord("]"):
        left = len(pattern) - at
        if pattern[at] == ord("\\") and left >= 2:
            at += 1
            low = high = pattern[at]
        elif left >= 3 and pattern[at + 1] == ord("-"):
            low, high = sorted((pattern[at], pattern[at + 2]))
            at += 2
        else:
            low = high = pattern[at]
        wanted.update(range(low, high + 1))
        at += 1
    if negated:
        wanted = set(range(256)) - wanted
    return _set(wanted), at + 1


def _set(wanted: set[int]) -> bytes:
    """The shortest expression for one of these bytes: what it takes to compile a pattern depends on its length."""
    if not wanted:
        return b"(?!)"
    is_short = len(wanted) <= 128
    left = sorted(wanted if is_short else set(range(256)) - wanted)
    if not left:
        return b"."
    ranges: list[bytes] = []
    first = left[0]
    for byte, after in zip(left, [*left[1:], -1], strict=True):
        if after != byte + 1:
            ranges.append(b"\\x%02x-\\x%02x" % (first, byte) if byte > first else b"\\x%02x" % byte)
            first = after
    return b"[%b%b]" % (b"" if is_short else b"^", b"".join(ranges))
