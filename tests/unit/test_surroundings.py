"""What ``tests/conftest.py`` promises: processes of the tests see the same, whoever started the tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import OWN

READ = re.compile(r"""environ(?:\.get\(|\[)f?["'](KVSTORE_\w+?)(?:["']|\{)""")
ROOT = Path(__file__).parents[2]
CHILD = """
import json, os, re
ignored = re.search(r"SigIgn:\\s*(\\S+)", open("/proc/self/status").read())[1]
blocked = re.search(r"SigBlk:\\s*(\\S+)", open("/proc/self/status").read())[1]
umask = os.umask(0)
print(json.dumps([int(ignored, 16), int(blocked, 16), umask, os.path.isdir(os.environ["HOME"]), dict(os.environ)]))
"""
TESTS = f"import tests.conftest, subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"


def test_children_see_default_signals_and_plain_variables() -> None:
    hostile = {"KVSTORE_CONNECT": "a:1", "KVSTORE_SEEDS": "7", "LC_ALL": "C", "NO_COLOR": "1", "COLUMNS": "9"}
    path = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", f"trap '' HUP INT QUIT TERM USR1; umask 077; exec '{sys.executable}' -c \"$0\"", TESTS],
        env={**hostile, **path, "TERM": "vt52"},
        capture_output=True,
        check=True,
    )
    ignored, blocked, umask, has_home, variables = json.loads(done.stdout)
    python_itself = 1 << 12 | 1 << 24  # SIGPIPE, SIGXFSZ
    assert (ignored & ~python_itself, blocked, umask, has_home) == (0, 0, 0o022, True)
    assert {name for name in variables if name in hostile} == {"KVSTORE_SEEDS"}
    assert (variables["TERM"], variables["LANG"]) == ("dumb", "C.UTF-8")


def test_what_the_tests_themselves_read_is_left_to_them() -> None:
    read = {name for path in (ROOT / "tests").rglob("*.py") for name in READ.findall(path.read_text())}
    assert {"KVSTORE_INSTALLED", "KVSTORE_PYTHON_3_"} < read
    assert read == set(OWN)
