"""What nodes may say to each other: every message that a process sends or receives is held against the protocol."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from consensus.ballot import NEVER, Ballot
from consensus.messages import (
    Accept,
    Accepted,
    Alive,
    Chosen,
    Heartbeat,
    Learn,
    PreVote,
    PreVoteReply,
    Promise,
    Reject,
)
from consensus.replica import Replica, Role
from kvstore.addresses import Address
from kvstore.limits import NODE_SESSIONS
from kvstore.node.peer_messages import Forward, LeftOut, PeerMessage
from kvstore.node.proposals import FORWARD_PATIENCE
from kvstore.server.host import Host
from kvstore.server.main import ClientListener
from kvstore.server.peers import Identity, OutboundConnection, PeerConnection, Peers, Receive, Resume
from kvstore.server.settings import TIMING
from kvstore.whole.link_rules import LinkRules, LinkWatch
from kvstore.whole.memory import MEMORY_RULE, wrong_in_hub, wrong_in_links, wrong_in_node
from kvstore.whole.sockets import Side
from kvstore.whole.world import WholeWorld

PATIENCE = TIMING.election[0]
SLACK = 50


class PromisedBallots:
    """The highest ballot that each node has spoken for, which outlasts its processes."""

    def __init__(self) -> None:
        self._highest: dict[str, Ballot] = {}

    def says(self, node: str, ballot: Ballot) -> str:
        """A node promises or accepts this ballot. Returns what is wrong, "" if nothing."""
        before = self._highest.get(node, NEVER)
        self._highest[node] = max(before, ballot)
        return f"{node} promises or accepts {ballot}, and promised {before} before" if ballot < before else ""

    def shows(self, node: str, promised: Ballot) -> str:
        """A node tells which ballot it has promised."""
        before = self._highest.get(node, NEVER)
        return f"{node} says that it promised {promised}, and promised {before} before" if promised < before else ""


class PeerRules:
    """Those of one process. ``fail`` is told the rule that is broken, and what was found.

    ``patience``: the shortest election time-out.

    Times are those of the replica's ticks, which all its decisions rest on.
    """

    def __init__(
        self,
        replica: Replica,
        promised: PromisedBallots,
        fail: Callable[[str, str], None],
        count: Callable[[str], None],
        patience: int = PATIENCE,
    ) -> None:
        self._replica = replica
        self._patience = patience
        self._promised = promised
        self._fail = fail
        self._count = count
        self._leader_heard: int | None = None
        self._asked: dict[str, deque[bool]] = {}
        """By candidate, whether a leader was heard lately when its pre-votes came that have no answer yet."""
        self._leads = NEVER
        self._heard: dict[str, int] = {}
        """As the leader under that ballot: when each other node has answered last."""
        self._takes_under = NEVER
        self._left_out = NEVER, 0
        """The leader that left out a Forward of this node, and when that was first heard."""
        self._begun: dict[str, bool] = {}
        """Whether the Forwards of a node may be taken; unknown if it is not here."""
        self._forwards: list[tuple[str, bool, bool]] = []
        """Those of this turn: the sender, whether it begins anew, and whether the requests were proposed."""

    # -- what it hears ------------------------------------------------------------------------------------------------

    def receives(self, sender: str, message: PeerMessage, act: Callable[[str, PeerMessage], None]) -> None:
        """Have the process act upon a message."""
        replica = self._replica
        if replica.role is not Role.FOLLOWER:
            self._leader_heard = None
        match message:
            case Heartbeat() | Accept() | Chosen():
                follows = message.ballot >= replica.promised
                act(sender, message)
                if follows:
                    self._leader_heard = replica.now
            case Alive() | Accepted():
                if message.ballot == replica.ballot:
                    self._heard[sender] = replica.now
                act(sender, message)
            case PreVote():
                heard = self._leader_heard
                is_led = heard is not None and replica.now - heard < self._patience
                self._asked.setdefault(sender, deque()).append(is_led)
                act(sender, message)
            case Forward():
                before, ballot = replica.urgent_upto, replica.ballot
                act(sender, message)
                self._forwarded(sender, message, ballot, replica.urgent_upto > before)
            case Learn():
                act(sender, message)
                self._learned(message)
            case LeftOut():
                act(sender, message)
                if message.ballot == replica.ballot and self._left_out[0] != message.ballot:
                    self._left_out = message.ballot, replica.now
            case _:
                act(sender, message)

    def _learned(self, learn: Learn) -> None:
        replica = self._replica
        for run in learn.runs:
            for held in replica.accepted(run.first, run.last):
                if held.ballot > replica.promised:
                    self._fail(
                        "what a node has learned it has promised",
                        f"{replica.node} holds slots {held.first}..{held.last} under {held.ballot}, and has promised"
                        f" {replica.promised}",
                    )

    def _forwarded(self, sender: str, forward: Forward, ballot: Ballot, taken: bool) -> None:
        if self._takes_under != ballot:
            self._begun = {}
            self._takes_under = ballot
        if forward.ballot != ballot:
            self._count("rules: a Forward of another ballot")
            if taken:
                self._fail(
                    "a leader takes what was handed on under its own ballot",
                    f"{self._replica.node} leads under {ballot}, and takes what {sender} sent under {forward.ballot}",
                )
        elif self._replica.role is Role.LEADER and forward.requests:
            self._forwards.append((sender, forward.anew, taken))

    # -- what it says -------------------------------------------------------------------------------------------------

    def sends(self, messages: Iterable[tuple[str, PeerMessage]]) -> None:
        """These leave at the end of a turn."""
        replica, node = self._replica, self._replica.node
        left_out: dict[str, int] = {}
        for receiver, message in messages:
            wrong = ""
            match message:
                case Promise(ballot=ballot):
                    wrong = self._promised.says(node, ballot)
                    if any(run.ballot > ballot for run in message.accepted):
                        wrong = f"{node} promises {ballot}, and has accepted something under a later ballot"
                case Accepted(ballot=ballot):
                    wrong = self._promised.says(node, ballot)
                case Reject(promised=promised):
                    wrong = self._promised.shows(node, promised)
                case PreVoteReply():
                    wrong = self._promised.shows(node, message.promised)
                    self._answers(receiver, message)
                case Heartbeat(ballot=ballot):
                    self._leads_on(ballot)
                case Learn():
                    self._teaches(receiver, message)
                case Forward():
                    self._hands_on(message)
                case LeftOut():
                    left_out[receiver] = left_out.get(receiver, 0) + 1
                case _:
                    pass
            if wrong:
                self._fail("a node goes back on no promise", wrong)
        self._judge_forwards(left_out)
        if replica.role is not Role.FOLLOWER:
            self._leader_heard = None

    def _answers(self, candidate: str, reply: PreVoteReply) -> None:
        asked = self._asked.get(candidate)
        if asked and asked.popleft():
            self._count("rules: a pre-vote comes while a leader is heard")
            if reply.granted:
                self._fail(
                    "a node that hears a leader helps nobody to depose it",
                    f"{self._replica.node} would promise {reply.ballot} to {candidate}",
                )

    def _leads_on(self, ballot: Ballot) -> None:
        replica = self._replica
        if ballot != self._leads:
            self._leads = ballot
            # Its election counts as an answer of all.
            self._heard = dict.fromkeys(replica.configuration.nodes, replica.now)
        self._heard[replica.node] = replica.now
        since = replica.now - replica.configuration.reached_by_quorum(self._heard)
        if since >= self._patience + SLACK:
            self._fail(
                "a leader that hears no quorum steps down",
                f"{replica.node} leads under {ballot}, and has heard no quorum for {since} ms",
            )

    def _teaches(self, receiver: str, learn: Learn) -> None:
        for run in learn.runs:
            unknown = next((slot for slot in range(run.first, run.last + 1) if not self._replica.is_chosen(slot)), 0)
            if unknown:
                self._fail(
                    "a node teaches what it knows as chosen",
                    f"{self._replica.node} teaches {receiver} slot {unknown}, which may not be chosen",
                )

    def _hands_on(self, forward: Forward) -> None:
        ballot, since = self._left_out
        if forward.anew:
            self._left_out = NEVER, 0
            own: dict[str, list[int]] = {}  # a node whose session was dropped begins another one
            for request in forward.requests:
                if request.session.startswith(NODE_SESSIONS):
                    own.setdefault(request.session, []).append(request.sequence)
            for sequences in own.values():
                if sequences != sorted(sequences):
                    self._fail(
                        "a node hands on its clients' requests in the order in which they came",
                        f"{self._replica.node} sends its requests {sequences} in one message",
                    )
        elif forward.ballot == ballot and self._replica.now > since + FORWARD_PATIENCE + 2 * SLACK:
            self._fail(
                "a node hands on again what a leader left out",
                f"{self._replica.node} was told at {since} that its requests are left out, and sends later ones"
                f" at {self._replica.now}",
            )

    def _judge_forwards(self, left_out: dict[str, int]) -> None:
        forwards, self._forwards = self._forwards, []
        for sender in dict.fromkeys(sender for sender, _, _ in forwards):
            own = [(anew, taken) for other, anew, taken in forwards if other == sender]
            if sum(not taken for _, taken in own) != left_out.get(sender, 0):
                self._begun.pop(sender, None)  # some took slots before those that were named
                continue
            for anew, taken in own:
                if not taken:
                    self._count("rules: a Forward is left out")
                elif not anew and self._begun.get(sender) is False:
                    self._fail(
                        "a leader takes no request before those that may be missing",
                        f"{self._replica.node} takes a Forward of {sender}, of which it left one out before",
                    )
                self._begun[sender] = taken and (anew or self._begun.get(sender, True))


class WatchedPeers(Peers):
    """Has all that a node hears and says looked at, and its connections with other nodes."""

    def __init__(
        self,
        world: WholeWorld,
        promised: PromisedBallots,
        links: LinkRules,
        identity: Identity,
        addresses: dict[str, Address],
        receive: Receive,
        resume: Resume,
    ) -> None:
        super().__init__(identity, addresses, receive, lambda peer: self._resumes(peer, resume))
        host = getattr(receive, "__self__", None)
        assert isinstance(host, Host)
        name = identity.node
        world.takes_part(name)
        self._world = world
        self._link_rules = links
        self._machine = world.servers[name].machine
        self._process = self._machine.incarnation
        self._watches: dict[PeerConnection, LinkWatch] = {}
        self._rules = PeerRules(
            host.node.replica,
            promised,
            lambda rule, found: world.fail(rule, found, name),
            world.count,
        )
        self.receive = lambda sender, message: self._receives(sender, message, receive)
        self._host = host
        world.checks += [self._look_at_links, self._look_at_memory]

    def send(self, messages: Iterable[tuple[str, PeerMessage]]) -> None:
        kept = list(messages)
        own = self._identity
        self._rules.sends(kept)
        for receiver, message in kept:
            self._link_rules.sends(own.node, own.incarnation, receiver, message)
        super().send(kept)
        for link in self._dialled.values():
            if link.gap:
                self._world.count("link: full")
            elif link.has_queue:
                self._world.count("link: values wait for it")

    def _resumes(self, peer: str, resume: Resume) -> None:
        self._link_rules.resumes(self._identity.node, self._identity.incarnation, peer)
        resume(peer)

    def _receives(self, sender: str, message: PeerMessage, receive: Receive) -> None:
        hello = self._accepted[sender].hello
        assert hello is not None
        self._link_rules.receives(sender, hello.incarnation, self._identity.node, message)
        self._rules.receives(sender, message, receive)

    def _look_at_memory(self) -> None:
        if self._machine.incarnation != self._process or not self._machine.is_up or self._is_closing():
            return
        clients = self._host._clients
        wrong = wrong_in_node(self._host.node) or wrong_in_links(self._dialled.values())
        if isinstance(clients, ClientListener):
            wrong = wrong or wrong_in_hub(clients._hub, is_idle=not self._host.node.has_pending)
            if clients._readers.holds:
                clients._readers.holds = 0
                self._world.count("client: nobody is read from in this turn any more")
        if wrong:
            self._world.fail(MEMORY_RULE, f"{self._identity.node}: {wrong}", self._identity.node)

    def _is_closing(self) -> bool:
        """Whether the process ends: what it still holds nobody counts any more."""
        return self._world.servers[self._identity.node].draining

    def _look_at_links(self) -> None:
        if self._machine.incarnation != self._process or not self._machine.is_up:
            return
        real, clocks = self._world.micro.now / 1_000, self._machine.clocks
        now = clocks.exact(real)
        is_excused = self._machine.is_paused or self._machine.has_late_timers
        watches: dict[PeerConnection, LinkWatch] = {}
        for side in self._machine.sides:
            if not isinstance(side, Side) or not side.is_open or not isinstance(side.protocol, PeerConnection):
                continue
            link = side.protocol
            watch = watches[link] = self._watches.get(link) or LinkWatch(link, side, now)
            if is_excused:
                watch.stands_still(now)
                continue
            rule, found = watch.look(now, isinstance(link, OutboundConnection) and link.has_queue)
            if rule:
                self._world.fail(rule, f"{self._identity.node}, {found}", self._identity.node)
        self._watches = watches
