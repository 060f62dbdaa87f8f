'''Multi-Paxos as a deterministic state machine: one log of values that all nodes of a cluster agree upon.

A :class:`Replica` is one node's part in it. It does no I/O and knows no clock, no thread and no randomness of its own:
the program around it, the *host*, tells it what has happened, and once a turn takes :class:`Effects`, which say what is
to be done. The same inputs give the same effects. A replica is not safe for use by several threads at once.

**Inputs.** ``receive`` a message from another node (late, repeated and reordered ones do no harm, and a lost one is
repeated where that matters); ``tick`` with the time in ms; ``propose`` values or ``propose_at`` a slot by name, both on
the leader only; ``read`` for a linearizable read that takes no slot; ``persisted`` when records are durable; ``supply``
for what another node fetches; ``forget`` for what memory need no longer hold; ``campaign`` when requests wait and no
leader is known; ``hand_over`` before a planned end.

**Duties of the host**, each turn:

1. Call ``tick`` first, and at least every 10 ms or so in a cluster. Its time may have any origin and must never run
   backwards. With read leases (``Timing.lease``) it must be read from the clock after everything handed over so far
   has arrived, and from a clock that goes on while the machine sleeps.
2. Hand over what has arrived, propose, ask for reads; then call ``effects`` and carry all of it out.
3. Make ``records`` durable in order, none without those before it, and then call ``persisted(upto)``. Writing may take
   several turns. A message that speaks for a record does not appear in ``messages`` before the record is reported
   durable, so ``messages`` may always be sent at once.
4. Apply ``chosen``: values in slot order, each slot once. A value of ``NO_OP`` fills a gap and changes nothing. If what
   they were applied to is itself made durable, then never beyond ``durable_upto``.
5. Serve all reads up to the number in ``reads`` (0: none new) once the ``chosen`` of the same effects is applied.
6. Answer ``fetches`` by ``supply`` with values from the log store.
7. Now and then ``forget`` slots that are applied: until then they stay in memory, and a follower that has more than
   ``MAX_HELD_BYTES`` there accepts nothing new.

A value that was proposed need not be chosen: its leader may be deposed before. So propose it again until it appears
among the chosen values, and recognize a value that appears twice, since the first attempt may have succeeded too.

After a restart make a new Replica from what is durable: the highest ballot of any record (``promised``), a slot up to
which all is chosen and applied (``chosen_upto``), and the accepted runs beyond it. ``rng`` must not repeat what it gave
before: the number that tells this process from the one before is drawn from it. An :class:`InvariantViolation` means
that a rule of the proof is broken, by a bug or a damaged disk: the node must stop and not vote again.

A whole cluster, without failures; the test suite runs this::

    import random

    from consensus import NEVER, NO_END, Log, Replica, Role, Stored, one_message


    class Host:
        """One node. ``promised`` and ``log`` stand for its disk, ``state`` for what the values are applied to."""

        def __init__(self, name, network):
            self.name, self.network = name, network
            self.promised, self.log = NEVER, Log()
            self.inbox, self.requests, self.reads, self.state = [], [], [], []
            self.start(now=0)

        def start(self, now):
            """Begin, or begin again after a crash."""
            applied = len(self.state)
            self.replica = Replica(
                self.name,
                self.network,
                rng=random.Random(f"{self.name} {now}"),  # never the same again: simply Random() in earnest
                now=now,
                promised=self.promised,
                chosen_upto=applied,
                accepted=self.log.runs(applied + 1, NO_END),
            )

        def turn(self, now):
            replica = self.replica
            replica.tick(now)
            inbox, self.inbox = self.inbox, []
            for sender, message in inbox:
                replica.receive(sender, message)
            if replica.role is Role.LEADER and self.requests:
                replica.propose(self.requests)
                self.requests = []
            effects = replica.effects()
            for receiver, message in effects.messages:
                self.network[receiver].inbox.append((self.name, message))
            for record in effects.records:  # a real host appends them to a file, and calls fsync
                ballot = record.run.ballot if isinstance(record, Stored) else record.ballot
                self.promised = max(self.promised, ballot)
                if isinstance(record, Stored):
                    self.log.put(record.run)
            replica.persisted(effects.upto)
            for run in effects.chosen:
                self.state += run.values
            for number, reply in self.reads:
                if number <= effects.reads:
                    reply(self.state)
            self.reads = [read for read in self.reads if read[0] > effects.reads]
            for receiver, first, last in effects.fetches:
                replica.supply(receiver, one_message(self.log.runs(first, last)))
            replica.forget(len(self.state) - 1_000)

        def read(self, reply):
            """Call ``reply`` with a state that holds all that was acknowledged before now."""
            self.reads.append((self.replica.read(), reply))


    network = dict.fromkeys(["n1", "n2", "n3"])
    for name in network:
        network[name] = Host(name, network)
    seen = []
    for now in range(2_000):
        if now == 1_000:
            leader = network[network["n2"].replica.leader]
            leader.requests += [b"a", b"b"]
        if now == 1_500:
            network["n3"].read(seen.extend)
        for host in network.values():
            host.turn(now)
    assert seen == [b"a", b"b"]
    assert all(host.state == [b"a", b"b"] for host in network.values())

The names below are the public face. Where to read on: ``replica`` is the door to the parts, one file each;
``tests/consensus/scenarios`` shows, line by line, what replicas say to each other.
'''

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; importing typing for it would take longer than all the rest
if TYPE_CHECKING:
    from consensus.ballot import NEVER, Ballot, Number
    from consensus.catchup import one_message
    from consensus.election import Timing
    from consensus.invariants import InvariantViolation
    from consensus.log import NO_END, Log
    from consensus.membership import MAX_NODES, Configuration
    from consensus.messages import NO_OP, Message, Promised, Record, Run, Stored
    from consensus.replica import MAX_HELD_BYTES, SLOT_WINDOW, Effects, Replica, Role

__all__ = [
    "MAX_HELD_BYTES",
    "MAX_NODES",
    "NEVER",
    "NO_END",
    "NO_OP",
    "SLOT_WINDOW",
    "Ballot",
    "Configuration",
    "Effects",
    "InvariantViolation",
    "Log",
    "Message",
    "Number",
    "Promised",
    "Record",
    "Replica",
    "Role",
    "Run",
    "Stored",
    "Timing",
    "one_message",
]

_MODULES = {
    "ballot": ("NEVER", "Ballot", "Number"),
    "catchup": ("one_message",),
    "election": ("Timing",),
    "invariants": ("InvariantViolation",),
    "log": ("NO_END", "Log"),
    "membership": ("MAX_NODES", "Configuration"),
    "messages": ("NO_OP", "Message", "Promised", "Record", "Run", "Stored"),
    "replica": ("MAX_HELD_BYTES", "SLOT_WINDOW", "Effects", "Replica", "Role"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: whoever needs one module need not wait for all of them."""
    from importlib import import_module

    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
