"""The command line as a shell meets it: processes, exit statuses, signals, pipes."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from cli.app import main
from cli.loading.load import LoadOptions, run
from cli.target import Target

COMMAND = [sys.executable, "-m", "cli"]
EXAMPLES = Path(__file__).parents[2] / "examples"


class Done(NamedTuple):
    status: int
    out: bytes
    err: bytes


class Call(Protocol):
    """``kvstore`` with these arguments on that data directory."""

    def __call__(self, *arguments: str | bytes | Path, data: Path, stdin: bytes = b"") -> Done: ...


Out = Callable[..., bytes]


@pytest.fixture
def kvstore(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """In this process, which saves the start-up of a hundred others; all that needs processes starts them."""

    def call(*arguments: str | bytes | Path, data: Path, stdin: bytes = b"") -> Done:
        monkeypatch.setattr("sys.argv", ["kvstore", *map(os.fsdecode, arguments)])
        monkeypatch.setenv("KVSTORE_DATA_DIR", str(data))
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as caught:
            main()
        assert isinstance(caught.value.code, int)
        return Done(caught.value.code, *capfdbinary.readouterr())

    return call


@pytest.fixture
def out(kvstore: Call) -> Out:
    """What a command prints that must succeed."""

    def call(*arguments: str | bytes | Path, data: Path, stdin: bytes = b"") -> bytes:
        done = kvstore(*arguments, data=data, stdin=stdin)
        assert (done.status, done.err) == (0, b""), done
        return done.out

    return call


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store to read from, and to write keys of one's own to."""
    data = tmp_path_factory.mktemp("cli") / "data"
    assert run([str(EXAMPLES / "first.kv")], LoadOptions(Target(data)), "") == 0
    return data


