"""Patterns: what they match, and that their work is known before they are compiled."""

from __future__ import annotations

import gc
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.glob import compile_work, match_work, matcher


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (b"[^b]x", [b"ax", b"\xffx", b"\nx"], [b"bx", b"x", b"aax"]),
        (b"[a-cx]", [b"a", b"b", b"c", b"x"], [b"d", b"-", b""]),
        (b"[\\]-]", [b"]", b"-"], [b"\\", b"a"]),
        (b"[c-a]", [b"a", b"b", b"c"], [b"d"]),
        (b"[]", [], [b"", b"]", b"a"]),
        (b"[^]", [b"a", b"\x00"], [b"", b"aa"]),
        (b"[\x00-\xff]", [b"\x00", b"\xff", b"\n"], [b""]),
        (b"[\xff]", [b"\xff"], [b"", b"\xfe", b"\x00"]),
        (b"[a\xfe-\xff]", [b"a", b"\xfe", b"\xff"], [b"\xfd", b"b"]),
        (b"[^\xff]", [b"a", b"\xfe"], [b"\xff", b""]),
        (b"a*[0-9]?z", [b"a1xz", b"a99z", b"a*1\nz"], [b"a1z", b"1xz", b"axxz"]),
        (b"h[\\^a]llo", [b"h^llo", b"hallo"], [b"hello", b"h\\llo"]),
    ],
)
def test_what_a_pattern_matches(pattern: bytes, matching: list[bytes], others: list[bytes]) -> None:
    matches = matcher(pattern)
    assert [key for key in [*matching, *others] if matches(key)] == matching


@given(st.binary(max_size=12), st.booleans(), st.integers(0, 255))
def test_a_set_holds_the_bytes_it_names(named: bytes, negated: bool, byte: int) -> None:
    escaped = b"".join(b"\\" + bytes([each]) for each in named)
    is_in = matcher(b"[%b%b]" % (b"^" if negated else b"", escaped))(bytes([byte]))
    assert is_in == ((byte in named) != negated)


HARD = [
    *(b"*" + b"?" * 500 + b"b*", b"*" + b"[^b]" * 250 + b"b*", b"*" + b"[a-z]" * 170 + b"0*", b"[^b]" * 256),
    *(b"*a[^b]*a[^b]" * 80, b"[ac]" * 256, b"*" + b"a?" * 400 + b"b*", b"a*" * 500, b"[b-a]" * 200, b"*foo*"),
]


@pytest.mark.parametrize("pattern", HARD, ids=lambda pattern: repr(pattern[:12]))
def test_its_work_is_known_before(pattern: bytes) -> None:
    """A unit is half a microsecond at most; twenty times as long would be another algorithm, not a slow machine."""
    re.purge()
    gc.disable()  # what other tests have left takes half a second to look through
    try:
        began = time.thread_time_ns()
        matches = matcher(pattern)
        compiled = time.thread_time_ns()
        for _ in range(10):
            matches(b"a" * 1_000)
        took = (time.thread_time_ns() - compiled) / 10
    finally:
        gc.enable()
    assert compiled - began < 20 * 500 * compile_work(pattern)
    assert took < 20 * 500 * (1 + pattern.count(b"*") + match_work(pattern, 1_000))
