"""``kvstore`` on a slow disk: every write of the log or the state first waits for as many seconds as a file says.

    python -m tests.system.slow_disk FILE python -m cli serve ...

Without the file it does not wait.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cli.app import main
from consensus.messages import Record
from kvstore.state.machine import Batch, StateMachine
from kvstore.storage.log_store import SqliteLog


def slow_down(delay: Path) -> None:
    append, write = SqliteLog.append, StateMachine.write

    def wait() -> None:
        with suppress(FileNotFoundError, ValueError):
            time.sleep(float(delay.read_text()))

    def slow_append(log: SqliteLog, records: Sequence[Record]) -> None:
        with log._lock:  # as during an fsync: who needs the lock has to wait too
            wait()
        append(log, records)

    def slow_write(state: StateMachine, batch: Batch) -> int:
        wait()
        return write(state, batch)

    SqliteLog.append = slow_append  # type: ignore[assignment, method-assign]
    StateMachine.write = slow_write  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    slow_down(Path(sys.argv[1]))
    sys.argv = ["kvstore", *sys.argv[5:]]
    main()
