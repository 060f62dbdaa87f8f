"""The node as a process: how it starts, ends, and bears bad input, much input, slow readers and crashes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvstore.maelstrom.host import PATIENCE
from kvstore.maelstrom.pipes import MAX_LINE

NODE = [sys.executable, "-m", "kvstore", "node"]
INIT = b'{"src":"c0","dest":"n1","body":{"type":"init","msg_id":1,"node_id":"n1","node_ids":["n1"]}}'
INIT_OF_THREE = b'{"src":"c0","dest":"n1","body":{"type":"init","msg_id":1,"node_id":"n1","node_ids":["n1","n2","n3"]}}'
PREPARE = b'{"src":"n2","dest":"n1","body":{"type":"prepare","ballot":[7,"n2"],"first":1}}'
Body = dict[str, Any]


def request(msg_id: int, **body: object) -> bytes:
    return json.dumps({"src": "c1", "dest": "n1", "body": {**body, "msg_id": msg_id}}).encode()


def run(*lines: bytes, data_dir: Path | None = None, command: list[str] = NODE) -> subprocess.CompletedProcess[bytes]:
    """All lines at once, then the end of input."""
    if data_dir:
        command = [*command, "--data-dir", str(data_dir)]
    return subprocess.run(command, input=b"\n".join(lines) + b"\n", capture_output=True, timeout=20)


def changed(code: str) -> list[str]:
    """The command of a node after this code was run in its process."""
    main = (
        "import sys\nfrom pathlib import Path\nfrom kvstore.maelstrom import host, pipes\n"
        "from kvstore.node import node\nfrom kvstore.storage import log_store\n"
    )
    start = "sys.exit(host.run(Path(sys.argv[2]) if sys.argv[1:] else None))"
    return [sys.executable, "-c", f"{main}{code}\n{start}"]


def bodies(output: bytes) -> list[Body]:
    return [json.loads(line)["body"] for line in output.splitlines()]


@contextlib.contextmanager
def started(
    data_dir: Path | None = None, init: bytes = INIT, command: list[str] = NODE
) -> Iterator[subprocess.Popen[bytes]]:
    """An initialised node; it is killed at the end if it is still there."""
    if data_dir:
        command = [*command, "--data-dir", str(data_dir)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            assert ask(process, init)["type"] == "init_ok"
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[bytes], *lines: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(b"".join(line + b"\n" for line in lines))
    process.stdin.flush()


def ask(process: subprocess.Popen[bytes], line: bytes) -> Body:
    assert process.stdout is not None
    tell(process, line)
    return bodies(process.stdout.readline())[0]


# -- much at once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 2], ids=["from the first slot", "behind a gap"])
def test_a_thousand_proposals_at_once_are_all_chosen(first: int) -> None:
    slots = range(first, first + 1_000)
    proposals = [request(slot, type="multi_paxos_propose", slot=slot, value=f"set k={slot}") for slot in slots]
    times = []
    while not times or (min(times) >= 5 and len(times) < 3):  # others may keep the machine busy, but hardly three times
        begun = time.monotonic()
        done = run(INIT, *proposals)
        times.append(time.monotonic() - begun)
    replies = bodies(done.stdout)[1:]
    assert [(reply["type"], reply.get("slot")) for reply in replies] == [("multi_paxos_propose_ok", s) for s in slots]
    assert [reply["phase1_skipped"] for reply in replies] == [False] + [True] * 999
    assert min(times) < 5, "a grader waits 5 s"


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


def test_a_file_as_input_waits_for_a_slow_reader_without_spinning(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(INIT + b"\n" + b"\n".join([request(1, type="echo", echo="x" * 1_000_000)] * 40))
    with (
        (tmp_path / "in").open("rb") as given,
        subprocess.Popen(NODE, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
    ):
        assert process.stdout is not None
        spent, deadline = 1.0, time.monotonic() + 20
        while spent > 0.1 and time.monotonic() < deadline:  # until it has read what it takes without a reader
            before = processor_time(process.pid)
            time.sleep(1)
            spent = processor_time(process.pid) - before
        assert spent <= 0.1, "it keeps the processor busy"
        assert len(bodies(process.stdout.read())) == 41


def processor_time(pid: int) -> float:
    """The seconds that a process has used; 0 where it cannot be told."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    return sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def test_messages_for_other_nodes_do_not_fill_the_memory_when_nobody_reads() -> None:
    code = """
pipes.MAX_UNREAD = 100_000
say = node.Node.turn
def turn(self):
    said = say(self)
    return node.Turn(said.records, said.messages + [("n2", node.Forward(node.Ballot(1, "n2"), False, []))] * 200)
node.Node.turn = turn"""
    with started(init=INIT_OF_THREE, command=changed(code)) as process:
        assert process.stdout is not None
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert len(process.stdout.read()) < 300_000, "a pipe of 64 KiB, the limit, and one turn"
        assert process.wait(10) == 0


