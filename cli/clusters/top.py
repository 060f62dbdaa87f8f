"""``kvstore top``: a live view of a cluster, with one row for each node."""

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

import msgspec

from cli.exits import OK, UNAVAILABLE, complain, write_lines
from cli.render import table_lines
from cli.target import reach
from kvstore.addresses import Address, address_text, addresses
from kvstore.errors import KvstoreError
from kvstore.handles.remote import Fields
from kvstore.server.settings import SettingsError

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
"""For people; programs get the fields of NodeRow."""
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


class Sample(NamedTuple):
    """What a node answered, and when, in seconds. ``fields`` is None if it did not answer; ``error`` then says why."""

    at: float
    fields: Fields | None
    error: str = ""
    name: str = ""
    """The node's id, "" as long as it has never answered."""


class NodeRow(msgspec.Struct, frozen=True):
    """A node between two looks; of one that is ``down`` its address is all there is. Sizes are in bytes."""

    node: str
    role: str
    ballot: str | None = None
    chosen: int | None = None
    applied: int | None = None
    lag: int | None = None
    ops_per_second: int | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    log_bytes: int | None = None
    memory_bytes: int | None = None
    cpu_percent: float | None = None
    error: str | None = None


def run(connect: str, interval: float, count: int, output: str) -> int:
    """Show the cluster until ``q`` or Ctrl-C, or ``count`` times (0 = no end); returns the exit status."""
    nodes = addresses(connect)
    live = sys.stdout.isatty() and not output
    count = count or (0 if live else 1)
    with ThreadPoolExecutor(len(nodes)) as threads, suppress(KeyboardInterrupt), _screen(live):
        # Rates need two samples: one is taken before the first table.
        before = list(threads.map(_look, nodes))
        shown = 0
        while True:
            if _wait(interval, live):
                break
            looked = threads.map(_look, nodes)
            now = [new._replace(name=new.name or old.name) for new, old in zip(looked, before, strict=True)]
            rows = _rows(nodes, before, now)
            errors = [row.error for row in rows if row.error]
            if live:
                _draw([*_table(rows), "", *errors, *([""] if errors else []), "q leaves"])
            elif output in ("", "table"):
                write_lines(_table(rows))
                for error in errors:
                    complain(error)
            else:
                write_lines(_listing(rows, output))
            before = now
            shown += 1
            if shown == count:
                break
    return OK if any(sample.fields for sample in before) else UNAVAILABLE


def _look(node: Address) -> Sample:
    try:
        with reach([node], PATIENCE) as store:
            fields = store.fields()
            return Sample(time.monotonic(), fields, name=str(fields["node_id"]))
    except SettingsError:
        raise  # not the fault of a node
    except KvstoreError as error:
        return Sample(time.monotonic(), None, str(error))


def _rows(nodes: list[Address], before: list[Sample], now: list[Sample]) -> list[NodeRow]:
    chosen = max((_number(sample.fields, "chosen_upto") for sample in now if sample.fields), default=0)
    rows: list[NodeRow] = []
    for node, earlier, sample in zip(nodes, before, now, strict=True):
        fields = sample.fields
        if fields is None:
            rows.append(NodeRow(sample.name or address_text(node), "down", error=sample.error))
            continue
        seconds = max(sample.at - earlier.at, 0.001)
        done, cpu = (
            max(_number(fields, name) - _number(earlier.fields, name), 0) / seconds if earlier.fields else 0.0
            for name in ("operations", "cpu_ms")
        )
        applied = _number(fields, "applied_upto")
        rows.append(
            NodeRow(
                node=str(fields["node_id"]),
                role=str(fields["role"]),
                ballot=str(fields["ballot"]),
                chosen=_number(fields, "chosen_upto"),
                applied=applied,
                lag=0 if fields["role"] == "leader" else max(chosen - applied, 0),
                ops_per_second=round(done),
                p50_ms=_number(fields, "p50_us") / 1_000,
                p99_ms=_number(fields, "p99_us") / 1_000,
                log_bytes=_number(fields, "log_bytes"),
                memory_bytes=_number(fields, "memory_bytes"),
                cpu_percent=round(cpu / 10, 1),
            )
        )
    return rows


def _table(rows: list[NodeRow]) -> list[str]:
    cells = [
        [
            *(row.node, row.role, row.ballot, row.chosen, row.applied, row.lag, row.ops_per_second),
            *(_scaled(row.p50_ms, 1, 2), _scaled(row.p99_ms, 1, 2), _scaled(row.log_bytes, 1_048_576, 1)),
            *(_scaled(row.memory_bytes, 1_048_576, 0), _scaled(row.cpu_percent, 1, 0)),
        ]
        for row in rows
    ]
    return list(table_lines(COLUMNS, cells, "table"))


def _scaled(value: float | None, unit: int, digits: int) -> str | None:
    return None if value is None else f"{value / unit:.{digits}f}"


def _listing(rows: list[NodeRow], output: str) -> list[str]:
    return list(table_lines(NodeRow.__struct_fields__, [msgspec.structs.astuple(row) for row in rows], output))


def _number(fields: Fields, name: str) -> int:
    if name == "operations":
        return _number(fields, "reads") + _number(fields, "writes")
    return int(fields[name] or 0)


# -- the terminal -----------------------------------------------------------------------------------------------------


@contextmanager
def _screen(live: bool) -> Iterator[None]:
    """Switch to a separate screen that reads single keys, and restore the terminal afterwards."""
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
    sys.stdout.write("\x1b[H" + "".join(f"\x1b[K{line}\n" for line in shown) + "\x1b[J")
    sys.stdout.flush()
