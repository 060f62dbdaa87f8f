"""Real node processes whose pipes are joined by a small router that loses, delays and repeats what they say."""

from __future__ import annotations

import heapq
import json
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from consensus.simulation.linearizability import PENDING
from tests.system.register import Kind, Operation, Request, Saw

INDEFINITE = (0, 13)
Body = dict[str, Any]


class Process:
    """One ``kvstore node`` and the threads that read what it prints."""

    def __init__(self, name: str, data_dir: Path | None, printed: Callable[[str, str], None]) -> None:
        command = [sys.executable, "-m", "kvstore", "node"]
        if data_dir is not None:
            command += ["--data-dir", str(data_dir)]
        self.name = name
        self.errors: list[str] = []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        out, err = self._process.stdout, self._process.stderr
        assert out is not None
        assert err is not None
        self._threads = [
            threading.Thread(target=_hand_on, args=(name, out, printed), daemon=True),
            threading.Thread(target=lambda: self.errors.extend(err), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return  # it was killed just now

    def stop(self, number: int) -> None:
        """End it by a signal, and its pipes with it."""
        self._process.send_signal(number)
        self._process.wait(10)
        for thread in self._threads:
            thread.join(10)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)


def _hand_on(name: str, lines: Iterable[str], printed: Callable[[str, str], None]) -> None:
    for line in lines:
        printed(name, line)


class Router:
    """A cluster of node processes. All faults come from one seeded generator; timing is the machine's."""

    def __init__(self, seed: int, nodes: int, directory: Path | None) -> None:
        self.random = random.Random(seed)
        self.names = [f"n{i + 1}" for i in range(nodes)]
        self.directory = directory
        self.loss = self.duplication = 0.0
        self.delay = (0.0, 0.0)
        self.cut: set[tuple[str, str]] = set()
        self.processes: dict[str, Process] = {}
        self.errors: list[str] = []
        self._lock = threading.Lock()
        self._due: list[tuple[float, int, str, str]] = []
        self._count = 0
        self._replies: dict[str, queue.Queue[Body]] = {}
        self._closed = threading.Event()
        self._deliverer = threading.Thread(target=self._deliver, daemon=True)
        self._deliverer.start()
        self.start(*self.names)

    # -- processes --------------------------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start nodes together, which takes as long as one, and initialise them."""
        for name in names:
            process = Process(name, self.directory / name if self.directory else None, self._printed)
            with self._lock:
                self.processes[name] = process
        for name in names:
            client = Client(self, f"init-{name}-{self._next()}")
            reply = client.call(name, {"type": "init", "node_id": name, "node_ids": self.names}, 20)
            assert reply is not None, f"{name} does not start: {self.processes[name].errors}"
            assert reply["type"] == "init_ok", reply

    def kill(self, name: str) -> None:
        with self._lock:
            process = self.processes.pop(name)
        process.stop(signal.SIGKILL)
        self.errors += process.errors

    def close(self) -> None:
        self._closed.set()
        self._deliverer.join(10)
        for name in list(self.processes):
            process = self.processes.pop(name)
            process.stop(signal.SIGTERM)
            self.errors += process.errors

    # -- faults -----------------------------------------------------------------------------------------------------

    def partition(self, *pairs: tuple[str, str]) -> None:
        self.cut = set(pairs)

    def heal(self) -> None:
        self.cut = set()
        self.loss = self.duplication = 0.0
        self.delay = (0.0, 0.0)

    # -- messages ---------------------------------------------------------------------------------------------------

    def post(self, dest: str, message: Body) -> None:
        """Hand a client's message to a node, at once."""
        with self._lock:
            process = self.processes.get(dest)
        if process is not None:
            process.send(json.dumps(message))

    def register(self, client: str) -> queue.Queue[Body]:
        self._replies[client] = queue.Queue()
        return self._replies[client]

    def _printed(self, sender: str, line: str) -> None:
        message = json.loads(line)
        dest = message["dest"]
        if dest in self._replies:
            self._replies[dest].put(message["body"])
            return
        if dest not in self.names or (sender, dest) in self.cut:
            return
        for _ in range(1 + (self.random.random() < self.duplication)):
            if self.random.random() >= self.loss:
                due = time.monotonic() + self.random.uniform(*self.delay)
                with self._lock:
                    heapq.heappush(self._due, (due, self._next(), dest, line.rstrip("\n")))

    def _deliver(self) -> None:
        while not self._closed.is_set():
            ready: list[tuple[Process, str]] = []
            with self._lock:
                while self._due and self._due[0][0] <= time.monotonic():
                    _, _, dest, line = heapq.heappop(self._due)
                    if dest in self.processes:
                        ready.append((self.processes[dest], line))
            for process, line in ready:
                process.send(line)
            if not ready:
                time.sleep(0.0005)

    def _next(self) -> int:
        self._count += 1
        return self._count


class Client:
    """Sends one request at a time and remembers its history."""

    def __init__(self, router: Router, name: str) -> None:
        self.name = name
        self.history: dict[str, list[Operation]] = {}
        self._router = router
        self._inbox = router.register(name)
        self._msg_id = 0

    def call(self, node: str, body: Body, patience: float = 5) -> Body | None:
        """The body of the reply, None when there was none in time."""
        self._msg_id += 1
        self._router.post(node, {"src": self.name, "dest": node, "body": {**body, "msg_id": self._msg_id}})
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            try:
                reply = self._inbox.get(timeout=left)
            except queue.Empty:
                return None
            if reply["in_reply_to"] == self._msg_id:
                return reply
        return None

    def operate(self, node: str, kind: Kind, key: str, *arguments: int, patience: float = 4) -> None:
        """One lin-kv operation, with what came of it in the history."""
        names = {"read": (), "write": ("value",), "cas": ("from", "to")}[kind]
        called = time.monotonic()
        reply = self.call(node, {"type": kind, "key": key, **dict(zip(names, arguments, strict=True))}, patience)
        returned = time.monotonic()
        result: object = None
        if reply is None or (reply["type"] == "error" and reply["code"] in INDEFINITE):
            returned = PENDING
        elif reply["type"] == "error":
            if reply["code"] == 11 or (kind == "cas" and reply["code"] not in (20, 22)):
                return  # it certainly did not happen
            assert reply["code"] in (20, 22), reply
            result = Saw(None) if kind == "read" else False
        else:
            result = Saw(reply["value"]) if kind == "read" else True
        operation = Operation(self.name, called, returned, Request(kind, arguments), result)
        self.history.setdefault(key, []).append(operation)
