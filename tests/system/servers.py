"""Real nodes on loopback: processes of ``kvstore serve``, to be killed, paused and started again.

``KVSTORE_INSTALLED`` names the command ``kvstore`` of another build to run; without it the sources here are run.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

HOST = "127.0.0.1"
START_SECONDS = 20.0
SOURCES = Path(__file__).parents[2]
INSTALLED = tuple(filter(None, [os.environ.get("KVSTORE_INSTALLED")]))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind((HOST, 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def patience(seconds: float) -> float:
    """So long, and longer on a machine that has more to do than it has cores for."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / 2)


def eventually(holds: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Wait until something holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Servers:
    """A cluster of processes; ``log(name)`` is what a node said so far."""

    def __init__(self, root: Path, count: int = 3, arguments: Sequence[str] = (), password: str | None = None) -> None:
        self.root = root
        self._password = password
        self.names = [f"n{number}" for number in range(1, count + 1)]
        ports = free_ports(2 * count)
        self.ports = dict(zip(self.names, ports[:count], strict=True))
        self.peers = dict(zip(self.names, ports[count:], strict=True))
        self._arguments = list(arguments)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str, prefix: Sequence[str] = (), via: Mapping[str, int] | None = None) -> None:
        """Start nodes, all without names. ``via``: where they reach others, if not at the ports of these."""
        for name in names or self.names:
            cluster = ",".join(f"{node}={HOST}:{port}" for node, port in {**self.peers, **(via or {})}.items())
            command = [
                *prefix,
                *(INSTALLED or (sys.executable, "-m", "cli")),
                *("serve", "--log-format", "human"),
                *("--node-id", name, "--data-dir", str(self.root / name)),
                *("--client-listen", f"{HOST}:{self.ports[name]}", "--peer-listen", f"{HOST}:{self.peers[name]}"),
                *("--initial-cluster", cluster, *self._arguments),
            ]
            with (self.root / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.root if INSTALLED else SOURCES
                )

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text()

    def kill(self, *names: str) -> None:
        """kill -9, all without names."""
        for name in names or self.names:
            self._processes[name].kill()
        for name in names or self.names:
            self._processes[name].wait()

    def stop(self, name: str) -> int:
        """SIGTERM; the exit status."""
        self._processes[name].terminate()
        return self._processes[name].wait(timeout=60)

    def wait(self, name: str) -> int:
        """Until it ends by itself; the exit status."""
        return self._processes[name].wait(timeout=START_SECONDS)

    def pause(self, name: str) -> None:
        os.kill(self._processes[name].pid, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        os.kill(self._processes[name].pid, signal.SIGCONT)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def is_running(self, name: str) -> bool:
        return self._processes[name].poll() is None

    def wait_for_exit(self, name: str) -> int:
        return self._processes[name].wait(timeout=20)

    def client(self, name: str, **options: object) -> redis.Redis:
        """A client of one node, which tries nothing twice."""
        options = {"socket_timeout": 10, "password": self._password, **options}
        return redis.Redis(HOST, self.ports[name], **options)  # type: ignore[arg-type]

    def status(self, name: str) -> dict[str, str]:
        """KV.STATUS as text, empty when the node does not answer."""
        with suppress(redis.RedisError), self.client(name) as client:
            fields = [str(field, "utf-8") if isinstance(field, bytes) else str(field) for field in self._ask(client)]
            return dict(zip(fields[::2], fields[1::2], strict=True))
        return {}

    @staticmethod
    def _ask(client: redis.Redis) -> list[object]:
        reply = client.execute_command("KV.STATUS")
        if isinstance(reply, dict):
            return [item for pair in reply.items() for item in pair]
        return list(reply)

    def leader(self) -> str:
        """The node that leads, once there is one."""
        found: list[str] = []

        def one_leads() -> bool:
            found[:] = [name for name in self.names if self.status(name).get("role") == "leader"]
            return len(found) == 1

        eventually(one_leads, "one node leads")
        return found[0]

    def wait_until_serving(self, *names: str, seconds: float = START_SECONDS) -> None:
        """Until each of them, all without names, can serve linearizable requests."""

        def serves(name: str) -> bool:
            try:
                with self.client(name) as client:
                    return bool(client.execute_command("KV.SERVING"))
            except redis.RedisError:
                assert self.is_running(name), self.log(name)
                return False

        for name in names or self.names:
            eventually(lambda name=name: serves(name), f"{name} serves: {self.log(name)[-2000:]}", seconds)  # type: ignore[misc]

    def close(self) -> None:
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


@contextmanager
def running(
    root: Path, count: int = 3, arguments: Sequence[str] = (), password: str | None = None
) -> Iterator[Servers]:
    """A cluster that serves, and is gone afterwards."""
    servers = Servers(root, count, arguments, password)
    try:
        servers.start()
        servers.wait_until_serving()
        yield servers
    finally:
        servers.close()
