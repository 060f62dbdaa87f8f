"""``kvstore serve`` and ``kvstore cluster`` as processes: start, end, and what they say when they cannot start."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

KVSTORE = [sys.executable, "-m", "cli"]
Process = subprocess.Popen[bytes]
Start = Callable[..., Process]
LOGS: dict[int, Path] = {}
"""What each process has said, by its id."""


def free_ports(count: int, base: int = 20_000) -> int:
    """The first of ``count`` ports in a row that are free, as those 1000 above them are."""
    for first in range(base + os.getpid() % 500 * 20, 31_000, count):
        ports = [port + above for port in range(first, first + count) for above in (0, 1_000)]
        if all(is_free(port) for port in ports):
            return first
    raise AssertionError("no free ports")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start ``kvstore`` with these arguments."""
    started: list[Process] = []

    def begin(*arguments: str | Path, env: dict[str, str] | None = None) -> Process:
        path = tmp_path / f"said{len(started)}"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [*KVSTORE, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | (env or {}),
                start_new_session=True,
            )
        LOGS[process.pid] = path
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def said(process: Process) -> str:
    return LOGS[process.pid].read_text()


def events(process: Process) -> dict[str, dict[str, object]]:
    """The last line of each event."""
    return {line["event"]: line for line in map(json.loads, said(process).splitlines())}


