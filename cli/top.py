"""``kvstore top``: a live view of a cluster, one row a node."""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import NamedTuple

from cli.exits import OK, UNAVAILABLE, write_lines
from cli.render import table_lines
from cli.target import password
from kvstore.errors import KvstoreError
from kvstore.remote import Address, RemoteStore, addresses

PATIENCE = 2.0
"""How long a node may take to answer before it is shown as down, in seconds."""
COLUMNS = (
    "node",
    "role",
    "ballot",
    "chosen",
    "applied",
    "lag",
    "ops/s",
    "p50 ms",
    "p99 ms",
    "log MB",
    "RAM MB",
    "CPU %",
)
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"

Fields = dict[str, str | int | None]


class Sample(NamedTuple):
    """What a node said, and when, in seconds; None when it did not answer."""

    at: float
    fields: Fields | None


def run(connect: str, interval: float, count: int, output: str) -> int:
    """Show the cluster until ``q`` or Ctrl-C, or ``count`` times (0 = no end); returns the exit status."""
    nodes = addresses(connect)
    live = sys.stdout.isatty() and not output
    count = count or (0 if live else 1)
    with ThreadPoolExecutor(len(nodes)) as threads, suppress(KeyboardInterrupt), _screen(live):
        # Rates need two looks, so that the first table has none to show unless it is the only one.
        before = list(threads.map(_look, nodes))
        shown = 0
        while True:
            if _wait(interval, live):
                break
            now = list(threads.map(_look, nodes))
            lines = list(table_lines(list(COLUMNS), _rows(nodes, before, now), output or "table"))
            if live:
                _draw([*lines, "", "q leaves"])
            else:
                write_lines(lines)
            before = now
            shown += 1
            if shown == count:
                break
    return OK if any(sample.fields for sample in before) else UNAVAILABLE


def _look(node: Address) -> Sample:
    secret = password()
    try:
        with RemoteStore([node], password=secret, patience=PATIENCE) as store:
            return Sample(time.monotonic(), store.fields())
    except KvstoreError:
        return Sample(time.monotonic(), None)


def _rows(nodes: list[Address], before: list[Sample], now: list[Sample]) -> list[list[object]]:
    chosen = max((_number(sample.fields, "chosen_upto") for sample in now if sample.fields), default=0)
    rows: list[list[object]] = []
    for (host, port), earlier, sample in zip(nodes, before, now, strict=True):
        fields = sample.fields
        if fields is None:
            rows.append([f"{host}:{port}", "down", *[None] * (len(COLUMNS) - 2)])
            continue
        seconds = max(sample.at - earlier.at, 0.001)
        done, cpu = (
            (_number(fields, name) - _number(earlier.fields, name)) / seconds if earlier.fields else 0.0
            for name in ("operations", "cpu_ms")
        )
        applied = _number(fields, "applied_upto")
        rows.append(
            [
                str(fields["node_id"]),
                str(fields["role"]),
                str(fields["ballot"]),
                _number(fields, "chosen_upto"),
                applied,
                max(chosen - applied, 0),
                max(round(done), 0),
                f"{_number(fields, 'p50_us') / 1_000:.2f}",
                f"{_number(fields, 'p99_us') / 1_000:.2f}",
                f"{_number(fields, 'log_bytes') / 1_048_576:.1f}",
                f"{_number(fields, 'memory_bytes') / 1_048_576:.0f}",
                f"{max(cpu, 0.0) / 10:.0f}",
            ]
        )
    return rows


def _number(fields: Fields, name: str) -> int:
    if name == "operations":
        return _number(fields, "reads") + _number(fields, "writes")
    return int(fields[name] or 0)


# -- the terminal -----------------------------------------------------------------------------------------------------


@contextmanager
def _screen(live: bool) -> Iterator[None]:
    """A screen of its own that takes single keys, and gives everything back as it was."""
    if not live or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    modes = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    sys.stdout.write(_ENTER)
    sys.stdout.flush()
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, modes)


def _wait(seconds: float, live: bool) -> bool:
    """Wait; True when somebody pressed ``q`` meanwhile."""
    if not live or not sys.stdin.isatty():
        time.sleep(seconds)
        return False
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0] and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b""):
            return True
    return False


def _draw(lines: list[str]) -> None:
    size = shutil.get_terminal_size()
    shown = [line[: size.columns] for line in lines[: size.lines - 1]]
    sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J")
    sys.stdout.flush()
