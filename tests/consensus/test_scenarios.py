"""The golden scenarios say what really happens, and the one who checks that is not easily satisfied."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.consensus.golden import ScenarioError, files, parse, run

FIRST = """\
# n1 is elected and crashes.

cluster n1 n2 n3
----
ok

elect n1
----
n1 leads under 1.n1

crash n1
----
ok
"""


@pytest.mark.parametrize("file", files(), ids=lambda file: file.stem)
def test_a_scenario_says_what_happens(file: Path) -> None:
    text = file.read_text()
    assert run(file.name, text) == text, "if this is meant: python -m tests.consensus.golden --rewrite"


@pytest.mark.parametrize("file", files(), ids=lambda file: file.stem)
def test_a_scenario_explains_itself(file: Path) -> None:
    comments = [block.text for block in parse(file.read_text()) if block.text.startswith("#")]
    assert comments[1] == "#", "a title, and then what it is about"
    assert len(comments) >= 5


def test_what_was_asked_for_is_there() -> None:
    assert len(files()) >= 8


def test_a_right_expectation_is_left_alone() -> None:
    assert run("first", FIRST) == FIRST


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("n1 leads under 1.n1\n", "n1 leads under 2.n1\n"),
        ("n1 leads under 1.n1\n", "n1 leads under 1.n1\nn2 leads under 2.n2\n"),
        ("n1 leads under 1.n1\n", ""),
        ("----\nok\n\nelect", "\nelect"),
    ],
)
def test_a_wrong_expectation_is_found_and_put_right(right: str, wrong: str) -> None:
    text = FIRST.replace(right, wrong, 1)
    assert text != FIRST
    now = run("first", text)
    assert now != text
    assert now == FIRST


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("dance n1", "first, line 15: there is no command dance"),
        ("timeout n1", "first, line 15: n1 is down"),
        ("timeout n4", "first, line 15: timeout n4: KeyError: 'n4'"),
        ("elapse soon n2", "first, line 15: elapse soon n2: ValueError"),
        ("elect n2", "first, line 15: n2 is not elected"),
    ],
)
def test_what_cannot_be_run_is_named(command: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        run("first", f"{FIRST}\n{command}\n")
