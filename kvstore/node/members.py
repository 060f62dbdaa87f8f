"""Which data directories are the nodes of this cluster: who may vote, and whom a node believes.

Consensus rests on what a node remembers. A node whose data directory was emptied, or put back from an older copy,
speaks under its old name and has forgotten what it promised and accepted. So every data directory has a random name of
its own, every node notes durably the first that it meets under each node's name, and believes no other.

*Another directory.* A node *takes part* (votes, promises, leads) once it has noted a directory for every voter, and
every voter has told it that it noted just the same, this node's directory among them. What is noted never changes.

Claim: the directories that take part fall into sets, one directory for each voter in each set, and nobody of one set
believes anybody of another. Let D take part, and let M be what it has noted, a directory for each voter. Each directory
of M told D, over a connection at whose beginning it named itself, that it has noted M too, and so it has, for good.
So whoever D believes has noted M, and whoever has noted M believes those of M only. If D' takes part too, with M', and
believes anybody of M, say E, then E has noted both M and M': they are the same. Hence in every set the usual proof of
Multi-Paxos holds, as if the other sets were other clusters. Now let a directory of M, whose nodes took part, be lost,
and let an empty one come in its place. It is in no set with any directory of M, so that it takes part at most if every
voter's directory was lost. As long as one is left, no two values can be chosen in one slot: the survivor does not
believe the new ones, and they do not take part without it.

*An older copy* has the right name, but less behind it. How often a directory was started, the ballot that it promised
and the end of its log only ever grow, and every node notes what it last heard of them: at the beginning of every
connection, and about once a second. A directory that shows less than was noted is an older copy. Started often enough
it would show more; but it says which processes were started on it, and lacks the one that was noted. Nobody who knows
better believes it, and it is told so: it notes that it must never vote again. At its start a node waits, for as long as
an election takes at most, until it has tried to reach all others, so that whoever knows better can say so first. No
rule can do more: where all that knew better are away, the others and the copy are in the very state in which they once
were.

A log of an earlier version of this program, which knew no names, has taken part already, and goes on doing so. Its
cluster is guarded once all of its nodes have met.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from consensus.ballot import Ballot
from kvstore.storage.peer_records import Standing

REMEDY = 'docs/operations.md, "A lost data directory", says what to do if it is lost'
SHOWN = 8
"""So many characters of a directory's name are enough for people."""


