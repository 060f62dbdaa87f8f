"""The longest common subsequence of two values, for Redis' command of that name."""

from __future__ import annotations

from kvstore.resp.encoding import Reply
from kvstore.resp.spec import RequestError

MAX_STEPS = 1_000_000
"""The work grows with the product of the lengths; beyond this other clients would have to wait too long."""


def lcs(one: bytes, other: bytes, length: bool, index: bool, *, with_length: bool, least: int) -> Reply:
    """The subsequence, its length, or where its parts are. Raises RequestError for values that are too long."""
    if len(one) * len(other) > MAX_STEPS:
        raise RequestError(f"ERR the product of the lengths must be at most {MAX_STEPS:,}: compare shorter values")
    rows = [[0] * (len(other) + 1)]
    for char in one:
        above = rows[-1]
        row = [0]
        for place, against in enumerate(other):
            row.append(above[place] + 1 if char == against else max(above[place + 1], row[place]))
        rows.append(row)
    if length:
        return rows[-1][-1]
    found, runs = _trace(one, other, rows)
    if not index:
        return found
    matches: list[Reply] = []
    for first, second, size in runs:
        if size >= least:
            where: list[Reply] = [[first, first + size - 1], [second, second + size - 1]]
            matches.append([*where, size] if with_length else where)
    return {"matches": matches, "len": rows[-1][-1]}


def _trace(one: bytes, other: bytes, rows: list[list[int]]) -> tuple[bytes, list[tuple[int, int, int]]]:
    """The subsequence, and its runs (place in one, place in the other, length) from the last to the first."""
    found = bytearray()
    runs: list[tuple[int, int, int]] = []
    i, j = len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            found.append(one[i])
            if runs and runs[-1][:2] == (i + 1, j + 1):
                runs[-1] = (i, j, runs[-1][2] + 1)
            else:
                runs.append((i, j, 1))
        elif rows[i - 1][j] > rows[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return bytes(found[::-1]), runs
