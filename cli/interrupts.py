"""Ctrl-C that never ends a store's work half-way.

An exception in the middle of a store's Python code could leave a command half executed in memory, and closing the store
would write that down. So Ctrl-C is only noted while such a store works, and takes effect where nothing is under way. A
cluster's nodes go on by themselves whatever becomes of who asked them: there it takes effect at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, Self

from cli.exits import INTERRUPTED

PRESSES: Final = 3


class Interrupts:
    """While it is entered, Ctrl-C takes effect in :meth:`check` and :meth:`allowed` only, or, ``at_once``, always."""

    def __init__(self, *, at_once: bool = False) -> None:
        self._pending = False
        self._allowed = at_once

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        self._allowed = False
        signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._pending:
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Ctrl-C takes effect at once: for waiting on input."""
        self.check()
        before, self._allowed = self._allowed, True
        try:
            yield
        finally:
            self._allowed = before

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._pending = True
        if self._allowed:
            raise KeyboardInterrupt


@contextmanager
def interrupted_at_once() -> Iterator[None]:
    """Ctrl-C ends the process, even within a function of SQLite, where Python hears nothing: for what only reads."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def ended_by_repetition() -> Iterator[None]:
    """Ctrl-C pressed three times ends the process, even within a function of SQLite, where Python hears nothing.

    It is as safe as kill -9: what was acknowledged is on disk.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    watch = threading.Thread(target=_end_process, args=(heard,), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)
        watch.join()
        os.close(heard)


def _end_process(heard: int) -> None:
    pressed = 0
    while signals := os.read(heard, 64):
        pressed += signals.count(signal.SIGINT)
        if pressed >= PRESSES:
            print("kvstore: ended within a query; what was acknowledged is on disk", file=sys.stderr, flush=True)
            os._exit(INTERRUPTED)
        if pressed == PRESSES - 1:
            print(
                "kvstore: the query ends with the function that it is in; Ctrl-C once more ends kvstore",
                file=sys.stderr,
            )
