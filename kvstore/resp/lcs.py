"""The longest common subsequence of two values, for Redis' command of that name."""

from __future__ import annotations

from kvstore.resp.encoding import Error, RespValue

MAX_STEPS = 1_000_000
"""The work grows with the product of the lengths. With a larger product other clients would wait too long."""
MAX_LENGTHS = 65_536
"""To find the subsequence itself takes a step for each byte as well."""


def lcs(one: bytes, other: bytes, length: bool, index: bool, *, with_length: bool, least: int) -> RespValue:
    """The subsequence, its length (``length``), or the positions of its parts (``index``).

    ``least``: parts shorter than this are left out; ``with_length``: each part comes with its length. Returns an Error
    for values that are too long.
    """
    if len(one) * len(other) > MAX_STEPS:
        return Error(f"ERR the product of the lengths must be at most {MAX_STEPS:,}: compare shorter values")
    if not length and len(one) + len(other) > MAX_LENGTHS:
        return Error(
            f"ERR the lengths must be at most {MAX_LENGTHS:,} together: compare shorter values, or ask for LEN"
        )
    is_turned = len(one) > len(other)
    rows = _rows(other, one) if is_turned else _rows(one, other)
    if length:
        return rows[-1].bit_count()
    found, runs = _trace(one, other, rows, is_turned)
    if not index:
        return found
    matches: list[RespValue] = []
    for first, second, size in runs:
        if size >= least:
            where: list[RespValue] = [[first, first + size - 1], [second, second + size - 1]]
            matches.append([*where, size] if with_length else where)
    return {"matches": matches, "len": len(found)}


def _rows(short: bytes, long: bytes) -> list[int]:
    """Row i: the lengths for the first i bytes of ``short`` and every prefix of ``long``.

    Bit j is 1 where byte j makes the subsequence longer, so the length for the first j bytes is the number of ones
    below bit j. Each row follows from the previous one by a few operations on long integers (Hyyrö, "Bit-parallel
    LCS-length computation revisited"), which is about a hundred times as fast as going byte by byte.
    """
    everywhere = (1 << len(long)) - 1
    positions = {}
    for byte in set(short):
        ones = bytearray(b"0" * 256)
        ones[byte] = ord("1")
        positions[byte] = int(long.translate(ones)[::-1] or b"0", 2)
    flat = everywhere
    rows = [0]
    for byte in short:
        met = flat & positions[byte]
        flat = ((flat + met) | (flat - met)) & everywhere
        rows.append(flat ^ everywhere)
    return rows


def _trace(one: bytes, other: bytes, rows: list[int], is_turned: bool) -> tuple[bytes, list[tuple[int, int, int]]]:
    """The subsequence, and its runs (position in ``one``, position in ``other``, length), the last run first.

    Where several subsequences are longest, this is the one that Redis finds: going back from the end, it drops a byte
    of ``one`` rather than of ``other`` only if a longer subsequence remains.
    """
    short, long = (other, one) if is_turned else (one, other)
    found = bytearray()
    runs: list[tuple[int, int, int]] = []
    i, j = len(short), len(long)
    here, above = _Row(rows, i, j), _Row(rows, i - 1, j)
    while here.length:
        if short[i - 1] == long[j - 1]:
            i, j = i - 1, j - 1
            found.append(short[i])
            first, second = (j, i) if is_turned else (i, j)
            if runs and runs[-1][:2] == (first + 1, second + 1):
                runs[-1] = (first, second, runs[-1][2] + 1)
            else:
                runs.append((first, second, 1))
            here, above = _Row(rows, i, j), _Row(rows, i - 1, j)
            continue
        left = here.length - here.grows_at(j - 1)
        if above.length >= left if is_turned else above.length > left:
            i -= 1
            here, above = above, _Row(rows, i - 1, j)
        else:
            j -= 1
            here.length = left
            above.length -= above.grows_at(j)
    return bytes(found[::-1]), runs


class _Row:
    """A row that is walked from right to left; ``length`` is the one for the bytes that remain."""

    __slots__ = ("_bits", "length")

    def __init__(self, rows: list[int], number: int, width: int) -> None:
        bits = rows[max(number, 0)] & ((1 << width) - 1)
        self._bits = bits.to_bytes(width // 8 + 1, "little")
        self.length = bits.bit_count()

    def grows_at(self, position: int) -> int:
        return self._bits[position >> 3] >> (position & 7) & 1