@pytest.mark.parametrize(
    ("arguments", "status", "printed", "error"),
    [
        (["get", "x"], 0, b"3\n", b""),
        (["get", "x", "-n"], 0, b"3", b""),
        (["get", "bytes"], 0, b"\0\xff\n", b""),
        (["get", "none"], 1, b"", b"kvstore: no such key: 'none'\n"),
        (["set", "x", "9", "--nx"], 1, b"", b"kvstore: not done: the key exists\n"),
        (["set", "one", "--ifeq", "1"], 2, b"", b"kvstore: VALUE is missing"),
        (["set", "one", "1", "--nx", "--xx"], 2, b"", b"kvstore: --nx and --xx exclude"),
        (["set", "", "1"], 2, b"", b"kvstore: the key has 0 bytes, it must have 1 to 1,024"),
        (["set", "one", "1", "--ex", "0"], 2, b"", b"kvstore: --ex must be at least 1"),
        (["incr", "greeting"], 1, b"", b"kvstore: failed: the value is not an integer\n"),
        (["incr", "counter", "-5"], 0, b"-5\n", b""),
        (["decr", "countdown", "-5"], 0, b"5\n", b""),
        (["set", "below", "-x"], 2, b"", b"kvstore: No such option"),
        (["set", "-9", "-0.5"], 0, b"OK\n", b""),
        (["ttl", "-9"], 0, b"-1\n", b""),
        (["persist", "-9"], 1, b"", b"kvstore: not done: the key has no expiry\n"),
        (["scan", "-9", "1", "-o", "plain"], 0, b"-9\t-0.5\n", b""),
        (["count", "-9"], 0, b"1\n", b""),
        (["exec", "get", "-9"], 0, b"-0.5\n", b""),
        (["scan", "x", "-1"], 2, b"", b"kvstore: Invalid value for '[LIMIT]': "),
        (["set", "one", "1", "--ex", "-1"], 2, b"", b"kvstore: --ex must be at least 1"),
        (["get", "x", "--data-dir", ""], 2, b"", b"kvstore: --data-dir is empty: name a directory\n"),
        (["get", "x", "--data-dir="], 2, b"", b"kvstore: --data-dir is empty: name a directory\n"),
        (["get", "x", "-d", ""], 2, b"", b"kvstore: --data-dir is empty: name a directory\n"),
        (["node", "--data-dir", ""], 2, b"", b"kvstore: --data-dir is empty: name a directory\n"),
        (["node", "--data-dir="], 2, b"", b"kvstore: --data-dir is empty: name a directory\n"),
        (["cluster", "--data-dir", ""], 2, b"", b"kvstore: --data-dir is empty: name a directory\n"),
        (["exists", "x", "none"], 1, b"1\n", b""),
        (["delete", "none"], 1, b"0\n", b""),
        (["cas", "x", "4", "5"], 1, b"", b"kvstore: not done: the value is another\n"),
        (["count", "user:"], 0, b"2\n", b""),
        (["scan", "account:", "2", "-o", "plain"], 0, b"account:a\t50\naccount:b\t50\n", b""),
        (["ttl", "x"], 0, b"-1\n", b""),
        (["exec", "txn { if missing x then set x 1 else get x }"], 1, b"conditions did not hold: else\n1. 3\n", b""),
        (["exec", "sett x"], 2, b"", b"kvstore: unknown command 'sett': did you mean set?\n  sett x\n  ^\n"),
        (
            ["exec", "set a=1;"],
            2,
            b"",
            b"kvstore: a command ends with its line: leave out the ;, or write \\; to keep it\n"
            b"  set a=1;\n         ^\n",
        ),
        (["sql", "select value from kv where key = 'x'", "-o", "plain"], 0, b"3\n", b""),
        (["sql", "selec"], 2, b"", b"kvstore: SQL: "),
        (["sql", "delete from kv"], 2, b"", b"kvstore: SQL: "),
        (["log", "1", "1", "-o", "plain"], 0, b"1\t1.n1\tchosen\tset x=1\t", b""),
        (["nonsense"], 2, b"", b"kvstore: No such command"),
        (["get"], 2, b"", b"kvstore: Missing argument"),
        (["get", "x", "--nonsense"], 2, b"", b"kvstore: No such option"),
        (["load", "no-such-file"], 2, b"", b"kvstore: no-such-file: there is no such file\n"),
    ],
)
def test_what_is_printed_and_the_exit_status(
    kvstore: Call, filled: Path, arguments: list[str], status: int, printed: bytes, error: bytes
) -> None:
    done = kvstore(*arguments, data=filled)
    assert done.status == status, done
    assert done.out == printed if not printed.endswith(b"\t") else done.out.startswith(printed)
    assert done.err.startswith(error) if error else not done.err


def test_negative_numbers_are_values_and_no_options(out: Out, tmp_path: Path) -> None:
    out("set", "k", "-5", data=tmp_path / "new")
    out("set", "k", "-6", "--ifeq", "-5", "--ex", "100", data=tmp_path / "new")
    out("cas", "k", "-6", "-1.5e3", data=tmp_path / "new")
    out("append", "k", "-1", data=tmp_path / "new")
    assert out("get", "k", data=tmp_path / "new") == b"-1.5e3-1\n"
    out("set", "-7", "-8", data=tmp_path / "new")
    assert out("get", "-7", data=tmp_path / "new") == b"-8\n"
    assert out("delete", "-7", data=tmp_path / "new") == b"1\n"


def test_keys_and_values_are_taken_literally(kvstore: Call, out: Out, filled: Path) -> None:
    for key, value in [
        (b"a=b", b"c d"),
        (b"--", b"--nx"),
        (b"raw\xff", b"\xfe\n"),
        ("ключ".encode(), b""),
        (b"-k", b"'"),
    ]:
        out("set", "--", key, value, data=filled)
        assert out("get", "-n", "--", key, data=filled) == value
    out("set", "name=a=b", data=filled)
    assert out("get", "name", data=filled) == b"a=b\n"
    out("set", "big", "--stdin", data=filled, stdin=b"\0" * 1_048_576)
    assert out("get", "big", "-n", data=filled) == b"\0" * 1_048_576
    assert kvstore("set", "big", "--stdin", data=filled, stdin=b"\0" * 1_048_577).status == 2


