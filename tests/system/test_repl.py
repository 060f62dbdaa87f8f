"""The prompt, driven in a real pseudo-terminal; and the same commands from a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pyte
import pytest

from tests.system.servers import HOST, running

REPL = [sys.executable, "-m", "kvstore", "repl"]


class Terminal:
    """A person at a terminal: types, and waits for what should appear."""

    def __init__(self, data_dir: Path, connect: str = "", columns: int = 100) -> None:
        self._main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        environment["XDG_STATE_HOME"] = str(data_dir)  # where the history of a cluster's prompt goes
        self.process = subprocess.Popen(
            [*REPL, "--connect", connect] if connect else [*REPL, "--data-dir", str(data_dir)],
            stdin=other,
            stdout=other,
            stderr=other,
            env=environment,
            start_new_session=True,
        )
        os.close(other)
        self._screen = pyte.Screen(columns, 60)
        self._stream = pyte.ByteStream(self._screen)

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def press(self, keys: str) -> None:
        """Type keys that are the terminal's own (Ctrl-R, Ctrl-D) until the prompt is back."""
        self.expect(r"kvstore>\n[^>]*\Z")
        self.type(keys)

    def paste(self, text: str) -> None:
        self.type(f"\x1b[200~{text}\x1b[201~")

    def expect(self, pattern: str, patience: float = 15) -> None:
        """Wait until the screen shows this."""
        deadline = time.monotonic() + patience
        while not re.search(pattern, self.shown()):
            if time.monotonic() > deadline:
                pytest.fail(f"{pattern!r} did not appear; the screen shows:\n{self.shown()}")
            if select.select([self._main], [], [], 0.1)[0]:
                try:
                    printed = os.read(self._main, 65_536)
                except OSError:  # the other end is closed
                    continue
                self._stream.feed(printed)
                if b"\x1b[6n" in printed:  # it asks where the cursor is
                    os.write(self._main, b"\x1b[%d;%dR" % (self._screen.cursor.y + 1, self._screen.cursor.x + 1))

    def shown(self) -> str:
        """The screen's text."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._main)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path / "data")
    opened.expect("kvstore>")
    yield opened
    opened.close()


def test_a_session(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("set user:ann=1\r")
    terminal.expect(r"OK  slot 1, ballot 1\.n1, phase 1 run, \d+\.\d ms")
    terminal.type("set greeting 'hello world'\r")
    terminal.expect(r"OK  slot 2, ballot 1\.n1, phase 1 skipped, \d+\.\d ms")
    terminal.expect(r"n1 leader  ballot 1\.n1  chosen 2  applied 2  gaps none")
    terminal.type("get us\t")
    terminal.expect("get user:ann")
    terminal.type("\r")
    terminal.expect(r"\n1\s")
    terminal.type('set poem "first\r')
    terminal.expect(r"\.\.\.>")
    terminal.type('second"\r')
    terminal.expect("OK  slot 3")
    terminal.type("get poem\r")
    terminal.expect(r"first\\nsecond")
    terminal.type("set x 1 EX ten\r")
    terminal.expect(r"\n +\^\s+the time to live must be a whole number, not 'ten'")
    terminal.type("incr greeting\r")
    terminal.expect(r"\(failed: the value is not an integer\)  slot 4[^\n]*\n+kvstore>")
    terminal.type("set never=typed\x03")
    terminal.expect(r"set never=typed\n+kvstore>")
    terminal.type("count\r")
    terminal.expect(r"\n3\s")
    terminal.type("sql SELECT count(*) AS n FROM kv\r")
    terminal.expect(r"n\s+-+\s+3")
    terminal.type("explain incr x\r")
    terminal.expect("phase 1     skipped")
    terminal.type("help cas\r")
    terminal.expect("cas KEY OLD NEW")
    terminal.type("log 1 2\r")
    terminal.expect(r"1\.n1 +chosen +set user:ann=1 +OK")
    terminal.press("\x04")
    assert terminal.process.wait(15) == 0
    assert "set poem" in (tmp_path / "data" / "history").read_text()


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path / "narrow", columns=60)
    opened.expect("kvstore>")
    yield opened
    opened.close()


def test_pasted_lines_are_executed_one_by_one(terminal: Terminal) -> None:
    terminal.paste("# two\nset x=1\n\nset greeting 'hello\nworld'\nnonsense\nstatus nothing\nincr x\n")
    terminal.type("\r")
    terminal.expect(r"OK  slot 1[^\n]*\nOK  slot 2[^\n]*\nnonsense\n\^\nunknown command")
    terminal.expect(r"status nothing\n {7}\^\nstatus takes no operand[^\n]*\n2  slot 3")
    terminal.paste(
        "txn {\n  if value x = 2\n  and exists x\n  then\n    incr x\n    get x\n  else\n    get x\n}\ncount"
    )
    terminal.type("\r")
    terminal.expect(r"conditions held: then\n1\. 3\n2\. 3\nslot 4[^\n]*\n2\n")
    terminal.paste("txn {\n  get x\n")
    terminal.type("\r")
    terminal.type("}\r")
    terminal.expect(r"\}\n+1\. 3\n")


def test_every_example_of_the_reference_can_be_pasted(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "commands.md"
    blocks = re.findall(r"```kvstore\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(blocks) > 20
    terminal = Terminal(tmp_path)
    try:
        terminal.expect("kvstore>")
        for number, block in enumerate(blocks):
            terminal.paste(block)
            terminal.type(f"\rset done {number}\rget done\r")
            terminal.expect(rf"get done\n+{number}\nkvstore>")  # the terminal is no prompt's before that
            assert "unknown" not in terminal.shown()
            assert "^" not in terminal.shown()
    finally:
        terminal.close()


def test_what_a_search_finds_is_executed(terminal: Terminal) -> None:
    terminal.type("set x=1\r")
    terminal.expect("OK  slot 1")
    terminal.press("\x12set\r")
    terminal.expect("OK  slot 2")
    terminal.press("\x12nothing like it\r")
    terminal.type("get x\r")
    terminal.expect(r"get x\n+1\n")


@pytest.mark.parametrize("columns", [60, 100])
def test_tables_fit_the_terminal(tmp_path: Path, columns: int) -> None:
    terminal = Terminal(tmp_path / "data", columns=columns)
    try:
        terminal.expect("kvstore>")
        terminal.type(f"set short=1\rset wide={'東京' * 50}\rset {'k' * 90}={'v' * 300}\r")
        terminal.expect("OK  slot 3")
        for command, seen in (("scan", r"short +1 +1 +1 +1"), ("log", r"1 +1\.n1 +chosen +set short=1")):
            terminal.type(f"\x0c{command}\r")
            terminal.expect(rf"> {command}\n+[^>]+\(cut to fit: with output json")
            table = terminal.shown().split(f"> {command}\n", 1)[1].split("(cut", 1)[0].strip().splitlines()
            assert len(table) == 5, "two lines above the rows, and one for each row"
            assert re.search(seen, "\n".join(table))
            assert all(len(line) <= columns for line in table)
            assert sum(line.count("…") for line in table) >= 2
        terminal.type("\x0cstatus\r")
        terminal.expect(r"data_dir\s+/")
        assert re.search(r"state_bytes +\d+\ndata_dir", terminal.shown())
    finally:
        terminal.close()


def test_help_and_errors_break_between_words(narrow: Terminal) -> None:
    assert "lists the\ncommands, Tab" in narrow.shown()
    narrow.type("explain incr x\r")
    narrow.expect("only then is it")
    told = " ".join(narrow.shown().split())
    assert "each acceptor syncs its log before it votes chosen when 1 of 1 node has accepted it" in told
    narrow.type("\x0chelp txn\r")
    narrow.expect("txn { if value a")
    shown = " ".join(narrow.shown().split())
    assert "all or nothing Conditions: value KEY = VALUE [JSON], value KEY != VALUE, version KEY OP N" in shown
    narrow.type("\x0cfrobnicate\r")
    narrow.expect(r"quit\s+and \?")
    text = narrow.shown().split("^", 1)[1]
    assert "incrbyfloat, append, setrange" in " ".join(text.split())
    assert all(word in text for word in ("log,", "status,", "sql,", "help,", "?"))
    narrow.type(f"\x0cset x {'y' * 100} EX ten\r")
    narrow.expect(r"EX ten\n +\^\nthe time to live must be a whole number")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("statsu", r"statsu\n\^\nunknown command 'statsu': did you mean status\?"),
        ("lgo 1", r"did you mean log\?"),
        ("explian get x", r"did you mean explain\?"),
        ("select * from kv", r"\^\nunknown command 'select': a query begins with sql, as in sql SELECT"),
        ("help frob", r"\n +\^\nthere is no command 'frob': there are"),
        ("explain set x 1 EX ten", r"\n {19}\^\nthe time to live must be"),
        ("explain frob x", r"explain frob x\n {8}\^\nunknown command 'frob'"),
        ("set a=1;", r"set a=1;\n {7}\^\na command ends with its line: leave out the ;, or write"),
        ("status;", r"a command ends with its line"),
        ("sql SELECT 7 AS n;", r"n\n-+\n7"),
        (r"set a=1\;", "OK  slot 1"),
        ("?", "Commands of the prompt:"),
        ("? del", "delete KEY"),
        ("sql", r"sql\n {3}\^\nthe query is missing"),
    ],
)
def test_what_is_mistyped_is_pointed_at(terminal: Terminal, typed: str, said: str) -> None:
    terminal.type(f"{typed}\r")
    terminal.expect(said)


def test_ctrl_c_ends_a_long_query_and_nothing_else(terminal: Terminal) -> None:
    terminal.type("set x=1\r")
    terminal.expect("OK  slot 1")
    terminal.type("sql WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT sum(n) FROM c\r")
    terminal.expect(r"FROM c\n")
    time.sleep(1)
    terminal.process.send_signal(signal.SIGINT)  # as the terminal does while no prompt reads the keys
    terminal.expect("interrupted", patience=4)
    terminal.type("get x\r")
    terminal.expect(r"get x\n+1\n")


def test_ctrl_c_pressed_again_ends_even_a_query_that_sqlite_does_not_let_go(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("set x=1\r")
    terminal.expect("OK  slot 1")
    terminal.type("sql SELECT instr(hex(zeroblob(10000000)), hex(zeroblob(5000000)) || '1')\r")
    terminal.expect(r"\|\| '1'\)\n")
    time.sleep(1)
    for _ in range(2):
        terminal.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    terminal.expect("Ctrl-C once more ends kvstore")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(10) == 130
    again = Terminal(tmp_path / "data")
    again.expect("kvstore>")
    again.type("get x\r")
    again.expect(r"get x\n+1\n")
    again.close()


def test_keys_expire_while_nobody_types(terminal: Terminal) -> None:
    terminal.type("set lease=n1 PX 300\r")
    terminal.expect("OK  slot 1")
    terminal.expect("applied 2")  # the tick that the log needed
    terminal.type("get lease\r")
    terminal.expect("no such key: 'lease'")


def test_what_was_acknowledged_survives_kill_9(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("set x=kept\r")
    terminal.expect("OK  slot 1")
    os.kill(terminal.process.pid, signal.SIGKILL)
    terminal.process.wait(10)
    again = Terminal(tmp_path / "data")
    again.expect("kvstore>")
    again.type("get x\r")
    again.expect(r"\nkept")
    again.press("\x1b[A\x1b[A\r")  # history: the command before the last one
    again.expect(r"OK  slot 2, ballot 2\.n1, phase 1 run")
    again.close()


def from_pipe(data_dir: Path, text: str | bytes) -> subprocess.CompletedProcess[bytes]:
    given = text.encode() if isinstance(text, str) else text
    return subprocess.run([*REPL, "--data-dir", str(data_dir)], input=given, capture_output=True, timeout=30)


def test_commands_from_a_pipe(tmp_path: Path) -> None:
    done = from_pipe(tmp_path, "# a comment\n\nset x=1\nset p 'a\nb'\nget p\nget nobody\nset x=2 NX\nquit\nset x=9\n")
    assert done.stdout.decode().splitlines() == [
        "OK",
        "OK",
        "a\\nb",
        "(no such key: 'nobody')",
        "(not done: the key exists)",
    ]
    assert done.returncode == 0, "a missing key and a condition that is not met are answers, not failures"
    assert from_pipe(tmp_path, "get x\n").stdout == b"1\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"nonsense\n", b"line 1: unknown command 'nonsense'"),
        (b"set t=a\nincr t\n", b""),
        (b"\xff\xfe\n", b"line 1: this is not UTF-8"),
        (b"get 'a\n", b"line 1: the input ends within quotes"),
        (b"sql DROP TABLE kv\n", b"only queries that read"),
    ],
)
def test_a_failed_command_shows_in_the_exit_status_and_ends_nothing(tmp_path: Path, text: bytes, said: bytes) -> None:
    done = from_pipe(tmp_path, b"set before=1\n" + text)
    assert done.returncode == 1
    assert said.replace(b"line 1", b"line 2") in done.stderr
    assert b"Traceback" not in done.stderr
    assert from_pipe(tmp_path, "get before\n").stdout == b"1\n"


def test_errors_are_json_where_results_are(tmp_path: Path) -> None:
    done = from_pipe(tmp_path, "output json\nget x\nget\n")
    assert json.loads(done.stderr)["line"] == 3


def test_two_at_once(terminal: Terminal, tmp_path: Path) -> None:
    done = from_pipe(tmp_path / "data", "get x\n")
    assert done.returncode == 3
    assert f"in use by process {terminal.process.pid}".encode() in done.stderr


def test_the_prompt_goes_on_while_no_node_answers(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "127.0.0.1:1")
    try:
        terminal.expect("127.0.0.1:1 does not answer: connection refused")  # the toolbar
        terminal.type("get a\t")
        time.sleep(0.5)
        terminal.type("b\x03")
        terminal.expect(r"kvstore> get ab\n+kvstore>")
        assert "exception" not in terminal.shown().lower()
        terminal.type("get x\r")
        terminal.expect(r"get x\nno answer yet[^\n]*\n+127.0.0.1:1 does not answer: connection refused")
    finally:
        terminal.close()


def test_the_history_is_private_and_may_be_missing(tmp_path: Path) -> None:
    for directory, told in ((tmp_path, ""), (Path(os.devnull), "The history is not kept: /dev/null/kvstore/history: ")):
        terminal = Terminal(directory, "127.0.0.1:1")
        try:
            terminal.expect("kvstore>")
            terminal.type("help cas\r")
            terminal.expect("cas KEY")
            assert told in terminal.shown()
        finally:
            terminal.close()
    kept = tmp_path / "kvstore" / "history"
    assert "help cas" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_the_toolbar_follows_the_cluster(tmp_path: Path) -> None:
    with running(tmp_path) as servers:
        leader = servers.leader()
        others = [name for name in servers.names if name != leader]
        connect = ",".join(f"{HOST}:{servers.ports[name]}" for name in (leader, *others))
        terminal = Terminal(tmp_path, connect)
        try:
            lags = " ".join(rf"{name} \d+" for name in others)
            terminal.expect(rf"{leader} leader  ballot \d+\.{leader}  chosen \d+  applied \d+  lag {lags}")
            servers.kill(leader)
            terminal.expect(
                rf"{others[0]} (leader|follower  leader {others[1]})  ballot \d+\.n\d  chosen \d+  applied \d+  lag"
            )
            terminal.type("set x 1\r")
            terminal.expect(r"OK  slot \d+, ballot \d+\.n\d, phase 1 (run|skipped)")
        finally:
            terminal.close()


def test_a_dead_address_is_named_within_a_second_or_so(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "127.0.0.1:1")
    try:
        terminal.expect("kvstore>")
        terminal.type("get x\r")
        terminal.expect(r"no answer yet: trying 127\.0\.0\.1:1, for about 10 s", patience=3)
    finally:
        terminal.close()


def test_the_files_of_a_running_store_do_not_call_it_offline(terminal: Terminal, tmp_path: Path) -> None:
    status = [sys.executable, "-m", "kvstore", "status", "--data-dir", str(tmp_path / "data")]
    assert b"running" in subprocess.run(status, check=True, capture_output=True).stdout
    terminal.press("\x04")
    terminal.process.wait(15)
    assert b"offline" in subprocess.run(status, check=True, capture_output=True).stdout


def test_every_write_says_which_phases_ran_through_whichever_node(tmp_path: Path) -> None:
    with running(tmp_path) as servers:
        leader = servers.leader()
        follower = next(name for name in servers.names if name != leader)
        terminal = Terminal(tmp_path, f"{HOST}:{servers.ports[follower]}")
        try:
            terminal.expect("kvstore>")
            terminal.type("set x 1\rset x 2\r")
            terminal.expect(r"slot \d+, ballot \d+\.n\d, phase 1 run[^>]+> set x 2\s+OK [^>]+phase 1 skipped")
            servers.kill(leader)
            terminal.type("set x 3\rset x 4\r")
            terminal.expect(
                r"> set x 3\s+(?:no answer yet[^>]+)?OK [^>]+phase 1 run[^>]+> set x 4\s+OK [^>]+phase 1 skipped"
            )
        finally:
            terminal.close()


def test_ctrl_c_ends_the_wait_for_a_cluster_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        terminal = Terminal(tmp_path, f"127.0.0.1:{silent.getsockname()[1]}")
        try:
            terminal.expect("kvstore>")
            terminal.type("set x 1\r")
            time.sleep(1)  # it has sent its request, and waits
            terminal.process.send_signal(signal.SIGINT)  # as the terminal does while no prompt reads the keys
            terminal.expect("interrupted; a write may have happened", patience=4)
            terminal.type("help cas\r")
            terminal.expect("cas KEY")
        finally:
            terminal.close()
