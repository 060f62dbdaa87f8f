"""Who is believed at the door, and when a data directory takes part."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from consensus.ballot import NEVER, Ballot
from consensus.messages import Promised, Run, Stored
from kvstore.errors import DamagedError
from kvstore.node.members import Members
from kvstore.storage.log_store import SqliteLog
from kvstore.storage.peer_records import PeerRecords, Standing

VOTERS = ["n1", "n2", "n3"]
FAR = Standing("dir2", 3, 33, Ballot(5, "n1"), 70)


def members(noted: dict[str, Standing] | None = None, *, settled: bool = False) -> Members:
    return Members("n1", VOTERS, "dir1", noted or {}, settled=settled, condemned="")


def test_another_directory_is_not_believed() -> None:
    known = members({"n2": FAR})
    reason = known.judge("n2", Standing("other", 9, 9, Ballot(9, "n1"), 99), {})
    assert "another data directory" in reason
    assert "Put it back (docs/operations.md" in reason
    assert known.judge("n2", FAR, {}) == ""
    assert "has not told" in known.judge("n2", Standing("", 9, 9), {})


@pytest.mark.parametrize(
    ("standing", "word"),
    [
        (Standing("dir2", 2, 44, Ballot(5, "n1"), 70), "was started 2 times, and 3 times before"),
        (Standing("dir2", 3, 44, Ballot(5, "n1"), 70, (31, 32, 44)), "does not know of a start"),
        (Standing("dir2", 5, 66, Ballot(5, "n1"), 70, (31, 32, 44, 55, 66)), "counted as its 3."),
        (Standing("dir2", 4, 44, Ballot(4, "n3"), 70, (33, 44)), "has promised 4.n3"),
        (Standing("dir2", 4, 44, NEVER, 70, (33, 44)), "has promised"),
        (Standing("dir2", 4, 44, Ballot(5, "n1"), 69, (33, 44)), "ends at slot 69, and ended at slot 70"),
    ],
)
def test_an_older_copy_is_not_believed(standing: Standing, word: str) -> None:
    reason = members({"n2": FAR}).judge("n2", standing, {})
    assert "an older copy" in reason
    assert word in reason


def test_what_goes_on_from_where_it_was_is_believed() -> None:
    known = members({"n2": FAR})
    for standing in (
        FAR,
        Standing("dir2", 4, 44, Ballot(5, "n1"), 70, (31, 32, 33, 44)),
        Standing("dir2", 90, 44, Ballot(5, "n1"), 70, (1, 2, 44)),
        Standing("dir2", 3, -44, Ballot(5, "n1"), 70, (31, 32, 33)),  # its disk had no room to count its start
        Standing("dir2", 3, 33, NEVER, 0),  # what the same process says may overtake what it said before
    ):
        assert known.judge("n2", standing, {}) == ""


def test_who_knows_others_by_other_directories_is_not_believed() -> None:
    known = members({"n2": FAR})
    assert "data directory of this node" in known.judge("n3", Standing("dir3", 1, 1), {"n1": "mine?"})
    assert "data directory of n2" in known.judge("n3", Standing("dir3", 1, 1), {"n2": "its?"})
    assert known.judge("n3", Standing("dir3", 1, 1), {"n1": "dir1", "n2": "dir2", "n9": "?"}) == ""


def test_it_takes_part_once_all_have_noted_the_same() -> None:
    new = members()
    assert "has not met n2, n3" in new.trouble
    new.note("n2", Standing("dir2", 1, 1))
    everybody = {"n1": "dir1", "n2": "dir2", "n3": "dir3"}
    new.heard("n2", everybody, NEVER, 0)
    assert not new.wants_to_settle, "it has not met n3 itself"
    new.note("n3", Standing("dir3", 1, 1))
    new.heard("n3", {"n1": "dir1", "n3": "dir3"}, NEVER, 0)
    assert not new.wants_to_settle
    new.heard("n3", everybody, NEVER, 0)
    assert not new.wants_to_settle, "what n2 said before counts no more than what it did not say"
    new.heard("n2", everybody, NEVER, 0)
    assert new.wants_to_settle
    assert not new.takes_part
    new.settled = True
    assert new.has_tried_all
    new.is_open = True
    assert new.takes_part


def test_who_is_refused_by_one_that_it_knows_is_condemned() -> None:
    known = members({"n2": FAR}, settled=True)
    assert not known.refused("n2", "why", "another directory than n2 has")
    assert not known.refused("n3", "why", "not known")
    assert known.refused("n2", "why", "dir2")
    new = members()
    assert not new.refused("n2", "why", "dir2")
    assert new.trouble == "n2 refuses this node: why"
    new.note("n2", FAR)
    assert "n2 refuses" not in new.trouble


def test_how_far_others_are_only_grows() -> None:
    known = members({"n2": FAR})
    known.heard("n2", {}, Ballot(4, "n1"), 80)
    assert known.noted["n2"] == Standing("dir2", 3, 33, Ballot(5, "n1"), 80)
    known.heard("n2", {}, Ballot(6, "n1"), 10)
    assert known.noted["n2"] == Standing("dir2", 3, 33, Ballot(6, "n1"), 80)


def test_a_node_alone_takes_part_at_once() -> None:
    alone = Members("n1", ["n1"], "dir1", {}, settled=False, condemned="")
    assert alone.takes_part
    assert alone.trouble == ""


def test_records_are_as_they_were_after_a_restart(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", node_id="n1", nodes=VOTERS)
    records = PeerRecords(log)
    assert (records.starts, records.takes_part, records.refused, records.noted) == (0, False, "", {})
    assert records.count_start(77)
    records.note({"n2": FAR})
    records.note({"n2": FAR, "n3": Standing("dir3", 1, -7)})
    records.take_part()
    records.refuse("why")
    log.append([Promised(Ballot(2, "n3")), Stored(Run(1, Ballot(1, "n2"), [b"x", b"y"]), 0)])
    assert (log.durable_promised, log.last, log.promised) == (Ballot(2, "n3"), 2, NEVER)
    log.close()
    log = SqliteLog(tmp_path / "log.db", node_id="n1", nodes=VOTERS)
    again = PeerRecords(log)
    assert (again.starts, again.takes_part, again.refused, again.processes) == (1, True, "why", (77,))
    assert again.noted == {"n2": FAR, "n3": Standing("dir3", 1, -7)}
    assert log.durable_promised == Ballot(2, "n3")
    log.close()


def test_records_that_rotted_are_damage(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", node_id="n1", nodes=VOTERS)
    PeerRecords(log).note({"n2": FAR})
    for change in ("UPDATE peers SET directory = 'other'", "UPDATE starts SET takes_part = 1", "DELETE FROM starts"):
        log._connection.execute("BEGIN")
        log._connection.execute(change)
        with pytest.raises(DamagedError, match="does not match its checksum"):
            PeerRecords(log)
        log._connection.execute("ROLLBACK")
    log.close()


def test_however_directories_are_lost_before_all_have_met_those_that_take_part_fall_apart_into_sets() -> None:
    """The claim of the proof, on random meetings of directories of which some replace others."""
    for seed in range(300):
        rng = random.Random(seed)
        present = {name: _new(name, rng) for name in VOTERS}
        every = list(present.values())
        for _ in range(60):
            if rng.random() < 0.1:
                name = rng.choice(VOTERS)
                mine = [known for known in every if known.node == name]
                present[name] = rng.choice([_new(name, rng), *mine])
                if present[name] not in every:
                    every.append(present[name])
                continue
            one, two = (present[name] for name in rng.sample(VOTERS, 2))
            if not one.judge(two.node, _standing(two), two.known):
                one.note(two.node, _standing(two))
                one.heard(two.node, two.known, NEVER, 0)
                one.settled |= one.wants_to_settle
        for one in every:
            for two in every:
                if one.settled and two.settled and one is not two and not one.judge(two.node, _standing(two), {}):
                    assert one.known == two.known, seed


def _new(name: str, rng: random.Random) -> Members:
    return Members(name, VOTERS, f"{name}-{rng.getrandbits(40)}", {}, settled=False, condemned="")


def _standing(of: Members) -> Standing:
    return Standing(of.directory, 1, 1)
