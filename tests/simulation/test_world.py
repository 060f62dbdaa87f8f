"""The parts of the simulated world: network, disks, clocks, time, and the schedule of faults."""

from __future__ import annotations

import random

import pytest

from consensus.ballot import Ballot
from consensus.messages import Promised, Run, Stored
from consensus.simulation.action import LEADER
from consensus.simulation.clocks import EPOCH, Clocks
from consensus.simulation.disk import Disk, RottenRecord
from consensus.simulation.faults import PRESETS, Rot, schedule
from consensus.simulation.network import Network, Weather
from consensus.simulation.timeline import Timeline

B1, B2 = Ballot(1, "n1"), Ballot(2, "n2")
LINK = frozenset({("n1", "n2")})


def test_time_passes_in_order_and_only_where_something_happens() -> None:
    timeline, seen = Timeline(), []
    timeline.at(7, seen.append, "c")
    timeline.at(5, seen.append, "a")
    timeline.at(5, seen.append, "b")
    timeline.at(5, lambda: timeline.at(2, seen.append, "late means now"))
    timeline.run(6)
    assert (seen, timeline.now, timeline.events, timeline.planned) == (["a", "b", "late means now"], 6, 4, 1)
    timeline.run(7)
    assert seen[-1] == "c"


def test_weather_changes_only_its_links_while_it_lasts() -> None:
    network = Network(random.Random(1), (2, 4), 0.0, 0.0)
    cut, hold = Weather(LINK, cut=True), Weather(LINK, hold=500)
    network.begin(cut)
    assert network.arrivals("n1", "n2", 0) == []
    assert network.is_cut("n1", "n2") and not network.is_cut("n2", "n1")
    assert all(arrival >= 2 for arrival in network.arrivals("n2", "n1", 0))
    network.end(cut)
    network.begin(hold)
    assert network.arrivals("n1", "n2", 0) == [500]
    network.clear()
    network.end(hold)
    assert len(network.arrivals("n1", "n2", 600)) == 1


def test_messages_are_lost_repeated_and_overtaken() -> None:
    network = Network(random.Random(1), (1, 9), 0.2, 0.2)
    copies = [len(network.arrivals("n1", "n2", ms)) for ms in range(1_000)]
    assert 120 < copies.count(0) < 280
    assert 100 < copies.count(2) < 220
    assert network.lost == copies.count(0) and network.repeated == copies.count(2)
    assert network.reordered > 100
    assert set(network.exercised()) == {"network: messages " + what for what in ("out of order", "repeated", "lost")}


def test_a_crash_keeps_a_prefix_of_the_write_under_way() -> None:
    kept = set()
    for seed in range(40):
        disk = Disk(random.Random(seed), (0, 0))
        disk.append([Promised(B1)])
        disk.begin([Stored(Run(1, B1, [b"a"]), 0), Stored(Run(2, B2, [b"b"]), 1)])
        records, lost = disk.crash()
        assert len(records) + lost == 2
        disk.open()
        assert (disk.last, disk.promised, disk.chosen_upto) == [(0, B1, 0), (1, B1, 0), (2, B2, 1)][len(records)]
        kept.add(len(records))
    assert kept == {0, 1, 2}


def test_a_rotten_record_is_noticed_by_whoever_reads_it() -> None:
    disk = Disk(random.Random(1), (0, 0))
    assert not disk.rot(1)
    disk.append([Stored(Run(1, B1, [b"a"]), 0), Stored(Run(2, B1, [b"b"]), 0)])
    assert disk.rot(2)
    assert list(disk.read(1, 1)) == [Run(1, B1, [b"a"])]
    for read in (lambda: list(disk.read(1, 2)), lambda: disk.tail(1), disk.open):
        with pytest.raises(RottenRecord, match=r"slots 2\.\.2"):
            read()


def test_a_write_without_room_stores_nothing() -> None:
    disk = Disk(random.Random(1), (3, 3))
    assert disk.begin([Promised(B1)]) == 3
    disk.fail()
    assert disk.finish() == ()
    disk.open()
    assert disk.promised < B1


def test_a_local_clock_drifts_and_never_jumps_and_a_wall_clock_does() -> None:
    clocks = Clocks(1.0)
    assert (clocks.local(100), clocks.wall(100)) == (100, EPOCH + 100)
    clocks.drift(100, 0.5)
    clocks.jump(-5_000)
    assert (clocks.local(100), clocks.local(300)) == (100, 200)
    assert clocks.wall(300) == EPOCH + 200 - 5_000
    clocks.drift(300, 2.0)
    assert clocks.local(301) == 202


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_faults_end_in_time_and_leave_a_majority_intact(size: int, preset: str) -> None:
    names = [f"n{number + 1}" for number in range(size)]
    for seed in range(50):
        actions = schedule(random.Random(seed), names, 5_000, preset)
        assert [action.at for action in actions] == sorted(action.at for action in actions)
        assert all(0 <= action.at <= action.until <= 5_000 for action in actions)
        assert len({action.node for action in actions if isinstance(action, Rot)}) <= (size - 1) // 2
        assert all(str(action).startswith(f"{action.at}..{action.until} ms: ") for action in actions)
        assert not (preset == "none" and actions)
    assert LEADER not in names
