"""Partitions between hosts: each node in a network namespace of its own, joined by a bridge whose links can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODES = ("n1", "n2", "n3")


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


class Hosts:
    """Three hosts on a switch; ``cut`` takes one off it, whatever it goes on sending."""

    def __init__(self, root: Path) -> None:
        self._tag = f"kv{os.getpid() % 10_000}"
        self._root = root
        self._processes: list[subprocess.Popen[bytes]] = []
        self.addresses = {name: f"10.213.7.{number}" for number, name in enumerate(NODES, 1)}

    def set_up(self) -> None:
        """Raises CalledProcessError or FileNotFoundError where the machine does not allow it."""
        ip("netns", "add", f"{self._tag}sw")
        ip("-n", f"{self._tag}sw", "link", "add", "br0", "type", "bridge")
        ip("-n", f"{self._tag}sw", "link", "set", "br0", "up")
        for name, address in self.addresses.items():
            namespace = f"{self._tag}{name}"
            ip("netns", "add", namespace)
            ip("link", "add", "eth0", "netns", namespace, "type", "veth", "peer", name, "netns", f"{self._tag}sw")
            ip("-n", f"{self._tag}sw", "link", "set", name, "master", "br0", "up")
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "eth0", "up")
            ip("-n", namespace, "link", "set", "lo", "up")

    def start(self) -> None:
        cluster = ",".join(f"{name}={address}:7401" for name, address in self.addresses.items())
        for name, address in self.addresses.items():
            with (self._root / f"{name}.log").open("ab") as log:
                command = [
                    *("ip", "netns", "exec", f"{self._tag}{name}", sys.executable, "-m", "cli", "serve"),
                    *("--node-id", name, "--data-dir", str(self._root / name), "--initial-cluster", cluster),
                    *("--client-listen", f"{address}:6401", "--peer-listen", f"{address}:7401"),
                    *("--request-timeout", "2"),
                ]
                self._processes.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))

    def cut(self, name: str) -> None:
        ip("-n", f"{self._tag}sw", "link", "set", name, "down")

    def join(self, name: str) -> None:
        ip("-n", f"{self._tag}sw", "link", "set", name, "up")

    def kvstore(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line on that host, which reaches its own node whatever is cut."""
        connect = f"{self.addresses[name]}:6401"
        return subprocess.run(
            [*("ip", "netns", "exec", f"{self._tag}{name}", sys.executable, "-m", "cli"), *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "KVSTORE_CONNECT": connect},
        )

    def wait_until_serving(self, *names: str) -> None:
        for name in names:
            deadline = time.monotonic() + 30
            while self.kvstore(name, "status").returncode:
                assert time.monotonic() < deadline, (self._root / f"{name}.log").read_text()
                time.sleep(0.2)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for name in ("sw", *NODES):
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", f"{self._tag}{name}")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if shutil.which("ip") is None:
        pytest.skip("there is no ip command (iproute2) here")
    hosts = Hosts(tmp_path)
    try:
        try:
            hosts.set_up()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        hosts.start()
        hosts.wait_until_serving(*NODES)
        yield hosts
    finally:
        hosts.close()


def leader(hosts: Hosts, *names: str) -> str:
    for _ in range(50):
        for name in names:
            status = hosts.kvstore(name, "status", "--output", "plain").stdout
            if "leader" in status and f"role\t{'leader'}" in status:
                return name
        time.sleep(0.2)
    raise AssertionError("nobody leads")


def test_a_leader_that_is_cut_off_serves_nobody_and_the_others_go_on(hosts: Hosts) -> None:
    assert hosts.kvstore("n1", "set", "k", "before").returncode == 0
    old = leader(hosts, *NODES)
    others = [name for name in NODES if name != old]
    hosts.cut(old)
    hosts.wait_until_serving(*others)
    assert hosts.kvstore(others[0], "set", "k", "after").returncode == 0
    assert hosts.kvstore(others[1], "get", "k").stdout == "after\n"
    # The one that was cut off can neither read the old value nor acknowledge a write.
    assert hosts.kvstore(old, "get", "k").returncode == 3
    assert hosts.kvstore(old, "sql", "SELECT value FROM kv").returncode == 3
    assert hosts.kvstore(old, "set", "k", "lost").returncode == 3
    hosts.join(old)
    hosts.wait_until_serving(old)
    assert hosts.kvstore(old, "get", "k").stdout in ("after\n", "lost\n")
    values = {hosts.kvstore(name, "get", "k").stdout for name in NODES}
    assert len(values) == 1
