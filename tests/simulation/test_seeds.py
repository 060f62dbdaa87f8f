"""Many runs of the command: every rule holds, and every situation that matters is reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys

ENOUGH = 200
"""So many seeds reach every situation. CI runs them; by default there are fewer, which only have to keep the rules."""
SEEDS = int(os.environ.get("KVSTORE_SIMULATED_SEEDS", "60"))

SITUATIONS = """\
catch-up: values fetched
catch-up: values taught from disk
catch-up: values taught from memory
clock: drift
clock: jump
cost: refused before it was proposed
cost: too much for its slot
crash: all at once
crash: all but the leader, which is cut off
crash: between two effects
crash: one leader after the other
disk: a record rotted
disk: a rotten record stopped its node
disk: a write found no room
disk: a write under way was kept in part
disk: a write under way was lost
disk: full
disk: slow
election: Prepare sent again
election: a candidate asks for slots that have left memory
election: a candidate is refused before it uses a ballot
election: a stale ballot is rejected
election: leader lost
election: leader lost with accepted, unchosen slots
election: the leader hands over
election: two believe that they lead
election: won
expiry: a read shows a key that will expire
expiry: the leader moved the clock on
lease: held at the end of a turn
lease: released to the next leader
log: Accept sent again
log: proposals pipelined
log: slots chosen out of order
network: bursts
network: lossy links
network: messages lost
network: messages out of order
network: messages repeated
network: slow links
partition: alone
partition: an exiled leader
partition: deaf
partition: halves
partition: mute
partition: pair
process: crash
process: pause
process: start
read: a follower asks for a read index
read: waited through a leader change
recovery: a chosen value proposed again
recovery: a gap filled by a no-op
recovery: a promise reports accepted values
recovery: a value adopted from a minority
request: answered that it may have happened
request: answered to an earlier attempt
request: executed under a node's own session
request: forwarded to the leader
request: refused
request: refused behind a refused one
request: tried again
request: waited through a leader change
session: a duplicate chosen in a second slot
session: a duplicate executed: its result is no longer kept
session: a duplicate executed: its result was too large to be kept
session: a duplicate executed: the result is recalled
session: a request before its turn
session: forgotten, and its request not executed
slot by name: another value was chosen
slot by name: chosen
state: a commit found no room
state: a crash met a commit under way
state: a crash met a commit untold
state: slots applied while a commit is under way
state: something waited for a commit""".splitlines()


def test_every_rule_holds_and_with_enough_seeds_every_situation_is_reached() -> None:
    command = [sys.executable, "-m", "kvstore", "simulate", "--seeds", f"0..{SEEDS - 1}", "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SEEDS * 5)
    report = json.loads(done.stdout)
    assert report["failures"] == []
    assert (done.returncode, report["seeds"]) == (0, SEEDS)
    missing = [situation for situation in SITUATIONS if situation not in report["exercised"]]
    if SEEDS >= ENOUGH:
        assert not missing, "the seeds no longer reach these situations: make them more likely, or the runs prove less"
    unlisted = [situation for situation in report["exercised"] if situation not in SITUATIONS]
    assert not unlisted, "add what is new to SITUATIONS"