def test_clients_that_come_and_go_are_forgotten() -> None:
    code = """
import atexit
make = host.PipeHost
def counted(path):
    made = make(path)
    atexit.register(lambda: print(len(made._orders), "orders", file=sys.stderr))
    return made
host.PipeHost = counted"""
    echoes = [request(i, type="echo", echo=i).replace(b"c1", b"c%d" % i) for i in range(300)]
    done = run(INIT_OF_THREE, *echoes, command=changed(code))
    assert done.stdout.count(b"echo_ok") == 300
    assert b"\n0 orders" in b"\n" + done.stderr


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


def test_a_line_without_end_that_is_the_last_is_reported_too() -> None:
    with subprocess.Popen(NODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        _, errors = process.communicate(INIT + b"\n" + b"x" * (MAX_LINE + 1), timeout=20)
    assert b"line 2 skipped" in errors


@pytest.mark.parametrize(("cut", "answers"), [(1, ["init_ok", "echo_ok"]), (10, ["init_ok"])])
def test_the_last_line_may_lack_its_end(cut: int, answers: list[str]) -> None:
    lines = INIT + b"\n" + request(2, type="echo", echo=1) + b"\n"
    done = subprocess.run(NODE, input=lines[:-cut], capture_output=True, timeout=20)
    assert [body["type"] for body in bodies(done.stdout)] == answers
    assert done.returncode == 0
    assert (b"line 2 skipped" in done.stderr) == (len(answers) == 1)


def test_whoever_nests_json_deeply_ends_no_node() -> None:
    """What is deeper than the stack allows may be found on the way to the line, to the request, or to the value."""
    echoes = []
    for depth in range(940, 1_000):
        nested = b"[" * depth + b"]" * depth
        for kind, field in ((b"echo", b"echo"), (b"append", b"no"), (b"ask", b"ballot")):
            body = b'{"type":"%s","msg_id":1,"%s":%s}' % (kind, field, nested)
            echoes += [b'{"src":"%s","dest":"n1","body":%s}' % (src, body) for src in (b"c1", b"n2")]
    done = run(INIT_OF_THREE, *echoes, request(9, type="echo", echo="still here"))
    assert done.returncode == 0
    replies = [json.loads(line) for line in done.stdout.splitlines() if b"[[[" not in line]
    assert [line["body"]["echo"] for line in replies if line["body"]["type"] == "echo_ok"] == ["still here"]


def test_nobody_needs_to_read_the_reports() -> None:
    """Neither a full pipe nor a closed one may stop the node, nor take the requests beside a bad line with it."""
    rubbish = [b"rubbish"] * 5_000
    pipe = subprocess.PIPE
    for closed in (False, True):
        with subprocess.Popen(NODE, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            limit = threading.Timer(20, process.kill)
            limit.start()
            try:
                assert process.stderr is not None
                assert process.stdout is not None
                if closed:
                    process.stderr.close()
                tell(process, INIT, *rubbish, request(2, type="echo", echo=1))
                assert [bodies(process.stdout.readline())[0]["type"] for _ in range(2)] == ["init_ok", "echo_ok"]
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
            finally:
                limit.cancel()


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
    """Start-up is bounded (init within 0.4 s). How long it takes depends on what else the machine does; what it
    imports does not, and the heavy modules are what would break the bound."""
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


def test_a_node_that_did_not_start_does_not_say_that_it_did(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(INIT, INIT, request(2, type="echo", echo=1), data_dir=tmp_path / "file")
    assert [(body["type"], body["code"]) for body in bodies(done.stdout)] == [("error", 11)] * 3
    assert done.returncode == 3


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
    with started(tmp_path / "d", INIT_OF_THREE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        begun = time.monotonic()  # not before the interpreter is up, which takes what it takes on a busy machine
        tell(process, write, read)
        process.stdin.close()
        replies = [json.loads(line) for line in process.stdout]
        assert process.wait(10) == 0
        assert time.monotonic() - begun < PATIENCE / 1_000, "requests were left to their deadlines"
    to_clients = [(line["body"]["type"], line["body"].get("code")) for line in replies if line["dest"][0] == "c"]
    assert to_clients == [("error", 11), ("error", 11)]


def test_standard_input_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(INIT + b"\n" + request(2, type="echo", echo=1))
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as taken:
        assert subprocess.run(NODE, stdin=given, stdout=taken, timeout=20).returncode == 0
    assert [body["type"] for body in bodies((tmp_path / "out").read_bytes())] == ["init_ok", "echo_ok"]


def test_standard_input_may_be_empty() -> None:
    assert subprocess.run(NODE, stdin=subprocess.DEVNULL, timeout=20).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_node_whose_replies_nobody_reads(number: signal.Signals) -> None:
    with started() as process:
        tell(process, request(2, type="echo", echo="x" * 1_000_000))
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(number)
        assert process.wait(10) != 0


def test_a_reader_that_went_away_is_an_end_of_input(tmp_path: Path) -> None:
    with started(tmp_path / "d") as process:
        assert process.stdout is not None
        process.stdout.close()
        tell(process, request(2, type="write", key="k", value=1))
        assert process.wait(10) == 0
    assert bodies(run(INIT, request(2, type="read", key="k"), data_dir=tmp_path / "d").stdout)[1]["value"] == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_ends_the_node() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(NODE, input=INIT + b"\n", stdout=full, stderr=subprocess.PIPE, timeout=20)
    why = b"standard output cannot be written: no space left on device"
    assert (done.returncode, done.stderr) == (1, b"kvstore node: cannot go on: %s\n" % why)


def test_input_that_cannot_be_read_ends_the_node() -> None:
    with Path(os.devnull).open("wb") as not_for_reading:
        done = subprocess.run(NODE, stdin=not_for_reading, capture_output=True, timeout=20)
    why = b"standard input cannot be read: bad file descriptor"
    assert (done.returncode, done.stderr) == (1, b"kvstore node: cannot go on: %s\n" % why)


# -- failures ---------------------------------------------------------------------------------------------------------

PATIENT = """
host.FLUSH_SECONDS = 20"""
FAILING = """
from consensus.invariants import InvariantViolation
from kvstore.errors import DamagedError
def fail(*arguments):
    raise {error}
{place} = fail"""


FAILURES = [
    ("DamagedError('log.db is damaged')", 3, b"log.db is damaged"),
    ("InvariantViolation('one value a slot')", 1, b"a rule of the protocol does not hold: one value a slot"),
    ("OSError(5, 'Input/output error')", 1, b"[Errno 5] Input/output error"),
    ("AssertionError('unforeseen')", 1, b"this is a bug; what was acknowledged is in the log"),
]


@pytest.mark.parametrize(
    ("place", "error", "status", "last"),
    [
        (place, *failure)
        for place in ("node.Node.slot_rows", "node.Node.receive", "log_store.SqliteLog.append")
        for failure in FAILURES
        # What is unforeseen in one request costs that request only.
        if not (place.endswith("slot_rows") and failure[0].startswith("Assertion"))
    ],
)
def test_a_node_that_fails_ends_at_once_and_says_why(
    tmp_path: Path, place: str, error: str, status: int, last: bytes
) -> None:
    """Though its input has not ended, and nobody reads what it has to say."""
    large, log = request(2, type="echo", echo="x" * 1_000_000), request(3, type="multi_paxos_log")
    with started(tmp_path / "d", INIT_OF_THREE, changed(FAILING.format(error=error, place=place))) as process:
        tell(process, large)
        tell(process, PREPARE, log)
        assert process.wait(10) == status
        assert process.stdout is not None
        assert process.stderr is not None
        *before, line, flushed = process.stderr.read().splitlines()
        assert line == b"kvstore node: cannot go on: " + last
        assert flushed == b"kvstore node: some replies could not be written"
        assert bool(before) == error.startswith("Assertion"), "what nobody foresaw needs a traceback"
        assert b"promise" not in process.stdout.read()


def test_a_node_that_fails_neither_reads_on_nor_votes() -> None:
    """Not even while it hands over what it owed before."""
    code = PATIENT + FAILING.format(error="InvariantViolation('rule')", place="node.Node.slot_rows")
    with started(command=changed(code)) as node:
        assert node.stdout is not None
        assert node.stderr is not None
        tell(node, request(2, type="echo", echo="x" * 200_000))
        tell(node, request(3, type="multi_paxos_log"))
        assert b"cannot go on" in node.stderr.readline()
        tell(node, request(4, type="echo", echo=1), request(5, type="write", key="k", value=1))
        assert [body["in_reply_to"] for body in bodies(node.stdout.read())] == [2]
        assert node.wait(10) == 1


@pytest.mark.parametrize(("fails", "said"), [(False, ["echo_ok", "promise"]), (True, ["echo_ok"])])
def test_a_vote_that_becomes_durable_after_a_failure_is_not_cast(tmp_path: Path, fails: bool, said: list[str]) -> None:
    slow = """
import time
append = log_store.SqliteLog.append
def slowly(self, *arguments):
    print("slowly", file=sys.stderr, flush=True)
    time.sleep(0.5)
    append(self, *arguments)
log_store.SqliteLog.append = slowly"""
    code = slow + PATIENT + FAILING.format(error="InvariantViolation('rule')", place="node.Node.slot_rows")
    with started(tmp_path / "d", INIT_OF_THREE, changed(code)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        tell(process, request(2, type="echo", echo="x" * 200_000))
        tell(process, PREPARE)
        assert process.stderr.readline() == b"slowly\n"
        if fails:
            tell(process, request(3, type="multi_paxos_log"))
        process.stdin.close()
        time.sleep(0.8)  # the promise is on disk, the echo not yet read
        assert [body["type"] for body in bodies(process.stdout.read()) if body["type"] != "ask"] == said
        assert process.wait(10) == fails


def test_a_full_disk_is_reported_once(tmp_path: Path) -> None:
    code = """
from kvstore.errors import StorageFullError
append = log_store.SqliteLog.append
def full(self, *arguments):
    if self._path.with_name("full").exists():
        raise StorageFullError("the disk is full")
    append(self, *arguments)
log_store.SqliteLog.append = full"""
    with started(tmp_path / "d", command=changed(code)) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert ask(process, request(2, type="write", key="k", value=1))["type"] == "write_ok"
        (tmp_path / "d" / "full").touch()
        reply = ask(process, request(2, type="write", key="k", value=1))
        assert (reply["type"], reply["code"]) == ("error", 0), "it may be written yet"
        assert ask(process, request(3, type="write", key="k", value=1))["code"] == 11
        time.sleep(1)
        process.stdin.close()
        assert process.wait(10) == 0
        assert process.stderr.read() == b"kvstore node: the disk is full\n"


def test_the_log_is_kept_whole_since_clients_may_ask_for_any_slot(tmp_path: Path) -> None:
    """However little of theirs other hosts keep, and however early the state is durable."""
    little = [
        sys.executable,
        "-c",
        "import sys\nfrom pathlib import Path\n"
        "from kvstore.state import commit_schedule, machine\nfrom kvstore.storage import log_tail\n"
        "commit_schedule.COMMIT_SLOTS = machine.SYNC_SLOTS = 1\nlog_tail.KEEP = log_tail.Keep(3, 1 << 30)\n"
        "from kvstore.maelstrom import host\nsys.exit(host.run(Path(sys.argv[2]) if sys.argv[1:] else None))",
    ]
    with started(tmp_path / "d", command=little) as process:
        for number in range(2, 302):
            assert ask(process, request(number, type="write", key="k", value=number))["type"] == "write_ok"
    first, log = bodies(
        run(
            INIT,
            request(2, type="multi_paxos_propose", slot=1, value="another"),
            request(3, type="multi_paxos_log"),
            data_dir=tmp_path / "d",
            command=little,
        ).stdout
    )[1:]
    assert (first["chosen"], first["value"]) == (True, "set k=2")
    assert [row["slot"] for row in log["log"]] == list(range(1, 301))