def test_json_everywhere(kvstore: Call, out: Out, filled: Path) -> None:
    out("set", "typed", '{"a": [1, "1"]}', "--json", data=filled)
    assert json.loads(out("get", "typed", "-o", "json", data=filled))["value"] == {"a": [1, "1"]}
    written = json.loads(out("set", "k", "v", "--output", "json", data=filled))
    assert written["result"] == "done"
    assert written["slot"] == json.loads(out("status", "-o", "json", data=filled))["last_slot"]
    [entry] = json.loads(out("log", str(written["slot"]), "-o", "json", data=filled))
    assert (entry["value"], entry["status"], entry["result"]) == ("set k=v", "chosen", {"result": "done"})
    done = kvstore("get", "none", "-o", "json", data=filled)
    assert (done.status, json.loads(done.out), done.err) == (1, {"result": "missing"}, b"")
    for wrong in (["get", "-o", "json"], ["nonsense", "--output=json"], ["exec", "bad", "-o", "json"]):
        done = kvstore(*wrong, data=filled)
        assert (done.status, done.out) == (2, b"")
        assert json.loads(done.err)["error"]


@pytest.mark.parametrize("command", [["get", "x"], ["status"], ["log"], ["sql", "select 1"], ["scan"]])
def test_looking_never_creates_a_store(kvstore: Call, tmp_path: Path, command: list[str]) -> None:
    done = kvstore(*command, data=tmp_path / "none")
    assert done.status == 3
    assert b"there is no store in" in done.err
    assert not (tmp_path / "none").exists()


