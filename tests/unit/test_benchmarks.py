"""The benchmarks still run: each once with next to nothing to do, and beside another version of the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.benchmarks import versions
from tests.benchmarks.__main__ import MIN_UNITS, compare, main
from tests.benchmarks.registry import GROUPS, Benchmark, every, measure
from tests.benchmarks.versions import ROOT, Order, run

ALL = every()


@pytest.mark.parametrize("found", ALL.values(), ids=ALL)
def test_every_benchmark_runs(found: Benchmark) -> None:
    took = measure(found, MIN_UNITS)
    assert 0 < took.cpu < 1_000_000
    assert 0 < took.wall < 1_000_000


def test_every_group_has_some() -> None:
    assert {name.partition("/")[0] for name in ALL} == set(GROUPS)


def test_the_manual_lists_every_benchmark_and_no_other() -> None:
    manual = (ROOT / "docs" / "benchmarks.md").read_text()
    figures = manual.partition("## Figures")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([^`]+)` \|", figures, re.MULTILINE) == list(ALL)
    groups = manual.partition("## The parts")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([^`]+)` \|", groups, re.MULTILINE) == list(GROUPS)


def test_what_a_version_cannot_run_is_told() -> None:
    assert run(Order("codec/of yesterday", MIN_UNITS)).error.startswith("KeyError")
    assert run(Order("nothing/at all", MIN_UNITS)).error.startswith("ModuleNotFoundError")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="there is no history to compare with")
def test_two_versions_side_by_side() -> None:
    chosen = [ALL["codec/entry encoded"], ALL["log_store/appended, 1 slot a batch"]]
    rows = list(compare(chosen, rounds=2, against="HEAD", scale=0.001))
    assert [row.name for row in rows] == [found.name for found in chosen]
    for row in rows:
        assert row.cpu_us > 0
        assert row.ratio_cpu
        assert row.ratio_wall
        assert row.why == ""


def test_output_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "encoded", "--rounds", "1", "--output", "json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == [name for name in ALL if "encoded" in name]
    assert all(row["cpu_us"] > 0 and row["ratio_cpu"] is None for row in rows)
    for wrong in (["--only", "nosuch"], ["--rounds", "0"], ["--against", "nosuch", "--only", "codec"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2


def test_a_module_that_a_version_lacks_is_not_taken_from_the_present_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("consensus", "kvstore"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "kvstore" / "server" / "frames.py").unlink()
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "old"]):
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=n@x", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    chosen = [ALL["codec/entry encoded"], ALL["log_store/appended, 1 slot a batch"]]
    lacking, whole = compare(chosen, rounds=1, against="HEAD", scale=0.001)
    assert (lacking.ratio_cpu, lacking.why) == (None, "ModuleNotFoundError: No module named 'kvstore.server.frames'")
    assert whole.ratio_cpu
