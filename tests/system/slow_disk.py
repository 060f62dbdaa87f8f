"""``kvstore`` on a slow disk: every write of the log or the state first waits for as many seconds as a file says.

    python -m tests.system.slow_disk FILE python -m cli serve ...

Without the file it does not wait.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from cli.app import main
from kvstore.log_store import SqliteLog
from kvstore.state_machine import StateMachine

_Disk = TypeVar("_Disk")
_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def slowed(
    write: Callable[Concatenate[_Disk, _Given], _Made], delay: Path
) -> Callable[Concatenate[_Disk, _Given], _Made]:
    def slow(disk: _Disk, /, *arguments: _Given.args, **options: _Given.kwargs) -> _Made:
        with suppress(FileNotFoundError, ValueError):
            time.sleep(float(delay.read_text()))
        return write(disk, *arguments, **options)

    return slow


if __name__ == "__main__":
    file = Path(sys.argv[1])
    SqliteLog.append = slowed(SqliteLog.append, file)  # type: ignore[assignment, method-assign]
    StateMachine.write = slowed(StateMachine.write, file)  # type: ignore[assignment, method-assign]
    sys.argv = ["kvstore", *sys.argv[5:]]
    main()
