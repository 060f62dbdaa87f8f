"""``kvstore`` on a slow disk: every write of the log or the state first waits for as many seconds as a file says.

    python -m tests.system.slow_disk FILE python -m cli serve ...

Without the file it does not wait.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from cli.app import main
from consensus.messages import Record
from kvstore.state.machine import Batch, StateMachine
from kvstore.storage.log_store import SqliteLog


def slow_down(delay: Path) -> None:
    append, write, write_records = SqliteLog.append, StateMachine.write, SqliteLog.write_records

    def wait() -> None:
        with suppress(FileNotFoundError, ValueError):
            time.sleep(float(delay.read_text()))

    def slow_append(log: SqliteLog, records: Sequence[Record], state_upto: int = 0) -> None:
        with log._lock:  # as during an fsync: who needs the lock has to wait too
            wait()
        append(log, records, state_upto)

    def slow_write_records(log: SqliteLog, write: Callable[[sqlite3.Connection], None]) -> None:
        with log._lock:
            wait()
        write_records(log, write)

    def slow_write(state: StateMachine, batch: Batch) -> int:
        wait()
        return write(state, batch)

    SqliteLog.append = slow_append  # type: ignore[assignment, method-assign]
    SqliteLog.write_records = slow_write_records  # type: ignore[method-assign]
    StateMachine.write = slow_write  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    slow_down(Path(sys.argv[1]))
    sys.argv = ["kvstore", *sys.argv[5:]]
    main()