def test_a_second_process_is_told_who_has_the_store_and_may_look(kvstore: Call, out: Out, tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = subprocess.Popen([*COMMAND, "load", "-", "-d", data], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert first.stdin
    try:
        first.stdin.write(b"set a 1\n")
        first.stdin.flush()
        wait_for(lambda: b"set a=1" in kvstore("log", data=data).out)
        done = kvstore("set", "b", "2", data=data)
        assert done.status == 3
        assert f"process {first.pid} (kvstore load)".encode() in done.err
        assert json.loads(kvstore("status", "-o", "json", data=data).out)["last_slot"] == 1
        assert kvstore("sql", "select count(*) from kv", data=data).status == 0
    finally:
        first.stdin.close()
        first.wait(10)
    assert out("get", "a", data=data) == b"1\n"


def test_unusable_data_directories(kvstore: Call, out: Out, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    done = kvstore("set", "a", "1", data=file)
    assert (done.status, done.out) == (3, b"")
    assert str(file).encode() in done.err
    data = tmp_path / "data"
    out("set", "a", "1", data=data)
    content = bytearray((data / "log.db").read_bytes())
    place = content.index(b"\xa3set")  # within the entry of slot 1
    content[place] ^= 1
    (data / "log.db").write_bytes(content)
    for command in (["set", "b", "2"], ["get", "a"]):
        done = kvstore(*command, data=data)
        assert (done.status, done.out) == (3, b""), done
        assert b"Traceback" not in done.err


def test_a_reader_that_goes_away_is_no_error(filled: Path) -> None:
    for command in ("log", "--help"):
        process = subprocess.Popen(
            [*COMMAND, command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "KVSTORE_DATA_DIR": str(filled)},
        )
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) in (1, 141)
        process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [[], ["--help"], ["load", "-h"], ["--version"], ["log"], ["get", "x"]])
def test_output_that_cannot_be_written_is_said_in_one_line(filled: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        environment = {**os.environ, "KVSTORE_DATA_DIR": str(filled)}
        command = [*COMMAND, *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, timeout=20)
    assert done.stderr == b"kvstore: standard output cannot be written: no space left on device\n"
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_error_that_cannot_be_written_keeps_its_exit_status() -> None:
    with Path("/dev/full").open("wb") as full:
        assert subprocess.run([*COMMAND, "get"], stderr=full, timeout=20).returncode == 2


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


LINES = 12_000


def slots(data: Path) -> int:
    """How far a load in another process has come; 0 before it began."""
    if not (data / "log.db").exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{data / 'log.db'}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT coalesce(max(last), 0) FROM records").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # its tables are being created


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_load_that_was_ended_goes_on_where_it_was(
    kvstore: Call, out: Out, tmp_path: Path, number: signal.Signals
) -> None:
    data, file = tmp_path / "data", tmp_path / "counts.kv"
    file.write_text("# counters\n" + "".join(f"incr n{line % 10}\n" for line in range(LINES)))
    ended = 0
    for _ in range(3):
        process = subprocess.Popen([*COMMAND, "load", file, "-d", data], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        before = slots(data)
        wait_for(lambda process=process, before=before: slots(data) > before or process.poll() is not None)
        process.send_signal(number)
        _, error = process.communicate(timeout=20)
        assert b"Traceback" not in error
        ended += process.returncode in (-signal.SIGKILL, 130)
    assert ended, "the load was never ended half-way"
    done = kvstore("load", file, "-o", "json", data=data)
    assert done.status == 0
    [summary] = json.loads(done.out)["files"]
    assert summary["commands"] + summary["skipped"] == LINES
    if summary["commands"]:
        assert summary["resumed_at_line"] == summary["skipped"] + 2
    assert out("scan", "-o", "plain", data=data) == b"".join(b"n%d\t%d\n" % (key, LINES // 10) for key in range(10))
    assert json.loads(out("load", file, "-o", "json", data=data))["files"][0]["state"] == "loaded before"


def test_the_examples_load_without_a_bad_line(kvstore: Call, out: Out, tmp_path: Path) -> None:
    done = kvstore("load", *sorted(EXAMPLES.iterdir()), "-o", "json", data=tmp_path / "data")
    assert (done.status, done.err) == (0, b"")
    assert {each["format"] for each in json.loads(done.out)["files"]} == {"commands", "csv", "jsonl"}
    assert out("get", "city:quote", data=tmp_path / "data") == b'the "windy" city\n'


def test_help_comes_at_once(out: Out, tmp_path: Path) -> None:
    """Measured by the processor's time, which others that keep the machine busy do not lengthen."""
    times = []
    for _ in range(5):
        started = time.process_time()
        assert b"Exit status" in out("--help", data=tmp_path)
        times.append(time.process_time() - started)
    assert min(times) < 0.4


@pytest.mark.parametrize("options", [[], ["-d", "DATA"], ["--data-dir=DATA"]])
def test_a_node_answers_without_waiting_for_the_command_line_library(tmp_path: Path, options: list[str]) -> None:
    script = """
import sys
from cli.app import main
try:
    main()
finally:
    print("typer" in sys.modules, file=sys.stderr)
"""
    init = b'{"src":"c0","dest":"n1","body":{"type":"init","msg_id":1,"node_id":"n1","node_ids":["n1"]}}\n'
    command = [sys.executable, "-c", script, "node", *options]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "KVSTORE_DATA_DIR": str(tmp_path / "not this")}
    done = subprocess.run(command, input=init, capture_output=True, cwd=tmp_path, env=environment, timeout=20)
    assert (done.returncode, done.stderr) == (0, b"False\n")
    assert b'"type": "init_ok", "in_reply_to": 1, "msg_id": 0' in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == (["DATA"] if options else [])


def test_closed_standard_streams(tmp_path: Path) -> None:
    script = 'exec "$0" -m cli load - -d "$1" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", script, sys.executable, tmp_path / "data"], timeout=20).returncode == 0
