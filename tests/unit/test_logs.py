"""Log lines: for people, for machines, and not too many of them."""

from __future__ import annotations

import io
import json
import os
import re
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from kvstore import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> io.StringIO:
    """Not as a fixture: between its set-up and the test's call, pytest puts in a stream of its own."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stderr", stream)
    return stream


def test_machines_get_one_json_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = use(monkeypatch, io.StringIO())
    logs.configure("auto", "info", "n1")
    logs.get("server").info("serving", clients="127.0.0.1:6401", applied=7, text="two\nlines")
    (line,) = stderr.getvalue().splitlines()
    found = json.loads(line)
    told_at = datetime.strptime(found.pop("ts"), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - told_at) < timedelta(minutes=1)
    assert list(json.loads(line)) == ["ts", "level", "event", "node", "clients", "applied", "text"]
    assert found == {
        "level": "info",
        "event": "serving",
        "node": "n1",
        "clients": "127.0.0.1:6401",
        "applied": 7,
        "text": "two\nlines",
    }


def test_people_get_time_level_event_and_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = use(monkeypatch, io.StringIO())
    logs.configure("human", "info", "n1")
    logs.get("server").warning("peer_lost", peer="n2", reason='it said "no"', none="", what="a=b")
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d\.\d{3} warning peer_lost peer=n2 reason="it said \\"no\\"" none="" what="a=b"\n',
        stderr.getvalue(),
    )


def test_a_field_cannot_steer_the_terminal_or_forge_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = use(monkeypatch, io.StringIO())
    logs.configure("human", "info", "n1")
    logs.get("server").info("peer_refused", peer="\x1b[2Jn2\x9b", reason="a\n12:00:00 error b", host="\udcff")
    assert stderr.getvalue().count("\n") == 1
    assert not any(char in stderr.getvalue() for char in "\x1b\x9b\udcff")


def test_lines_below_the_level_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = use(monkeypatch, io.StringIO())
    logs.configure("json", "warning", "n1")
    log = logs.get("server")
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [json.loads(line)["event"] for line in stderr.getvalue().splitlines()] == ["c", "d"]


@pytest.mark.parametrize(
    ("form", "no_color", "begins"),
    [("auto", None, "\x1b[31m"), ("auto", "1", ""), ("human", None, "\x1b[31m"), ("json", None, "{")],
)
def test_a_terminal_gets_colours_unless_it_wants_none(
    monkeypatch: pytest.MonkeyPatch, form: logs.Format, no_color: str | None, begins: str
) -> None:
    stderr = use(monkeypatch, Terminal())
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    logs.configure(form, "info", "n1")
    logs.get("server").error("cannot_go_on")
    line = stderr.getvalue()
    assert line.startswith(begins)
    assert line.endswith("\x1b[0m\n") == (begins == "\x1b[31m")
    assert ("\x1b" in line) == (begins == "\x1b[31m")


def test_people_without_a_terminal_get_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = use(monkeypatch, io.StringIO())
    logs.configure("human", "info", "n1")
    logs.get("server").error("cannot_go_on")
    assert "\x1b" not in stderr.getvalue()


def test_a_limited_event_is_told_once_a_while_for_each_key(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = use(monkeypatch, io.StringIO())
    now = 1_000.0
    monkeypatch.setattr("kvstore.clocks.seconds", lambda: now)
    logs.configure("json", "info", "n1")
    log = logs.get("peers")

    def told() -> list[tuple[str, object]]:
        lines = [json.loads(line) for line in stderr.getvalue().splitlines()]
        return [(line["peer"], line.get("left_out")) for line in lines]

    for _ in range(5):
        log.limited("peer_unreachable", "n2", level="warning", peer="n2")
        log.limited("peer_unreachable", "n3", peer="n3")
    assert told() == [("n2", None), ("n3", None)]
    now += logs.LIMIT_SECONDS - 0.1
    log.limited("peer_unreachable", "n2", peer="n2")
    assert len(told()) == 2
    now += 0.2
    log.limited("peer_unreachable", "n2", peer="n2")
    assert told()[2:] == [("n2", 5)]
    now += logs.LIMIT_SECONDS + 1
    log.limited("peer_unreachable", "n2", peer="n2")
    assert told()[3:] == [("n2", None)]
    assert json.loads(stderr.getvalue().splitlines()[0])["level"] == "warning"


def test_strangers_cannot_fill_the_memory_with_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, io.StringIO())
    logs.configure("json", "error", "n1")
    log = logs.get("peers")
    for number in range(3_000):
        log.limited("peer_refused", str(number))
    assert len(log._told) <= 1_001


def test_a_log_that_cannot_be_written_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = use(monkeypatch, io.StringIO())
    logs.configure("json", "info", "n1")
    stream.close()
    logs.get("server").info("serving")


def test_nobody_waits_for_a_reader_that_takes_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """It returns at all, and the next line that is read tells how many were left out, long ones too."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        monkeypatch.setattr("kvstore.logs.PATIENCE_MS", 10)
        logs.configure("json", "info", "n1")
        log = logs.get("server")
        for _ in range(1_000):
            log.info("peer_lost", peer="n" * 200)
        log.error("bug", trace="x" * 200_000)
        os.set_blocking(read, False)
        whole = reader.read().splitlines()
        log.info("serving")
        last = json.loads(reader.read())
    assert {json.loads(line)["event"] for line in whole} == {"peer_lost"}
    assert (last["event"], last["lines_left_out"]) == ("serving", 1_001 - len(whole))


def test_nobody_waits_for_a_terminal_that_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has room for part of a line."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        logs.configure("human", "info", "n1")
        began = time.monotonic()
        for number in range(5_000):
            logs.get("server").info("peer_lost", peer="n" * 200, number=number)
        assert time.monotonic() - began < 5
        assert os.get_blocking(theirs), "whoever shares the terminal finds it as it was"
        seen = b""
        while b"lines_left_out" not in seen:
            seen += os.read(ours, 65_536)
            logs.get("server").info("serving")
    os.close(ours)
    assert b"peer_lost peer=nnn" in seen


def test_a_long_line_is_whole_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    found: list[bytes] = []
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        logs.configure("json", "info", "n1")
        thread = threading.Thread(target=lambda: found.append(reader.readline()))
        thread.start()
        logs.get("server").error("bug", trace="x" * 300_000)
        thread.join(10)
    assert len(json.loads(found[0])["trace"]) == 300_000
