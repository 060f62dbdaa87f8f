"""The node as a process: how it starts, ends, and bears bad input, much input, slow readers and crashes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NODE = [sys.executable, "-m", "kvstore", "node"]
INIT = b'{"src":"c0","dest":"n1","body":{"type":"init","msg_id":1,"node_id":"n1","node_ids":["n1"]}}'
INIT_OF_THREE = b'{"src":"c0","dest":"n1","body":{"type":"init","msg_id":1,"node_id":"n1","node_ids":["n1","n2","n3"]}}'
Body = dict[str, Any]


def request(msg_id: int, **body: object) -> bytes:
    return json.dumps({"src": "c1", "dest": "n1", "body": {**body, "msg_id": msg_id}}).encode()


def run(*lines: bytes, data_dir: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """All lines at once, then the end of input."""
    command = [*NODE, "--data-dir", str(data_dir)] if data_dir else NODE
    return subprocess.run(command, input=b"\n".join(lines) + b"\n", capture_output=True, timeout=20)


def bodies(output: bytes) -> list[Body]:
    return [json.loads(line)["body"] for line in output.splitlines()]


@contextlib.contextmanager
def started(data_dir: Path | None = None, init: bytes = INIT) -> Iterator[subprocess.Popen[bytes]]:
    """An initialised node; it is killed at the end if it is still there."""
    command = [*NODE, "--data-dir", str(data_dir)] if data_dir else NODE
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            assert ask(process, init)["type"] == "init_ok"
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[bytes], line: bytes) -> Body:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + b"\n")
    process.stdin.flush()
    return bodies(process.stdout.readline())[0]


# -- much at once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 2], ids=["from the first slot", "behind a gap"])
def test_a_thousand_proposals_at_once_are_all_chosen(first: int) -> None:
    slots = range(first, first + 1_000)
    proposals = [request(slot, type="multi_paxos_propose", slot=slot, value=f"set k={slot}") for slot in slots]
    begun = time.monotonic()
    done = run(INIT, *proposals)
    replies = bodies(done.stdout)[1:]
    assert [(reply["type"], reply.get("slot")) for reply in replies] == [("multi_paxos_propose_ok", s) for s in slots]
    assert [reply["phase1_skipped"] for reply in replies] == [False] + [True] * 999
    assert time.monotonic() - begun < 5, "a grader waits 5 s"


def test_who_writes_all_before_reading_anything_is_not_blocked() -> None:
    lines = [INIT] + [request(i, type="echo", echo="x" * 1_000) for i in range(8_000)]
    with subprocess.Popen(NODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        data, deadline = memoryview(b"\n".join(lines) + b"\n"), time.monotonic() + 20
        while data and time.monotonic() < deadline:
            try:
                data = data[os.write(process.stdin.fileno(), data) :]
            except BlockingIOError:
                time.sleep(0.002)
        blocked = len(data)
        process.stdin.close()
        printed = bodies(process.stdout.read())
    assert not blocked
    assert [body["in_reply_to"] for body in printed[1:]] == list(range(8_000))


def test_a_slow_reader_stops_the_input_and_loses_nothing() -> None:
    line = request(1, type="echo", echo="x" * 1_000_000) + b"\n"
    with started() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        sent, data, quiet_since = 0, memoryview(line), time.monotonic()
        while time.monotonic() - quiet_since < 1 and sent < 60:
            try:
                data = data[os.write(process.stdin.fileno(), data) :]
                quiet_since = time.monotonic()
            except BlockingIOError:
                time.sleep(0.005)
            if not data:
                sent, data = sent + 1, memoryview(line)
        assert 10 < sent < 60, "the node takes some input without a reader, but not without end"
        replies = [process.stdout.readline() for _ in range(sent)]
        assert all(bodies(reply)[0]["type"] == "echo_ok" for reply in replies)


# -- bad input ------------------------------------------------------------------------------------------------------


def test_lines_that_are_no_message_are_reported_with_their_number_and_skipped() -> None:
    rubbish = [
        b"rubbish",
        b"\x00\xff\xfe",
        b'{"src":"c1","dest":"n1","body":{"type":"echo","echo":"\xe9"}}',
        b"[" * 99_999,
    ]
    done = run(INIT, *rubbish, request(9, type="echo", echo="still here"))
    assert [body["type"] for body in bodies(done.stdout)] == ["init_ok", "echo_ok"]
    assert done.returncode == 0
    for number in range(2, 6):
        assert f"line {number} skipped".encode() in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_line_without_end_is_skipped() -> None:
    done = run(INIT, b"x" * (17 * 1_048_576), request(2, type="echo", echo=1))
    assert [body["type"] for body in bodies(done.stdout)] == ["init_ok", "echo_ok"]
    assert b"line 2 skipped" in done.stderr


def test_hostile_fields_are_answered_and_nobody_else_is_harmed() -> None:
    digits = b'{"src":"c1","dest":"n1","body":{"type":"multi_paxos_propose","msg_id":2,"slot":%s,"value":1}}' % (
        b"9" * 5_000
    )
    letters = '{"src":"c1","dest":"n1","body":{"type":"read","msg_id":3,"key":["a' + "é" * 60 + '"]}}'
    half = rb'{"src":"c1","dest":"n1","body":{"type":"write","msg_id":4,"key":"k","value":"\ud800"}}'
    done = run(INIT, digits, letters.encode(), half, request(5, type="echo", echo=1))
    assert [(body["type"], body.get("code"), body["in_reply_to"]) for body in bodies(done.stdout)[1:]] == [
        ("error", 12, 2),
        ("error", 12, 3),
        ("error", 12, 4),
        ("echo_ok", None, 5),
    ]


# -- init -----------------------------------------------------------------------------------------------------------


def test_requests_before_init_are_refused_for_now() -> None:
    done = run(request(1, type="write", key="k", value=1), INIT, request(2, type="read", key="k"))
    assert [(body["type"], body.get("code")) for body in bodies(done.stdout)] == [
        ("error", 11),
        ("init_ok", None),
        ("error", 20),
    ]


def test_a_node_that_speaks_before_init_does_not_take_the_first_msg_id() -> None:
    ask_of_n2 = b'{"src":"n2","dest":"n1","body":{"type":"ask","ballot":[1,"n2"],"first":1}}'
    done = run(ask_of_n2, INIT_OF_THREE)
    assert bodies(done.stdout)[0] == {"type": "init_ok", "in_reply_to": 1, "msg_id": 0}


def test_a_second_init_must_say_the_same() -> None:
    other = INIT.replace(b'"n1"]', b'"n1","n2"]')
    done = run(INIT, INIT, other, request(3, type="echo", echo=1))
    assert [(body["type"], body.get("code")) for body in bodies(done.stdout)] == [
        ("init_ok", None),
        ("init_ok", None),
        ("error", 12),
        ("echo_ok", None),
    ]


def test_nothing_is_imported_that_a_first_answer_does_not_need(tmp_path: Path) -> None:
    """Start-up is bounded (init within 0.4 s); the heavy modules are what would break it, whatever the machine."""
    command = [sys.executable, "-X", "importtime", "-m", "kvstore", "node", "--data-dir", str(tmp_path / "d")]
    for slow in ({"typer", "prompt_toolkit", "rich"}, {"typer", "prompt_toolkit", "rich", "sqlite_utils", "click"}):
        # The second start finds the schema there, so that it needs no sqlite_utils any more.
        done = subprocess.run(command, input=INIT, capture_output=True, timeout=20)
        assert bodies(done.stdout)[0]["type"] == "init_ok"
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
        assert "msgspec" in imported
        assert not imported & slow


# -- data directories -----------------------------------------------------------------------------------------------


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    with started(tmp_path / "d") as process:
        assert ask(process, request(2, type="write", key="k", value=[1, "1"]))["type"] == "write_ok"
        process.send_signal(signal.SIGKILL)
    done = run(INIT, request(2, type="read", key="k"), data_dir=tmp_path / "d")
    assert bodies(done.stdout)[1]["value"] == [1, "1"]


def test_after_a_restart_phase_1_runs_again(tmp_path: Path) -> None:
    for slots in ((1, 2), (3, 4)):
        proposals = [request(slot, type="multi_paxos_propose", slot=slot, value="v") for slot in slots]
        done = run(INIT, *proposals, data_dir=tmp_path / "d")
        assert [body["phase1_skipped"] for body in bodies(done.stdout)[1:]] == [False, True]


def assert_does_not_start(done: subprocess.CompletedProcess[bytes], words: str) -> None:
    reply = bodies(done.stdout)[0]
    assert (reply["type"], reply["code"], done.returncode) == ("error", 11, 3)
    assert words in reply["text"]
    assert words.encode() in done.stderr


def test_a_data_directory_of_another_node_is_refused(tmp_path: Path) -> None:
    assert run(INIT, data_dir=tmp_path / "d").returncode == 0
    other = INIT.replace(b'"n1"', b'"n2"')
    assert_does_not_start(run(other, data_dir=tmp_path / "d"), "n1")


def test_a_data_directory_in_use_names_the_process(tmp_path: Path) -> None:
    with started(tmp_path / "d") as process:
        assert_does_not_start(run(INIT, data_dir=tmp_path / "d"), str(process.pid))


def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    assert run(INIT, request(2, type="write", key="k", value="needle" * 9), data_dir=tmp_path / "d").returncode == 0
    log = tmp_path / "d" / "log.db"
    data = log.read_bytes()
    log.write_bytes(data.replace(b"needle", b"noodle", 1))
    assert data.count(b"needle")
    assert_does_not_start(run(INIT, data_dir=tmp_path / "d"), "slot")


# -- the end --------------------------------------------------------------------------------------------------------


def test_sigterm_is_an_end_of_input(tmp_path: Path) -> None:
    with started(tmp_path / "d") as process:
        assert ask(process, request(2, type="write", key="k", value=1))["type"] == "write_ok"
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    assert bodies(run(INIT, request(2, type="read", key="k"), data_dir=tmp_path / "d").stdout)[1]["value"] == 1


def test_a_node_of_a_cluster_does_not_wait_for_others_after_the_end_of_input(tmp_path: Path) -> None:
    write, read = request(2, type="write", key="k", value=1), request(3, type="read", key="k")
    begun = time.monotonic()
    done = run(INIT_OF_THREE, write, read, data_dir=tmp_path / "d")
    assert time.monotonic() - begun < 3
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    to_clients = [(line["body"]["type"], line["body"].get("code")) for line in replies if line["dest"][0] == "c"]
    assert to_clients == [("init_ok", None), ("error", 11), ("error", 11)]
    assert done.returncode == 0


def test_standard_input_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(INIT + b"\n" + request(2, type="echo", echo=1))
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as taken:
        assert subprocess.run(NODE, stdin=given, stdout=taken, timeout=20).returncode == 0
    assert [body["type"] for body in bodies((tmp_path / "out").read_bytes())] == ["init_ok", "echo_ok"]


def test_standard_input_may_be_empty() -> None:
    assert subprocess.run(NODE, stdin=subprocess.DEVNULL, timeout=20).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_ends_the_node() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(NODE, input=INIT + b"\n", stdout=full, stderr=subprocess.PIPE, timeout=20)
    assert done.returncode == 1
    assert b"cannot go on" in done.stderr


def test_a_broken_invariant_ends_the_node() -> None:
    """It must not go on, nor exit 0, after a callback failed half way."""
    code = (
        "import sys; from kvstore import node, stdio\n"
        "def broken(self): raise AssertionError('invariant')\n"
        "node.Node.log_rows = broken\n"
        "sys.exit(stdio.run(None))"
    )
    lines = INIT + b"\n" + request(2, type="multi_paxos_log") + b"\n"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(lines)
        process.stdin.flush()
        try:
            assert process.wait(10) == 1, "though the input has not ended"
        finally:
            process.kill()
        assert b"AssertionError: invariant" in process.stderr.read()
