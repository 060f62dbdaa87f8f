"""What the package says of itself: the program in its docstring runs, and its names are what they seem."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest

import consensus
from consensus.replica import Replica


def sketch() -> str:
    """The program in the docstring: the block behind the ``::``."""
    assert consensus.__doc__ is not None
    _, _, rest = consensus.__doc__.partition("::\n")
    program, _, _ = rest.partition("\nThe names below")
    return textwrap.dedent(program)


@pytest.fixture(scope="module")
def host() -> Any:
    """Its class, after the program has run."""
    names: dict[str, Any] = {}
    exec(compile(sketch(), "<the docstring of consensus>", "exec"), names)
    return names["Host"]


def test_the_program_in_the_docstring_runs(host: Any) -> None:
    assert sketch().count("assert ") == 2
    assert host.__doc__


def test_its_host_comes_back_from_a_crash_and_catches_up_from_the_disks_of_others(host: Any) -> None:
    network: dict[str, Any] = dict.fromkeys(["n1", "n2", "n3"])
    for name in network:
        network[name] = host(name, network)
    values = [b"%d" % number for number in range(3_000)]
    now = 0

    def run(until: int, *names: str) -> None:
        nonlocal now
        while now < until:
            now += 1
            for name in names:
                network[name].turn(now)

    run(1_000, *network)
    behind = next(name for name in network if name != network["n1"].replica.leader)
    rest = [name for name in network if name != behind]
    network[network["n1"].replica.leader].requests += values
    run(2_000, *rest)
    assert network[rest[0]].replica.log_start > 1, "what the third one lacks has left memory"
    network[behind].inbox.clear()
    network[behind].start(now)
    run(5_000, *network)
    assert all(node.state == values for node in network.values())


def test_every_public_name_is_there_and_no_other() -> None:
    assert sorted(consensus.__all__) == sorted(consensus._MODULE_OF)
    assert all(hasattr(consensus, name) for name in consensus.__all__)
    assert consensus.Replica is Replica
    with pytest.raises(AttributeError, match="module 'consensus' has no attribute 'Paxos'"):
        consensus.Paxos  # noqa: B018


def test_importing_it_imports_nothing_else() -> None:
    code = "import consensus, sys; print(*sorted(name for name in sys.modules if name.startswith('consensus')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["consensus"]
