"""``import kvstore``: its docstring's example runs, its names are there, and it costs nothing."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import kvstore
from kvstore import commands


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(kvstore.__doc__ or "", {}, "kvstore", None, 0)
    assert len(example.examples) >= 4
    ran = doctest.DocTestRunner(verbose=False).run(example)
    assert ran.failed == 0


@pytest.mark.parametrize("name", kvstore.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(kvstore, name) is not None
    assert name in dir(kvstore)


def test_no_other_name_is() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kvstore.__getattr__("nothing")  # type: ignore[attr-defined]


def test_every_command_and_result_has_its_name_there() -> None:
    for union in (commands.Command, commands.Result):
        assert {part.__name__ for part in get_args(union)} <= set(kvstore.__all__)


def test_a_cluster_is_named_by_its_addresses() -> None:
    assert kvstore.connect("127.0.0.1:6401,[::1]:6402").node == ("127.0.0.1", 6401)
    with pytest.raises(kvstore.CommandError, match=r"^nodes: 'somewhere' must be HOST:PORT"):
        kvstore.connect("somewhere")


def test_the_import_alone_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import kvstore; print(*set(sys.modules) - before)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert set(found.stdout.split()) == {"__future__", "kvstore"}
