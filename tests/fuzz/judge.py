"""What a cluster must be like after whatever clients sent: alive, alike, without a fault, and able to start again."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

from tests.fuzz.outcome import Outcome
from tests.system.servers import SOURCES, Servers, eventually

SETTLING_SECONDS = 120.0
_FAULT = re.compile(r"^\S+ \w+\s+(bug|request_failed|slot_failed)\b|^Traceback", re.MULTILINE)
"""In a node's log: a fault of the program, whether or not it ended anything."""
_LONG_TURN = re.compile(r"^.*\blong_turn\b.*\b(\d+) ms on a processor.*$", re.MULTILINE)


def memory_figure() -> int:
    """MiB that a node can need at most, as documented."""
    found = re.search(r"A node needs at most about (\d+)\.(\d) GB", (SOURCES / "docs" / "operations.md").read_text())
    assert found
    return (int(found[1]) * 10 + int(found[2])) * 100


def peak_memory(pid: int) -> int:
    """The most memory that a process ever had, in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def measure(servers: Servers, name: str, outcome: Outcome) -> None:
    """Note what a node says of itself; before it ends, since its next process begins anew."""
    status = servers.status(name)
    turns, longest = int(status.get("long_turns", 0)), int(status.get("longest_turn_ms", 0))
    outcome.measured(name, peak_memory(servers.pid(name)), turns, longest, status.get("longest_turn", ""))


def digest(state: Path, lasting_from: int) -> str:
    """What a store holds: a digest of all keys but those that expire before ``lasting_from``, in ms since 1970."""
    found = hashlib.sha256()
    with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as database:
        names = [row[1] for row in database.execute("PRAGMA table_info(kv)")]
        expires = names.index("expires")
        for row in database.execute("SELECT * FROM kv ORDER BY key"):
            if row[expires] is None or row[expires] == 0 or row[expires] > lasting_from:
                for column in row:
                    found.update(column if isinstance(column, bytes) else repr(column).encode())
                    found.update(b"|%d|" % (len(column) if isinstance(column, bytes) else 0))
    return found.hexdigest()


def faults(log: str) -> str:
    """The first fault of the program that a node's log tells of, "" if none."""
    found = _FAULT.search(log)
    return log[found.start() : found.start() + 3_000] if found else ""


def long_turns(log: str) -> list[tuple[int, str]]:
    """The long turns that a node's log tells of: the ms that each had a processor, and its line."""
    return [(int(found[1]), found[0]) for found in _LONG_TURN.finditer(log)]


def judge(servers: Servers, outcome: Outcome) -> None:
    """Add to the complaints whatever is wrong with the cluster, which serves again afterwards if nothing is."""
    dead = [name for name in servers.names if not servers.is_running(name)]
    for name in dead:
        outcome.complain(f"{name} ended: {servers.log(name)[-3_000:]}")
    if not dead:
        try:
            _settle_and_compare(servers, outcome)
        except (AssertionError, OSError, sqlite3.Error, subprocess.SubprocessError) as error:
            outcome.complain(f"the cluster does not settle: {error!r}")
    for name in servers.names:
        if fault := faults(servers.log(name)):
            outcome.complain(f"the log of {name} tells of a fault: {fault}")
        outcome.busy_turns += long_turns(servers.log(name))


def _settle_and_compare(servers: Servers, outcome: Outcome) -> None:
    servers.wait_until_serving(seconds=SETTLING_SECONDS)
    _agree(servers)
    for name in servers.names:
        measure(servers, name, outcome)
    _restart(servers, outcome)  # requests of clients that left may have been under way until now
    _agree(servers)
    lasting_from = int(time.time() * 1_000) + 60_000
    _stop(servers, outcome)
    digests = {name: digest(servers.root / name / "state.db", lasting_from) for name in servers.names}
    if len(set(digests.values())) > 1:
        outcome.complain(f"the replicas differ: {digests}")
    servers.start()
    servers.wait_until_serving(seconds=SETTLING_SECONDS)


def _agree(servers: Servers) -> None:
    def alike() -> bool:
        return len({servers.status(name).get("applied_upto") for name in servers.names} - {None}) == 1

    eventually(alike, "all nodes have applied the same slots", SETTLING_SECONDS)


def _restart(servers: Servers, outcome: Outcome) -> None:
    _stop(servers, outcome)
    servers.start()
    servers.wait_until_serving(seconds=SETTLING_SECONDS)


def _stop(servers: Servers, outcome: Outcome) -> None:
    for name in servers.names:
        if status := servers.stop(name):
            outcome.complain(f"{name} ended with {status} when told to: {servers.log(name)[-3_000:]}")
