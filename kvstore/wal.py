"""Telling a torn tail of SQLite's write-ahead log from one that rotted.

When SQLite opens a database it takes the WAL's frames up to the first whose checksum fails, and drops the rest
without a word. That is right for a torn tail: a commit that was cut off was never acknowledged. But each commit is
synced before the next one is written, so a bad frame in a transaction that is followed by another was whole once, and
acknowledged.
The format: https://sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
import sys
from array import array
from pathlib import Path

from kvstore.errors import DamagedError

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_BIG_ENDIAN_SUMS = 0x377F0683
_LITTLE_ENDIAN_SUMS = 0x377F0682


def check_wal(database: Path) -> None:
    """Raise DamagedError when the WAL beside this database lost a commit to rot; call it before SQLite."""
    path = database.with_name(database.name + "-wal")
    if not path.exists():
        return
    wal = path.read_bytes()
    if len(wal) < _HEADER.size:
        return
    magic, _, page_size, _, *salts, sum0, sum1 = _HEADER.unpack_from(wal)
    frame_size = _FRAME.size + page_size
    frames = (len(wal) - _HEADER.size) // frame_size if page_size else 0
    header_holds = magic in (_BIG_ENDIAN_SUMS, _LITTLE_ENDIAN_SUMS) and _sums(wal[:24], magic, 0, 0) == (sum0, sum1)
    if not header_holds:
        # Written once when the WAL begins and synced with its first commit; nothing of it would be read.
        if frames > 1:
            raise _rotten(path, "its header")
        return
    sums = (sum0, sum1)
    committed_after_bad = 0
    bad: int | None = None
    for index in range(frames):
        offset = _HEADER.size + index * frame_size
        _, commit_size, salt0, salt1, frame_sum0, frame_sum1 = _FRAME.unpack_from(wal, offset)
        if [salt0, salt1] != salts:
            if bad is None and not _resumes(wal, offset, frame_size, salts):
                return
            bad = index if bad is None else bad
            continue
        if committed_after_bad:
            raise _rotten(path, f"frame {bad}")
        if bad is None:
            page = wal[offset + _FRAME.size : offset + frame_size]
            sums = _sums(page, magic, *_sums(wal[offset : offset + 8], magic, *sums))
            bad = index if sums != (frame_sum0, frame_sum1) else None
        if bad is not None and commit_size:
            committed_after_bad += 1


def _resumes(wal: bytes, offset: int, frame_size: int, salts: list[int]) -> bool:
    """Whether frames of this generation follow one whose salts are others': the frame rotted, the WAL does not end."""
    while (offset := offset + frame_size) + frame_size <= len(wal):
        if list(_FRAME.unpack_from(wal, offset)[2:4]) == salts:
            return True
    return False


def _sums(data: bytes, magic: int, sum0: int, sum1: int) -> tuple[int, int]:
    words = array("I", data)
    if (sys.byteorder == "big") != (magic == _BIG_ENDIAN_SUMS):
        words.byteswap()
    for even, odd in zip(words[::2], words[1::2], strict=True):
        sum0 = (sum0 + even + sum1) & 0xFFFFFFFF
        sum1 = (sum1 + odd + sum0) & 0xFFFFFFFF
    return sum0, sum1


def _rotten(path: Path, where: str) -> DamagedError:
    return DamagedError(
        f"{path} is damaged at {where}, before commits that were acknowledged. This node must not vote with it: restore"
        " the data directory from a backup, or in a cluster start a new node in its place"
    )
