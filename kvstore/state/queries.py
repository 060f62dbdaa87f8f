"""A server's SQL: queries on what is committed, in processes that are killed when their time is over."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock

import msgspec

from kvstore.errors import KvstoreError
from kvstore.state.sql import MAX_QUERY_BYTES, Table
from kvstore.state.sql_worker import LENGTH, MEMORY, Answer, Question, table

MAX_AT_ONCE = 2
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from kvstore.state.sql_worker import main; main(sys.argv[2])"
)

_ENDING = "the query was given up: the node is ending"

_decode = msgspec.msgpack.Decoder(Answer).decode
_encode = msgspec.msgpack.Encoder().encode


class Queries:
    """Runs queries on what a database has committed, each in a process of its own, so that nothing else waits for them.

    The first query starts a process; one that has answered stays for the next query. A thread for each waits for it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, "sql")
        self._lock = Lock()
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._closing = False

    def start(self, query: str, seconds: float, done: Callable[[Table | KvstoreError], None]) -> None:
        """Run a query, which is given up after ``seconds``; ``done`` is called on any thread."""
        if self._closing:
            done(KvstoreError(_ENDING))
            return
        deadline = time.monotonic() + seconds
        running = self._threads.submit(self._run, query, seconds, deadline)
        running.add_done_callback(partial(_tell, done))

    def _run(self, query: str, seconds: float, deadline: float) -> Table:
        size = len(query.encode("utf-8", "surrogatepass"))
        if size > MAX_QUERY_BYTES:
            raise KvstoreError(f"the query has {size:,} bytes, at most {MAX_QUERY_BYTES:,} are allowed: shorten it")
        process = self._borrow()
        is_reusable = False
        try:
            answer = process.ask(query, deadline)
            is_reusable = not answer.is_last
        except TimeoutError:
            raise KvstoreError(
                f"the query was given up after {seconds:g} s (--request-timeout): make it smaller, or query a copy of"
                " state.db"
            ) from None
        except (EOFError, BrokenPipeError, msgspec.DecodeError):
            why = "the node is ending" if self._closing else "its process ended, perhaps for want of memory"
            raise KvstoreError(f"the query was given up: {why}; it may use {MEMORY:,} bytes: make it smaller") from None
        finally:
            self._give_back(process, is_reusable)
        return table(answer)

    def _borrow(self) -> _Process:
        with self._lock:
            if self._closing:
                raise KvstoreError(_ENDING)
            # Started within the lock, so that none is left over when the node ends.
            process = self._idle.pop() if self._idle else _Process(self._path)
            self._busy.add(process)
            return process

    def _give_back(self, process: _Process, is_reusable: bool) -> None:
        with self._lock:
            self._busy.discard(process)
            if is_reusable and not self._closing:
                self._idle.append(process)
                return
        process.close()

    def close(self) -> None:
        """Give up the queries that are running."""
        with self._lock:
            self._closing = True
            for process in self._busy:  # its thread finds it gone
                process.kill()
            for process in self._idle:
                process.close()
            self._idle.clear()
        self._threads.shutdown(cancel_futures=True)


class _Process:
    """One process that answers queries."""

    def __init__(self, path: Path) -> None:
        paths = [os.fspath(Path(part).absolute()) for part in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(paths), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("KVSTORE_")},
            start_new_session=True,  # Ctrl-C on a terminal is for the node
        )

    def ask(self, query: str, deadline: float) -> Answer:
        """Raises TimeoutError when the time is over, and EOFError or BrokenPipeError when the process is gone."""
        assert self._process.stdin is not None
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        data = _encode(Question(query, left))
        self._process.stdin.write(LENGTH.pack(len(data)) + data)
        self._process.stdin.flush()
        (length,) = LENGTH.unpack(self._read(LENGTH.size, deadline))
        return _decode(self._read(length, deadline))

    def _read(self, count: int, deadline: float) -> bytearray:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        ready = select.poll()
        ready.register(descriptor, select.POLLIN)
        data = bytearray()
        while len(data) < count:
            left = deadline - time.monotonic()
            if left <= 0 or not ready.poll(left * 1_000):
                raise TimeoutError
            piece = os.read(descriptor, min(count - len(data), 1_048_576))
            if not piece:
                raise EOFError
            data += piece
        return data

    def kill(self) -> None:
        """End it whatever it is doing."""
        self._process.kill()

    def close(self) -> None:
        """End it and forget it; nobody may be asking it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it did not read
                    pipe.close()


def _tell(done: Callable[[Table | KvstoreError], None], running: Future[Table]) -> None:
    if running.cancelled():
        return
    error = running.exception()
    if error is None:
        done(running.result())
    elif isinstance(error, KvstoreError):
        done(error)
    else:
        done(KvstoreError(f"SQL: {error}"))  # such as MemoryError, or no room for another process
