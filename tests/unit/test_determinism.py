"""What a slot does depends on the log alone, not on the process that executes it nor on what surrounds that process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAIN = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
SURROUNDINGS: dict[str, tuple[list[str], dict[str, str]]] = {
    "hashes of 1": ([], {"PYTHONHASHSEED": "1"}),
    "hashes of 2": ([], {"PYTHONHASHSEED": "2"}),
    "integers of any length": ([], {"PYTHONINTMAXSTRDIGITS": "0"}),
    "short integers": ([], {"PYTHONINTMAXSTRDIGITS": "640"}),
    "Turkish, far in the east": (["-X", "utf8=0"], {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR", "TZ": "Pacific/Apia"}),
    "ASCII": (["-X", "utf8=0"], {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "TZ": "America/Caracas"}),
    "UTF-8 and no assertions": (["-X", "utf8", "-O"], {"LC_ALL": "C"}),
    "a deep stack": ([], {"DEPTH": "600"}),
}
MEANING = "b7e95711b02f36364ae0c839d1e128a6b0dbaa3aaab8a6dedb04331405e40521"
"""The state and the results after the corpus. It changes only where slots are meant to do something else than before,
so that nodes of two versions in one cluster would differ."""


def meaning(python: str, options: list[str], variables: dict[str, str]) -> str:
    command = [python, *options, "-m", "tests.unit.corpus"]
    done = subprocess.run(command, env=PLAIN | variables, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_slots_mean_the_same_in_all_surroundings(name: str) -> None:
    assert meaning(sys.executable, *SURROUNDINGS[name]) == MEANING


@pytest.mark.parametrize("minor", [minor for minor in range(11, 20) if minor != sys.version_info.minor])
def test_slots_mean_the_same_for_all_versions_of_python(minor: int) -> None:
    """For those at hand; where this test runs under another version the one above compares it."""
    python = shutil.which(os.environ.get(f"KVSTORE_PYTHON_3_{minor}", f"python3.{minor}"))
    if python is None or subprocess.run([python, "-c", "import msgspec"], capture_output=True).returncode:
        pytest.skip(f"there is no Python 3.{minor} with msgspec")
    assert meaning(python, [], {}) == MEANING