class Members:
    """What one node knows of the voters' data directories, and what follows from it.

    ``noted``: what is durably noted of the others. ``settled``: whether this directory may take part as far as others
    are concerned. ``condemned``: why it may not ever, "" if it may.
    """

    def __init__(
        self,
        node: str,
        voters: Iterable[str],
        directory: str,
        noted: Mapping[str, Standing],
        *,
        settled: bool,
        condemned: str,
    ) -> None:
        self.node = node
        self.directory = directory
        self.others = [name for name in voters if name != node]
        self.noted = dict(noted)
        self.settled = settled or not self.others
        self.condemned = condemned
        self.is_open = not self.others
        """Whether all others were tried, so that whoever knows better has said so."""
        self._confirmed: set[str] = set()
        self._tried: set[str] = set()
        self._refusals: dict[str, str] = {}

    @property
    def takes_part(self) -> bool:
        return self.settled and self.is_open and not self.condemned

    @property
    def known(self) -> dict[str, str]:
        """The names of all data directories that this node has noted, by node, with its own."""
        return {self.node: self.directory, **{name: known.directory for name, known in self.noted.items()}}

    @property
    def has_met_all(self) -> bool:
        """Whether it is known which directory every voter has."""
        return len(self.noted) == len(self.others)

    @property
    def all_agree(self) -> bool:
        """Whether every voter has said that it has noted the same as this node."""
        return self.has_met_all and len(self._confirmed) == len(self.others)

    @property
    def wants_to_settle(self) -> bool:
        """Whether this node may take part once that is noted."""
        return not self.settled and self.all_agree

    @property
    def trouble(self) -> str:
        """Why this node does not take part, "" if it does or is about to."""
        if self.condemned:
            return self.condemned
        if self.settled:
            return ""
        if self._refusals:
            name, reason = next(iter(self._refusals.items()))
            return f"{name} refuses this node: {reason}"
        missing = [name for name in self.others if name not in self.noted]
        if missing:
            who = f"this node has not met {', '.join(missing)}"
        else:
            who = f"{', '.join(name for name in self.others if name not in self._confirmed)} has not met all others"
        return f"{who} yet: a new cluster begins once all of its nodes have met"

    # -- others come ---------------------------------------------------------------------------------------------------

    def judge(self, name: str, standing: Standing, members: Mapping[str, str]) -> str:
        """Why another node is not believed, which says this of itself and of all; "" if it is."""
        if not standing.directory:
            return f"{name} has not told which data directory it has"
        for other, directory in {**members, name: standing.directory}.items():
            known = self.directory if other == self.node else self._directory_of(other)
            if known and known != directory:
                return self._another(name, other, known, directory)
        known_of = self.noted.get(name)
        if known_of is None or (standing.starts, standing.process) == (known_of.starts, known_of.process):
            return ""  # what a process says of itself may overtake what it said before
        came = ""
        if standing.starts < known_of.starts:
            came = f"was started {standing.starts} times, and {known_of.starts} times before"
        elif known_of.process > 0 and not _remembers(standing, known_of):
            came = f"does not know of a start that was counted as its {known_of.starts}."
        elif standing.promised < known_of.promised:
            came = f"has promised {standing.promised}, and {known_of.promised} before"
        elif standing.end < known_of.end:
            came = f"ends at slot {standing.end}, and ended at slot {known_of.end} before"
        if not came:
            return ""
        return (
            f"the data directory of {name} is an older copy (it {came}), which has forgotten what it promised:"
            f" put the newest one back ({REMEDY})"
        )

    def _directory_of(self, name: str) -> str:
        return self.noted[name].directory if name in self.noted else ""

    def _another(self, name: str, other: str, known: str, directory: str) -> str:
        if other == name:
            return (
                f"{name} comes with another data directory ({directory[:SHOWN]}, not {known[:SHOWN]}): the old one was"
                f" lost, emptied or not mounted. Put it back ({REMEDY})"
            )
        whose = "this node" if other == self.node else other
        return (
            f"{name} knows another data directory of {whose} ({directory[:SHOWN]}, not {known[:SHOWN]}):"
            f" {other} or {name} has lost its own: put that back ({REMEDY})"
        )

    def note(self, name: str, standing: Standing) -> None:
        """A node that is believed has come, and that is durably noted if its directory is a new one."""
        self.noted[name] = replace(standing, processes=())
        self._refusals.pop(name, None)
        self._tried.add(name)

    def heard(self, name: str, members: Mapping[str, str], promised: Ballot, end: int) -> None:
        """A node that is believed has said what it has noted, and how far it has come."""
        known = self.noted.get(name)
        if known is None:
            return
        if promised > known.promised or end > known.end:
            self.noted[name] = replace(known, promised=max(promised, known.promised), end=max(end, known.end))
        if self.has_met_all and members == self.known:
            self._confirmed.add(name)

    # -- this node comes to others -------------------------------------------------------------------------------------

    def refused(self, name: str, reason: str, directory: str) -> bool:
        """Another node, with this data directory, does not believe this one. Returns whether it has to be condemned.

        Who has not the directory that was noted for its name is no judge of this node.
        """
        self._tried.add(name)
        known = self.noted.get(name)
        if known is not None and known.directory != directory:
            return False
        self._refusals[name] = reason
        return self.settled and known is not None and not self.condemned

    def tried(self, name: str) -> None:
        """Another node was called, and either answered or is not there."""
        self._tried.add(name)

    @property
    def has_tried_all(self) -> bool:
        return len(self._tried) == len(self.others)


def _remembers(standing: Standing, noted: Standing) -> bool:
    """Whether the process that was noted is one of those that a directory knows to have been started on it."""
    forgotten = standing.starts - len(standing.processes)
    return noted.process in standing.processes or noted.starts <= forgotten
