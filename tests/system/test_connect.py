"""The command line on a cluster: every command, the prompt, loads, and what happens when a node goes away."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.servers import HOST, Servers, eventually, running

KVSTORE = [sys.executable, "-m", "cli"]
ROOT = Path(__file__).parents[2]
Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with running(tmp_path_factory.mktemp("connect")) as servers:
        yield servers


@pytest.fixture
def kvstore(servers: Servers, tmp_path: Path) -> Call:
    """``kvstore`` with these arguments, on the cluster."""

    def call(*arguments: str, stdin: str = "", nodes: str | None = None) -> subprocess.CompletedProcess[str]:
        connect = ",".join(f"{HOST}:{port}" for port in servers.ports.values()) if nodes is None else nodes
        environment = {**os.environ, "KVSTORE_CONNECT": connect, "XDG_STATE_HOME": str(tmp_path)}
        return subprocess.run(
            [*KVSTORE, *arguments], input=stdin, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment
        )

    return call


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_one_shots(kvstore: Call) -> None:
    assert printed(kvstore("set", "x", "1")) == "OK\n"
    assert printed(kvstore("incr", "x", "4")) == "5\n"
    assert printed(kvstore("get", "x")) == "5\n"
    assert printed(kvstore("exec", "txn { if value x = 5 then push list a; append t hello }")) != ""
    assert printed(kvstore("exec", "mset a=1 b=2")) == "OK\n"
    assert "list" in printed(kvstore("scan"))
    assert printed(kvstore("count")) == "5\n"
    assert printed(kvstore("sql", "SELECT value FROM kv WHERE key = 'x'", "-o", "csv")).splitlines()[1:] == ["5"]
    assert "incr x 4" in printed(kvstore("log"))
    assert printed(kvstore("delete", "a")) == "1\n"
    missing = kvstore("get", "a")
    assert (missing.returncode, missing.stderr) == (1, "kvstore: no such key: 'a'\n")
    failed = kvstore("incr", "list")
    assert failed.returncode == 1


def test_errors_are_usage_errors(kvstore: Call) -> None:
    wrong = kvstore("get", "x", nodes="nowhere")
    assert (wrong.returncode, wrong.stderr[:30]) == (2, "kvstore: --connect: 'nowhere' ")
    both = kvstore("get", "x", "--connect", "127.0.0.1:1", "--data-dir", "d")
    assert both.returncode == 2
    assert "exclude each other" in both.stderr
    unset = kvstore("set", "x", "1", "--connect", "")
    assert (unset.returncode, unset.stderr[:31]) == (2, "kvstore: --connect is empty: na")
    directory = kvstore("get", "x", "--data-dir", "/nonexistent/kvstore")
    assert directory.returncode == 3
    assert "there is no store in /nonexistent/kvstore" in directory.stderr


def test_a_node_that_is_away_is_passed_over(kvstore: Call, servers: Servers) -> None:
    port = servers.ports["n2"]
    assert printed(kvstore("set", "x", "1", nodes=f"127.0.0.1:1,{HOST}:{port}")) == "OK\n"


def test_status_is_a_health_check(kvstore: Call, servers: Servers) -> None:
    port = servers.ports["n1"]
    status = json.loads(printed(kvstore("status", "-o", "json", nodes=f"{HOST}:{port}")))
    assert status["node"] == "n1"
    table = printed(kvstore("status"))
    assert [line.split()[0] for line in table.splitlines()[2:]] == ["yes"] * 3, table
    down = kvstore("status", nodes="127.0.0.1:1")
    assert down.returncode == 3


def test_a_load_is_pipelined_and_every_line_runs_once(kvstore: Call, tmp_path: Path) -> None:
    path = tmp_path / "many.kv"
    path.write_text("".join(f"incr loaded\nset k{number} {number}\n" for number in range(3_000)))
    first = json.loads(printed(kvstore("load", str(path), "-o", "json")))
    assert first["commands"] == 6_000
    again = json.loads(printed(kvstore("load", str(path), "-o", "json")))
    assert again["files"][0]["state"] == "loaded before"
    assert printed(kvstore("get", "loaded")) == "3000\n"


def test_a_load_goes_on_when_a_node_is_killed(servers: Servers, kvstore: Call, tmp_path: Path) -> None:
    path = tmp_path / "long.kv"
    path.write_text("incr long\n" * 40_000)
    connect = ",".join(f"{HOST}:{port}" for port in servers.ports.values())
    process = subprocess.Popen(
        [*KVSTORE, "load", str(path), "--connect", connect], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for name in ("n1", "n2"):
        servers.kill(name)
        servers.start(name)
        servers.wait_until_serving(name)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (0, b"")
    assert printed(kvstore("get", "long")) == "40000\n"


def test_the_prompt_from_a_pipe(kvstore: Call) -> None:
    done = kvstore("repl", stdin="set p 1\nincr p\nget p\nstatus\nexplain set p 3\n")
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert lines[:3] == ["OK", "2", "2"]
    assert any(line.startswith("node") for line in lines)


def test_top_shows_a_row_for_each_node(kvstore: Call) -> None:
    rows = json.loads(printed(kvstore("top", "--interval", "0.2", "-o", "json")))
    assert [row["node"] for row in rows] == ["n1", "n2", "n3"]
    assert sorted(row["role"] for row in rows) == ["follower", "follower", "leader"]
    table = printed(kvstore("top", "--interval", "0.2", "--count", "2"))
    assert table.count("leader") == 2
    assert all(isinstance(row["p50_ms"], float) and row["error"] is None for row in rows)
    down = kvstore("top", "--interval", "0.2", nodes="127.0.0.1:1")
    assert down.returncode == 3
    assert "down" in down.stdout
    assert down.stderr == "kvstore: 127.0.0.1:1 does not answer: connection refused\n"
    [row] = json.loads(kvstore("top", "--interval", "0.2", "-o", "json", nodes="127.0.0.1:1").stdout)
    assert (row["role"], row["chosen"], row["error"]) == (
        "down",
        None,
        "127.0.0.1:1 does not answer: connection refused",
    )


def test_bench_measures(kvstore: Call, servers: Servers) -> None:
    for operation in ("set", "get", "mixed"):
        report = json.loads(printed(kvstore("bench", "--operation", operation, "--seconds", "0.5", "-o", "json")))
        assert report["requests"] > 20
        assert report["errors"] == 0
        assert 0 < report["p50_ms"] <= report["p99_ms"] <= report["p999_ms"]
        assert len(report["cpu_us"]) == 3
        assert report["leader"] in ("n1", "n2", "n3")
        assert sum(report["leader_time"].values()) == pytest.approx(100, abs=1)
        assert report["leader_time"]["consensus"] > 0
        assert report["leader_time"]["apply"] > 0
    table = printed(kvstore("bench", "--seconds", "0.3", "--pipeline", "8", "--clients", "2"))
    assert "2 clients, 8 pipelined" in table
    assert re.search(r"^leader n\d: requests \d+ %, consensus \d+ %, log \d+ %, .*, idle \d+ %$", table, re.MULTILINE)
    assert kvstore("bench", nodes="127.0.0.1:1").returncode == 3
    half = kvstore("bench", "--seconds", "0.1", nodes=f"127.0.0.1:1,{HOST}:{servers.ports['n1']}")
    assert (half.returncode, half.stderr) == (0, "kvstore: 127.0.0.1:1 does not answer: connection refused\n")
    assert kvstore("bench", "--clients", "0").returncode == 2


def test_bench_says_when_its_node_is_lost(tmp_path: Path) -> None:
    with running(tmp_path, count=1) as servers:
        connect = f"{HOST}:{servers.ports['n1']}"
        process = subprocess.Popen(
            [*KVSTORE, "bench", "--seconds", "30", "--connect", connect], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        eventually(lambda: int(servers.status("n1")["writes"]) > 0, "the load has begun")
        servers.kill("n1")
        _, said = process.communicate(timeout=20)
        assert process.returncode == 3
        assert said.startswith(f"kvstore: {connect} was lost: "), said


def test_every_command_gives_the_password_that_the_environment_names(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    commands = (
        *(["set", "x", "1"], ["incr", "x"], ["get", "x"], ["scan"], ["log"], ["status"], ["delete", "x"]),
        *(["sql", "SELECT 1"], ["load", "-"], ["repl"], ["top", "-i", "0.1"], ["bench", "--seconds", "0.1"]),
    )
    with running(tmp_path, count=1, arguments=["--password-file", str(secret)], password="s3cret") as servers:
        connect = f"{HOST}:{servers.ports['n1']}"
        environment = dict(os.environ)
        for given, status, tried in (
            ({"KVSTORE_PASSWORD": "s3cret"}, 0, commands),
            ({"KVSTORE_PASSWORD_FILE": str(secret)}, 0, commands[:1]),  # the password is found in one place for all
            ({"KVSTORE_PASSWORD": "wrong"}, None, commands),
            ({}, None, commands[:1]),
        ):
            for command in tried:
                done = subprocess.run(
                    [*KVSTORE, *command, "--connect", connect],
                    input="exists x\n",
                    capture_output=True,
                    text=True,
                    timeout=60,
                    cwd=ROOT,
                    env={**environment, **given},
                )
                if status is None:
                    assert done.returncode > 0, done
                    why = "refuses the password" if given else "asks for a password"
                    assert why in done.stderr, done
                    assert "Traceback" not in done.stderr, done
                else:
                    assert (done.returncode, done.stderr) == (status, ""), done


def test_ctrl_c_ends_the_wait_for_a_cluster_at_once() -> None:
    with socket.create_server((HOST, 0)) as silent:
        environment = {**os.environ, "KVSTORE_CONNECT": f"{HOST}:{silent.getsockname()[1]}"}
        process = subprocess.Popen([*KVSTORE, "set", "x", "1"], cwd=ROOT, env=environment)
        silent.settimeout(20)
        connection, _ = silent.accept()
        with connection:
            time.sleep(0.3)  # it has sent its request, and waits
            asked = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130
            assert time.monotonic() - asked < 3


def test_ctrl_c_ends_a_query(servers: Servers, tmp_path: Path) -> None:
    """On a cluster, and on a store of this machine, where SQLite itself has to be stopped."""
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    subprocess.run([*KVSTORE, "set", "a", "1", "--data-dir", str(tmp_path / "store")], cwd=ROOT, check=True)
    for where in (["--connect", f"{HOST}:{servers.ports['n1']}"], ["--data-dir", str(tmp_path / "store")]):
        query = subprocess.Popen(
            [*KVSTORE, "sql", endless, *where], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(1.5)
        assert query.poll() is None
        query.send_signal(signal.SIGINT)
        said, complained = query.communicate(timeout=3)
        assert query.returncode in (-signal.SIGINT, 130) and not said, complained  # a shell tells 130 of both
        assert "Traceback" not in complained