def wait_for(what: Callable[[], bool], process: Process, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, said(process)
        time.sleep(0.02)


def ask(port: int, request: str, seconds: float = 10.0) -> str:
    """One inline command, and the first answer that is no refusal for want of a leader."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
                connection.sendall(request.encode() + b"\r\n")
                answer = connection.recv(4_096).decode()
        except OSError as error:
            answer = str(error)
        if answer[:1] in "+:$" and answer:
            return answer.strip()
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)


def alone(directory: Path, port: int) -> list[str | Path]:
    listen = ["--client-listen", f"127.0.0.1:{port}", "--peer-listen", f"127.0.0.1:{port + 1_000}"]
    return ["serve", "--node-id", "n1", "--data-dir", directory, *listen]


def one_of_two(directory: Path, port: int) -> list[str | Path]:
    """A node alone listens for no others."""
    peers = f"n1=127.0.0.1:{port + 1_000},n2=127.0.0.1:{port + 1_001}"
    return [*alone(directory, port), "--initial-cluster", peers]


def serving(process: Process) -> bool:
    return '"event": "serving"' in said(process)


def children(process: Process) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_node_serves_until_a_signal_and_keeps_what_it_acknowledged(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    port = free_ports(1)
    node = start(*alone(tmp_path / "data", port))
    wait_for(lambda: serving(node), node)
    assert ask(port, "SET greeting hello") == "+OK"
    node.send_signal(number)
    assert node.wait(10) == 0, said(node)
    assert {"serving", "role", "draining", "ended"} <= set(events(node))
    assert events(node)["serving"]["clients"] == f"127.0.0.1:{port}"
    again = start(*alone(tmp_path / "data", port))
    wait_for(lambda: serving(again), again)
    assert ask(port, "GET greeting") == "$5\r\nhello"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_it_starts_ends_it_with_0(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    node = start(*alone(tmp_path / "data", free_ports(1)))
    wait_for(lambda: catches(node, signal.SIGHUP), node)  # the interpreter itself has begun
    node.send_signal(number)
    assert node.wait(10) == 0, said(node)
    assert not serving(node)


def catches(process: Process, number: signal.Signals) -> bool:
    (caught,) = re.findall(r"^SigCgt:\s*(\S+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> number - 1 & 1)


def test_the_ports_that_the_system_chose_are_told(start: Start, tmp_path: Path) -> None:
    any_port = ["--client-listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"]
    node = start(*one_of_two(tmp_path / "data", free_ports(2)), *any_port)
    wait_for(lambda: serving(node), node)
    for name in ("clients", "peers"):
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", str(events(node)["serving"][name]))


def test_a_node_alone_listens_for_no_others(start: Start, tmp_path: Path) -> None:
    port = free_ports(1)
    with socket.create_server(("127.0.0.1", port + 1_000)):
        node = start(*alone(tmp_path / "data", port))
        wait_for(lambda: serving(node), node)
    assert events(node)["serving"]["peers"] == "none"


def test_a_second_signal_at_any_time_changes_nothing(start: Start, tmp_path: Path) -> None:
    port = free_ports(1)
    for milliseconds in (0, 10, 20, 40, 80):
        node = start(*alone(tmp_path / "data", port))
        wait_for(lambda node=node: serving(node), node)  # type: ignore[misc]
        node.terminate()
        for _ in range(3):
            time.sleep(milliseconds / 1_000)
            node.terminate()
        assert node.wait(10) == 0, said(node)
        assert "ended" in events(node)


def test_nohup_keeps_a_node_when_its_terminal_closes(start: Start, tmp_path: Path) -> None:
    port = free_ports(1)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        node = start(*alone(tmp_path / "data", port))
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(lambda: serving(node), node)
    node.send_signal(signal.SIGHUP)
    assert ask(port, "SET x 1") == "+OK"
    node.terminate()
    assert node.wait(10) == 0, said(node)


def test_a_log_that_nobody_reads_holds_up_nothing(tmp_path: Path) -> None:
    port = free_ports(1)
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while os.write(write, b"x" * 1_000):
            continue
    os.set_blocking(write, True)
    command = [*KVSTORE, *map(str, alone(tmp_path / "data", port))]
    node = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=write)
    try:
        assert ask(port, "SET x 1") == "+OK"
        node.terminate()
        assert node.wait(10) == 0
    finally:
        node.kill()
        node.wait()
        os.close(read)
        os.close(write)


def test_settings_come_from_the_file_and_from_variables(start: Start, tmp_path: Path) -> None:
    port = free_ports(1)
    file = tmp_path / "n1.toml"
    file.write_text(
        f'node_id = "n7"\ndata_dir = "nowhere"\nlog_format = "json"\npeer_listen = "127.0.0.1:{port + 1000}"\n'
    )
    variables = {
        "KVSTORE_CONFIG": str(file),
        "KVSTORE_DATA_DIR": str(tmp_path / "data"),
        "KVSTORE_CLIENT_LISTEN": f"127.0.0.1:{port}",
        "KVSTORE_PASSWORD": "secret",
    }
    node = start("serve", "--node-id", "n8", env=variables)
    wait_for(lambda: serving(node), node)
    assert events(node)["serving"]["node"] == "n8"
    assert (tmp_path / "data" / "log.db").is_file()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET x\r\n")
        assert connection.recv(100).startswith(b"-NOAUTH")
        connection.sendall(b"AUTH secret\r\n")
        assert connection.recv(100) == b"+OK\r\n"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--node-id", "n1"], "data_dir is missing: give --data-dir, KVSTORE_DATA_DIR, or data_dir in a --config file"),
        (["--node-id", "n1", "--data-dir", "d", "--log-level", "loud"], "--log-level: 'loud' must be one of"),
        (["--node-id", "n1", "--data-dir", "d", "--config", "no.toml"], "--config no.toml cannot be read"),
        (["--no-such-option"], "No such option: --no-such-option"),
    ],
)
def test_settings_that_cannot_be_used_end_it_with_2(start: Start, arguments: list[str], what: str) -> None:
    node = start("serve", *arguments)
    assert node.wait(10) == 2
    assert what in said(node)
    assert len(said(node).splitlines()) == 1


@pytest.mark.parametrize("above", [0, 1_000])
def test_a_port_in_use_ends_it_with_3(start: Start, tmp_path: Path, above: int) -> None:
    port = free_ports(1)
    with socket.create_server(("127.0.0.1", port + above)):
        node = start(*one_of_two(tmp_path / "data", port))
        assert node.wait(10) == 3, said(node)
    reason = f"cannot listen on 127.0.0.1:{port + above}: address already in use"
    assert events(node)["cannot_start"]["reason"] == reason


@pytest.mark.parametrize("option", ["--peer-listen", "--client-listen"])
def test_a_name_that_nobody_knows_ends_it_with_3(start: Start, tmp_path: Path, option: str) -> None:
    node = start(*one_of_two(tmp_path / "data", free_ports(2)), option, "nowhere.invalid:6401")
    assert node.wait(20) == 3, said(node)
    reason = str(events(node)["cannot_start"]["reason"])
    assert re.fullmatch(r"cannot listen on nowhere.invalid:6401: [a-z ]+", reason)


def test_a_node_that_ends_waits_for_a_client_that_takes_its_replies_slowly(start: Start, tmp_path: Path) -> None:
    port = free_ports(1)
    node = start(*alone(tmp_path / "data", port))
    wait_for(lambda: serving(node), node)
    value = b"v" * 1_000_000
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%b\r\n" % (len(value), value))
        assert client.recv(100) == b"+OK\r\n"
        client.sendall(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n" * 6)
        reply = b"$%d\r\n%b\r\n" % (len(value), value)
        taken = client.recv(1_000)
        time.sleep(0.3)  # all six are executed
        node.terminate()
        while part := client.recv(65_536):
            taken += part
            time.sleep(0.002)
    assert taken == reply * 6
    assert node.wait(10) == 0, said(node)


def test_a_data_directory_in_use_or_of_another_node_ends_it_with_3(start: Start, tmp_path: Path) -> None:
    port = free_ports(2)
    first = start(*alone(tmp_path / "data", port))
    wait_for(lambda: serving(first), first)
    second = start(*alone(tmp_path / "data", port + 1))
    assert second.wait(10) == 3
    assert "is in use by" in str(events(second)["cannot_start"]["reason"])
    first.terminate()
    assert first.wait(10) == 0
    other = start(*alone(tmp_path / "data", port), "--node-id", "n2")
    assert other.wait(10) == 3
    assert "n1" in str(events(other)["cannot_start"]["reason"])
    stranger = start(*alone(tmp_path / "data", port), "--cluster-name", "other")
    assert stranger.wait(10) == 3
    assert "belongs to cluster kvstore, not to other" in str(events(stranger)["cannot_start"]["reason"])


def test_a_write_is_refused_with_the_reason_when_the_directory_is_gone(start: Start, tmp_path: Path) -> None:
    port = free_ports(1)
    node = start(*alone(tmp_path / "data", port))
    wait_for(lambda: serving(node), node)
    assert ask(port, "SET x 1") == "+OK"
    shutil.rmtree(tmp_path / "data")
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"SET x 2\r\n")
        assert client.recv(1_000).startswith(b"-CLUSTERDOWN data directory ")
    assert ask(port, "GET x") == "$1\r\n1"


def test_a_cluster_says_how_to_connect_survives_a_node_and_ends_with_ctrl_c(start: Start, tmp_path: Path) -> None:
    port = free_ports(3)
    cluster = start("cluster", "--data-dir", tmp_path / "data", "--base-port", str(port))
    wait_for(lambda: "redis-cli -p" in said(cluster), cluster)
    assert f"kvstore repl --connect 127.0.0.1:{port},127.0.0.1:{port + 1},127.0.0.1:{port + 2}" in said(cluster)
    assert ask(port, "SET x 1") == "+OK"
    assert ask(port + 2, "GET x") == "$1\r\n1"
    nodes = children(cluster)
    assert len(nodes) == 3
    os.kill(nodes[1], signal.SIGKILL)
    wait_for(lambda: "n2 | ended by SIGKILL; 2 of 3 nodes are left" in said(cluster), cluster)
    assert ask(port, "SET x 2") == "+OK"
    cluster.send_signal(signal.SIGINT)
    assert cluster.wait(20) == 0, said(cluster)
    assert not any(map(is_alive, nodes))
    assert {line.split(" | ")[0] for line in said(cluster).splitlines() if " | " in line} == {"n1", "n2", "n3"}
    assert all((tmp_path / "data" / node / "log.db").is_file() for node in ("n1", "n2", "n3"))


def test_the_nodes_of_a_killed_cluster_command_end_too(start: Start, tmp_path: Path) -> None:
    port = free_ports(3)
    cluster = start("cluster", "--data-dir", tmp_path / "data", "--base-port", str(port))
    wait_for(lambda: "redis-cli -p" in said(cluster), cluster)
    nodes = children(cluster)
    cluster.kill()
    cluster.wait()
    try:
        wait_for(lambda: not any(map(is_alive, nodes)), cluster)
    finally:
        for node in filter(is_alive, nodes):
            os.kill(node, signal.SIGKILL)


def test_a_cluster_without_a_directory_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    port = free_ports(1)
    cluster = start("cluster", "--nodes", "1", "--base-port", str(port), env={"TMPDIR": str(tmp_path)})
    wait_for(lambda: "redis-cli -p" in said(cluster), cluster)
    (directory,) = tmp_path.glob("kvstore-*")
    assert str(directory) in said(cluster).splitlines()[0]
    cluster.terminate()
    assert cluster.wait(20) == 0, said(cluster)
    assert not directory.exists()


def test_a_cluster_names_the_ports_in_use_before_it_starts_anything(start: Start, tmp_path: Path) -> None:
    port = free_ports(3)
    with socket.create_server(("127.0.0.1", port + 1)), socket.create_server(("127.0.0.1", port + 1_002)):
        cluster = start("cluster", "--data-dir", tmp_path / "data", "--base-port", str(port))
        assert cluster.wait(10) == 3
    assert f"ports {port + 1}, {port + 1_002} cannot be used: choose others with --base-port" in said(cluster)
    assert not (tmp_path / "data").exists()


def test_a_cluster_of_which_no_node_is_left_ends_with_3(start: Start, tmp_path: Path) -> None:
    port = free_ports(1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "n1").write_text("a file")
    cluster = start("cluster", "--nodes", "1", "--data-dir", tmp_path / "data", "--base-port", str(port))
    assert cluster.wait(15) == 3
    assert "n1 | ended with status 3; 0 of 1 nodes are left" in said(cluster)


def test_each_change_of_role_is_told(start: Start, tmp_path: Path) -> None:
    """To lead, to follow, and to have lost the leader: once, however long it lasts."""
    port = free_ports(3)
    cluster = start("cluster", "--data-dir", tmp_path / "data", "--base-port", str(port))
    roles = re.compile(r"n\d \| \S+ info +role role=(\w+) leader=(\w+)")
    wait_for(lambda: len(roles.findall(said(cluster))) == 3, cluster)
    leader = roles.findall(said(cluster))[0][1]
    nodes = dict(zip(("n1", "n2", "n3"), children(cluster), strict=True))
    kept = next(node for node in nodes if node != leader)
    for node, pid in nodes.items():
        if node != kept:
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: f"{kept} | " in said(cluster) and "leader=none" in said(cluster), cluster)
    time.sleep(3)
    assert [words for words in roles.findall(said(cluster)) if words[1] == "none"] == [("asking", "none")]
    assert sorted(words[0] for words in roles.findall(said(cluster)))[1:] == ["follower", "follower", "leader"]


def test_the_health_check_takes_the_password_from_where_the_node_has_it(start: Start, tmp_path: Path) -> None:
    port = free_ports(1)
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    variables = {"KVSTORE_PASSWORD_FILE": str(secret)}
    node = start(*alone(tmp_path / "data", port), env=variables)
    wait_for(lambda: serving(node), node)
    connect = ["--connect", f"127.0.0.1:{port}"]
    for env, status, what in [
        (variables, 0, "role            leader"),
        ({"KVSTORE_PASSWORD": "s3cret"}, 0, "role            leader"),
        ({}, 3, "set KVSTORE_PASSWORD or KVSTORE_PASSWORD_FILE"),
        ({"KVSTORE_PASSWORD": "wrong"}, 3, "check KVSTORE_PASSWORD or KVSTORE_PASSWORD_FILE"),
        ({"KVSTORE_PASSWORD_FILE": "nowhere"}, 2, "KVSTORE_PASSWORD_FILE: 'nowhere' cannot be read: no such file"),
    ]:
        check = start("status", *connect, env=env)
        assert check.wait(20) == status, said(check)
        assert what in said(check)


def test_a_client_whose_machine_is_gone_is_noticed(start: Start, tmp_path: Path) -> None:
    port = free_ports(1)
    node = start(*alone(tmp_path / "data", port))
    wait_for(lambda: serving(node), node)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
        ends = [f"0100007F:{number:04X}" for number in (port, client.getsockname()[1])]
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        (timer,) = [words[5].split(":") for words in lines if words[1:3] == ends]
        assert timer[0] == "02"  # keep-alive
        assert 290_00 <= int(timer[1], 16) <= 300_00  # in hundredths of a second


def test_the_health_check_of_something_else_fails_without_a_trace(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check = start("status", "--connect", f"127.0.0.1:{port}")
        while check.poll() is None:
            server.settimeout(0.1)
            with suppress(TimeoutError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1_000)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert check.returncode == 3, said(check)
    assert f"127.0.0.1:{port} is not a kvstore node: something else listens there" in said(check)


def test_a_data_directory_that_must_exist_is_not_made(start: Start, tmp_path: Path) -> None:
    node = start(*alone(tmp_path / "data", free_ports(1)), "--existing-data-dir")
    assert node.wait(20) == 3
    assert "mount its disk" in said(node)
    assert not (tmp_path / "data").exists()
