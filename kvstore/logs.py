"""Log lines: an event's name and its fields, for people on a terminal and as JSON for machines."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import time
from contextlib import suppress
from typing import Literal, TextIO

from kvstore import clocks

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "human", "json"]
LIMIT_SECONDS = 10.0
"""How long a limited event, once logged, is left out for the same key."""
PIECE_BYTES = 4_096
"""A pipe that has any room takes this many bytes at once (POSIX's PIPE_BUF on Linux)."""
PATIENCE_MS = 100
"""How long the rest of a line waits for room."""

_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "debug": "\x1b[2m"}
_ROOT = "kvstore"


class Logger:
    """Logs the events of one part of the program."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{_ROOT}.{name}")
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def debug(self, event: str, **fields: object) -> None:
        self._tell(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._tell(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._tell(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._tell(logging.ERROR, event, fields)

    def limited(self, event: str, key: str, *, level: Level = "info", **fields: object) -> None:
        """Log an event that may occur very often: once in ten seconds for each key, with how many were left out."""
        now = clocks.seconds()
        told_at, left_out = self._told.get((event, key), (-LIMIT_SECONDS, 0))
        if now - told_at < LIMIT_SECONDS:
            self._told[event, key] = told_at, left_out + 1
            return
        if len(self._told) > 1_000:  # keys may be anything that strangers send
            self._told.clear()
        self._told[event, key] = now, 0
        if left_out:
            fields["left_out"] = left_out
        self._tell(logging.getLevelNamesMapping()[level.upper()], event, fields)

    def forget_told(self) -> None:
        self._told.clear()

    def _tell(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={"fields": fields})


_LOGGERS: list[Logger] = []


def get(name: str) -> Logger:
    """The logger of one part of the program."""
    _LOGGERS.append(Logger(name))
    return _LOGGERS[-1]


def forget_told() -> None:
    """Begin anew, as another process does: no limited event was logged yet."""
    for logger in _LOGGERS:
        logger.forget_told()


def configure(form: Format, level: Level, node: str) -> None:
    """Send log lines to standard error: for people on a terminal, else as JSON, unless ``form`` says which."""
    on_terminal = sys.stderr.isatty()
    handler = _Lines(sys.stderr)
    if form == "human" or (form == "auto" and on_terminal):
        handler.setFormatter(_ForPeople(coloured=on_terminal and "NO_COLOR" not in os.environ))
    else:
        handler.setFormatter(_ForMachines(node))
    root = logging.getLogger(_ROOT)
    root.handlers = [handler]
    root.propagate = False
    root.setLevel(level.upper())
    logging.raiseExceptions = False  # a full disk or a closed terminal must not fill it with traces


class _Lines(logging.Handler):
    """Writes lines to a stream, and leaves them out while nobody reads it, so that the node does not wait."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._left_out = 0
        self._ready: select.poll | None = None
        try:
            self._descriptor = _descriptor(stream)
        except OSError:  # a stream in memory
            return
        self._ready = select.poll()
        self._ready.register(self._descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._ready is not None and not self._ready.poll(0):
                self._left_out += 1
                return
            if self._left_out:
                _fields(record)["lines_left_out"] = self._left_out
                self._left_out = 0
            self._write(record)
        except Exception:
            self.handleError(record)

    def _write(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n"
        if self._ready is None:
            self._stream.write(line)
            return
        data = rest = line.encode("utf-8", "backslashreplace")
        while rest:
            if not self._ready.poll(0 if rest is data else PATIENCE_MS):
                self._left_out += 1
                return
            rest = rest[os.write(self._descriptor, rest[:PIECE_BYTES]) :]


def _descriptor(stream: TextIO) -> int:
    """A terminal may have less room than a line takes: it is opened anew, so that a write need not wait.

    The parent process shares the open file, and must not find it non-blocking.
    """
    found = stream.fileno()
    if os.isatty(found):
        with suppress(OSError):
            return os.open(os.ttyname(found), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    return found


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", {})
    return fields if isinstance(fields, dict) else {}


class _ForPeople(logging.Formatter):
    def __init__(self, *, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        words = [f"{name}={_word(value)}" for name, value in _fields(record).items()]
        level = record.levelname.lower()
        line = " ".join([f"{clock}.{int(record.msecs):03}", f"{level:<7}", record.getMessage(), *words])
        colour = _COLOURS.get(level) if self._coloured else None
        return f"{colour}{line}\x1b[0m" if colour else line


class _ForMachines(logging.Formatter):
    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return json.dumps(
            {
                "ts": f"{clock}.{int(record.msecs):03}Z",
                "level": record.levelname.lower(),
                "event": record.getMessage(),
                "node": self._node,
                **_fields(record),
            },
            default=str,
        )


def _word(value: object) -> str:
    """A value as one word that cannot be taken for two, and that cannot steer a terminal."""
    text = str(value)
    plain = text and text.isprintable() and not any(char in ' "=' for char in text)
    return text if plain else json.dumps(text)
