"""Golden transcripts of the stdin node: lines starting with > go in, lines starting with < must come out, to the byte.

Every transcript is run twice: line by line, waiting for what is expected in between, and all at once with the end of
input right behind, as graders do. KVSTORE_REWRITE=1 writes what came out into the files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kvstore.maelstrom.wire import UnreadableLineError, parse_message

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
NODE = [sys.executable, "-m", "kvstore", "node"]


def parse(path: Path) -> tuple[list[str], list[str]]:
    lines = path.read_text().splitlines()
    return [line[2:] for line in lines if line.startswith("> ")], [line[2:] for line in lines if line.startswith("< ")]


def is_message(line: str) -> bool:
    """Whether the node answers this line at all."""
    try:
        message = json.loads(line)
    except ValueError:
        return False
    return isinstance(message, dict) and isinstance(message.get("src"), str) and isinstance(message.get("body"), dict)


def rewrite(path: Path, printed: list[str]) -> None:
    kept = [line for line in path.read_text().splitlines() if not line.startswith("< ")]
    path.write_text("\n".join([*kept, *(f"< {line}" for line in printed)]) + "\n")


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_all_lines_at_once_then_end_of_input(path: Path, durable: bool, tmp_path: Path) -> None:
    given, expected = parse(path)
    command = [*NODE, "--data-dir", str(tmp_path / "data")] if durable else NODE
    done = subprocess.run(command, input="\n".join(given) + "\n", capture_output=True, text=True, timeout=20)
    if os.environ.get("KVSTORE_REWRITE"):
        rewrite(path, done.stdout.splitlines())
        return
    assert done.stdout.splitlines() == expected
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def is_answered(line: str) -> bool:
    """Whether a reply to the line must be waited for: all but those that are no message."""
    try:
        parse_message(line.encode())
    except UnreadableLineError:
        return False
    return True


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_line_by_line(path: Path) -> None:
    given, expected = parse(path)
    printed = []
    with subprocess.Popen(NODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # A missing reply ends as a difference from the transcript, not as a test that never ends.
        limit = threading.Timer(20, process.kill)
        limit.start()
        try:
            for line in given:
                process.stdin.write(line + "\n")
                process.stdin.flush()
                if is_answered(line):
                    printed.append(process.stdout.readline().rstrip("\n"))
            process.stdin.close()
            printed += process.stdout.read().splitlines()
        finally:
            limit.cancel()
    assert printed == expected


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 8
