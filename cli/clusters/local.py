"""``kvstore cluster``: several nodes on this machine, with their logs in one stream."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from cli.exits import OK, UNAVAILABLE, USAGE, complain, write_lines
from consensus.membership import MAX_NODES
from kvstore.errors import UnavailableError

HOST = "127.0.0.1"
PEER_PORTS = 1_000
"""The ports on which nodes listen for each other are this much higher than those for clients."""
PATIENCE_SECONDS = 15.0
"""How long nodes that were told to end may take."""
POLL_SECONDS = 0.1

_COLOURS = (36, 33, 35, 32, 34)


class Plan(msgspec.Struct, frozen=True):
    """One node of the cluster to be; ``options`` are those that all nodes are given."""

    node_id: str
    client_port: int
    peer_port: int
    data_dir: Path
    options: tuple[str, ...]

    def arguments(self, cluster: str) -> list[str]:
        """The command line of the process that runs this node. ``cluster``: every node's id and address."""
        here = str(Path(__file__).parents[2])
        program = f"import sys; sys.path.insert(0, {here!r}); from cli.app import main; main()"
        options = {
            "--node-id": self.node_id,
            "--data-dir": str(self.data_dir),
            "--client-listen": f"{HOST}:{self.client_port}",
            "--peer-listen": f"{HOST}:{self.peer_port}",
            "--initial-cluster": cluster,
            "--log-format": "human",
        }
        given = [word for option in options.items() for word in option]
        return [sys.executable, "-P", "-c", program, "serve", "--end-with-stdin", *given, *self.options]


def run(nodes: int, data_dir: Path | None, base_port: int, options: Sequence[str]) -> int:
    """Run a cluster until SIGINT or SIGTERM, or until every node has ended. Returns the exit status.

    ``options`` of ``kvstore serve`` are given to every node.
    Raises UnavailableError when one of its ports is in use.
    """
    if nodes > MAX_NODES:
        complain(f"--nodes must be at most {MAX_NODES}, not {nodes}: start a smaller cluster")
        return USAGE
    if base_port + PEER_PORTS + nodes - 1 > 65_535:
        complain(f"--base-port must be at most {65_536 - PEER_PORTS - nodes} with {nodes} nodes")
        return USAGE
    with _directory(data_dir) as directory:
        plans = [
            Plan(name, base_port + index, base_port + PEER_PORTS + index, directory / name, tuple(options))
            for index, name in enumerate(f"n{number + 1}" for number in range(nodes))
        ]
        _check_ports([port for plan in plans for port in (plan.client_port, plan.peer_port)])
        with _end_signals() as told:
            return _Cluster(plans, told).run()


@contextmanager
def _directory(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen
        return
    with tempfile.TemporaryDirectory(prefix="kvstore-", ignore_cleanup_errors=True) as name:
        write_lines([f"The data is in {name} until the cluster ends; keep it with --data-dir."])
        yield Path(name)


def _check_ports(ports: list[int]) -> None:
    taken = []
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                taken.append(str(port))
    if taken:
        several = "ports" if len(taken) > 1 else "port"
        raise UnavailableError(f"{several} {', '.join(taken)} cannot be used: choose others with --base-port")


@contextmanager
def _end_signals() -> Iterator[queue.SimpleQueue[int]]:
    """The signals that ask this process to end, as they come."""
    told: queue.SimpleQueue[int] = queue.SimpleQueue()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, frame: told.put(number)) for number in numbers}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Cluster:
    """Runs the processes of a cluster, and prints what they write."""

    def __init__(self, plans: list[Plan], told: queue.SimpleQueue[int]) -> None:
        self._plans = plans
        self._told = told
        self._printing = threading.Lock()
        self._coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._readers: dict[str, threading.Thread] = {}

    def run(self) -> int:
        """Until a signal, or until no node is left."""
        try:
            for plan in self._plans:
                self._start(plan)
            return self._watch()
        finally:
            self._end()

    def _start(self, plan: Plan) -> None:
        cluster = ",".join(f"{plan.node_id}={HOST}:{plan.peer_port}" for plan in self._plans)
        process = subprocess.Popen(
            plan.arguments(cluster),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if not name.startswith("KVSTORE_")},
            start_new_session=True,  # Ctrl-C reaches this process only, which then ends the nodes
        )
        self._running[plan.node_id] = process
        reader = threading.Thread(target=self._pass_on, args=(plan.node_id, process), daemon=True)
        reader.start()
        self._readers[plan.node_id] = reader

    def _pass_on(self, node: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._print(node, line.decode(errors="replace").rstrip("\n"))

    def _print(self, node: str, line: str) -> None:
        prefix = f"{node:<{len(self._plans[-1].node_id)}} |"
        if self._coloured:
            number = next(index for index, plan in enumerate(self._plans) if plan.node_id == node)
            prefix = f"\x1b[{_COLOURS[number % len(_COLOURS)]}m{prefix}\x1b[0m"
        with self._printing, suppress(OSError):  # nodes must not wait for somebody who reads this
            print(f"{prefix} {line}", file=sys.stderr, flush=True)

    def _watch(self) -> int:
        greeted = False
        while self._running:
            if not greeted and all(_accepts(plan.client_port) for plan in self._plans):
                greeted = True
                self._greet()
            if self._wait(POLL_SECONDS):
                return OK
            self._note_ended()
        complain("no node of the cluster is left: see their last lines above")
        return UNAVAILABLE

    def _wait(self, seconds: float) -> bool:
        try:
            self._told.get(timeout=seconds)
        except queue.Empty:
            return False
        return True

    def _note_ended(self) -> None:
        """Print which nodes have ended, and forget them."""
        for node, process in list(self._running.items()):
            status = process.poll()
            if status is None:
                continue
            del self._running[node]
            self._readers[node].join(1.0)  # so that its last lines are printed before this one
            how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
            left = len(self._running)
            self._print(node, f"ended {how}; {left} of {len(self._plans)} nodes {'is' if left == 1 else 'are'} left")

    def _greet(self) -> None:
        addresses = ",".join(f"{HOST}:{plan.client_port}" for plan in self._plans)
        with self._printing:
            write_lines(
                [
                    "The cluster is up. Any node serves any command; Ctrl-C ends them all.",
                    f"  redis-cli -p {self._plans[0].client_port}",
                    f"  kvstore repl --connect {addresses}",
                ]
            )

    def _end(self) -> None:
        """Ask every node to end; kill those left after a while, or at a second signal."""
        for process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(process.poll() is None for process in self._running.values()):
            if self._wait(0.02) or time.monotonic() > deadline:
                for process in self._running.values():
                    process.kill()
                break
        for process in self._running.values():
            process.wait()
        for reader in self._readers.values():
            reader.join(1.0)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True
