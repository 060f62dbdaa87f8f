"""The world of one run: processes, their disks and clocks, the network, the clients, and what happens to them."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from consensus.invariants import InvariantViolation
from consensus.messages import Record
from consensus.replica import Replica, Role
from consensus.simulation.action import LEADER, Action
from consensus.simulation.clocks import Clocks
from consensus.simulation.disk import Disk
from consensus.simulation.leases import Leases
from consensus.simulation.network import Network, Weather
from consensus.simulation.safety import Safety
from consensus.simulation.scenario import Scenario
from consensus.simulation.service import Client, Damaged, Process, Service
from consensus.simulation.situations import Situations
from consensus.simulation.timeline import Timeline
from consensus.simulation.trace import Trace
from consensus.simulation.violation import Violation

PATIENCE = 15_000
"""In ms: so soon after the last fault every node must serve and all logs agree."""
CHECK_INTERVAL = 50
MAX_WAITING = 2_000
MAX_ON_THE_WAY = 20_000
MAX_SENT_PER_SECOND = 10_000
MAX_KEPT = 200
"""Bounds on what a node holds, what is under way at once, what a node sends, and how many applied slots it keeps in
memory beyond those it is to keep; above what the clients cause."""


class Host:
    """Where a node runs: its process while there is one, and what happens to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: Process | None = None
        self.incarnation = 0
        self.paused = False
        self.gone = False
        self.turn_planned = False
        self.effects_left = -1
        self.restart_at = 0
        self.sent = 0
        self.tick_missed = False
        self.looked_at_clock = False
        """Its process stood still between a look at its clock and what it does at that time."""
        self.backlog: list[Callable[[], None]] = []


class World:
    """Runs one scenario. Everything is drawn from its seed; a run can be repeated event by event."""

    def __init__(self, scenario: Scenario, trace: Trace | None = None) -> None:
        self.scenario = scenario
        self.names = scenario.names
        self.timeline = Timeline()
        self.dials = dials = scenario.dials()
        self._random = scenario.random("world")
        self.network = Network(scenario.random("network"), dials.delay, dials.loss, dials.repeat)
        bounds = dials.clock_bounds
        self.clocks = {name: Clocks(rate, bounds) for name, rate in zip(self.names, dials.rates, strict=True)}
        self.disks = {name: Disk(scenario.random(f"disk {name}"), dials.latency) for name in self.names}
        self.counts: Counter[str] = Counter()
        self.safety = Safety(self.names)
        self.situations = Situations(self.safety, self.counts)
        self.leases: Leases | None = None
        if dials.lease:
            self.leases = Leases(dials.lease, self.safety, self._local, self._replicas)
        self.trace = trace
        self.hosts = {name: Host(name) for name in self.names}
        self.service: Service
        self.doom = 0
        self._clients: dict[str, Client] = {}
        self._weather: dict[int, list[Weather]] = {}
        self._encoded: tuple[object, bytes] = (None, b"")
        self._on_the_way = 0
        self._acting = ""
        self._healed = False

    # -- a run --------------------------------------------------------------------------------------------------------

    def run(self, service: Service) -> None:
        """The whole run: faults, then peace, then judgement. Raises Violation."""
        try:
            self._run(service)
        except InvariantViolation as error:
            raise Violation("an invariant that the code itself checks", str(error), nodes=[self._acting]) from error
        except Violation:
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise Violation(
                "nothing fails in a way that nobody foresaw",
                f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})",
                nodes=[self._acting],
            ) from error

    def _run(self, service: Service) -> None:
        self.service = service
        self._clients = {client.name: client for client in service.clients}
        for name in self.names:
            self._start(name)
        for number, action in self.scenario.actions():
            self.timeline.at(action.at, self._begin, number, action)
            self.timeline.at(action.until, self._end, number, action)
        service.begin()
        for moment in range(CHECK_INTERVAL, self.scenario.time + 1, CHECK_INTERVAL):
            self.timeline.run(moment)
            self._check_bounds(moment)
        for what, times in self.network.exercised().items():
            self.counts[what] += times
        self._heal()
        self._settle()
        for _ in range(2):
            service.probe()
            self._settle()
        service.judge()

    def _heal(self) -> None:
        """From now on nothing goes wrong any more."""
        if self.trace is not None:
            self.trace.note(self.timeline.now, "", "the faults are over")
        self.network.clear()
        self._healed = True
        self.doom = 0
        for disk in self.disks.values():
            disk.slower, disk.full = 0, False
        for host in self.hosts.values():
            host.effects_left = -1
            if host.process is None:
                self._start(host.name)
            if host.paused:
                self._resume(host, host.incarnation)
        self.service.stop()

    def _settle(self) -> None:
        until = self.timeline.now + PATIENCE
        while self.unsettled():
            if self.timeline.now >= until:
                raise Violation(
                    f"liveness: {PATIENCE} ms after the last fault every node serves and all logs agree",
                    self.unsettled(),
                )
            self.timeline.run(self.timeline.now + CHECK_INTERVAL)

    def unsettled(self) -> str:
        """What is still missing, in words: clients without an answer, or nodes that do not agree."""
        waiting = self.service.unfinished()
        if waiting:
            return waiting
        replicas = list(self._replicas())
        for replica in replicas:
            unknown = [slot for slot in self.safety.chosen if not replica.is_chosen(slot)]
            if unknown:
                return f"{replica.node} does not know that slot {unknown[0]} is chosen"
        leaders = [replica.node for replica in replicas if replica.role is Role.LEADER]
        return "" if len(leaders) == 1 else f"{len(leaders)} nodes lead: {', '.join(leaders) or 'none'}"

    def _replicas(self) -> Iterator[Replica]:
        return (host.process.replica for host in self.hosts.values() if host.process is not None)

    def _local(self, name: str) -> int:
        return self.clocks[name].local(self.timeline.now)

    def _check_bounds(self, moment: int) -> None:
        """Nothing piles up for ever: messages on their way, requests in a node, what a node sends."""
        if self._on_the_way > MAX_ON_THE_WAY:
            raise Violation(f"at most {MAX_ON_THE_WAY} messages are on their way at once", str(self._on_the_way))
        for host in self.hosts.values():
            if host.process is not None:
                self._check_memory(host.name, host.process)
            if moment % 1_000 == 0:
                if host.sent > MAX_SENT_PER_SECOND:
                    raise Violation(
                        f"a node sends at most {MAX_SENT_PER_SECOND} messages a second", f"{host.name} sent {host.sent}"
                    )
                host.sent = 0

    def _check_memory(self, name: str, process: Process) -> None:
        if process.waiting > MAX_WAITING:
            raise Violation(f"a node holds at most {MAX_WAITING} requests", f"{name} holds {process.waiting}")
        replica = process.replica
        kept = min(replica.chosen_upto, replica.durable_upto) - replica.log_start + 1
        if kept > self.dials.keep_slots + MAX_KEPT:
            raise Violation(
                "slots that are applied and durable leave memory",
                f"{name} keeps {kept} of them, {self.dials.keep_slots} would do",
                nodes=[name],
            )

    # -- processes ----------------------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        host = self.hosts[name]
        if host.gone or host.process is not None:
            return
        host.incarnation += 1
        host.effects_left = -1
        host.turn_planned = False
        now, clocks = self.timeline.now, self.clocks[name]
        self._acting = name
        try:
            host.process = self.service.start(name, self.disks[name], clocks.local(now), clocks.wall(now))
        except Damaged:
            self._lose(host)
            return
        self.count("process: start")
        if self.trace is not None:
            self.trace.note(now, name, f"starts, incarnation {host.incarnation}")
        self.timeline.after(0, self._tick, host, host.incarnation)

    def crash(self, name: str, restart: int) -> None:
        """kill -9, now; it starts again at ``restart``."""
        host = self.hosts[name]
        if host.process is None:
            return
        self.count("process: crash")
        self.situations.leads_no_more(host.process.replica)
        kept, lost = self.disks[name].crash()
        for record in kept:
            self.safety.durable(name, record)
        if lost:
            self.count("disk: a write under way was kept in part" if kept else "disk: a write under way was lost")
        if self.trace is not None:
            self.trace.note(self.timeline.now, name, f"crashes, loses {lost} records under way")
        self._drop(host)
        self.timeline.at(restart, self._start, name)

    def _lose(self, host: Host) -> None:
        """Its disk is damaged: it stops for good, as it should."""
        self.count("disk: a rotten record stopped its node")
        if self.trace is not None:
            self.trace.note(self.timeline.now, host.name, "stops for good, its disk is damaged")
        host.gone = True
        self._drop(host)

    def _drop(self, host: Host) -> None:
        if host.process is not None:
            host.process.crash()
        host.process = None
        host.paused = False
        host.looked_at_clock = False
        host.backlog.clear()
        host.tick_missed = False
        host.incarnation += 1

    def crash_after(self, name: str, effects: int, restart: int) -> None:
        """Crash as soon as the node has carried out so many more effects: between two of one turn, as a rule."""
        self.hosts[name].effects_left = effects
        self.hosts[name].restart_at = restart

    def pause(self, name: str, until: int) -> None:
        """The process stands still; whatever comes for it waits."""
        host = self.hosts[name]
        if host.process is None or host.paused:
            return
        host.paused = True
        self.count("process: pause")
        if self.trace is not None:
            self.trace.note(self.timeline.now, name, "stands still")
        self.timeline.at(until, self._resume, host, host.incarnation)

    def _resume(self, host: Host, incarnation: int) -> None:
        if host.incarnation != incarnation or not host.paused:
            return
        host.paused = False
        host.looked_at_clock = True
        if self.trace is not None:
            self.trace.note(self.timeline.now, host.name, "goes on")
        if host.process is not None and not host.turn_planned:
            # It stood still right after it had looked at its clock: what follows happens at the old time.
            host.turn_planned = True
            # With leases some of what waits comes in before: no read of that may be served by that time.
            delay = self.dials.turn_delay if self.leases is None else 2
            self.timeline.after(delay, self._turn, host, host.incarnation)
        # What waits on different connections is read in any order, and perhaps not all before the next turn.
        backlog, host.backlog = host.backlog, []
        self._random.shuffle(backlog)
        for action in backlog:
            self.timeline.after(self._random.choice([0, 0, 2]), action)
        if host.tick_missed:
            host.tick_missed = False
            self.timeline.after(self.dials.tick, self._tick, host, host.incarnation)

    def _process(self, host: Host, incarnation: int, action: Callable[[Host, int], None]) -> Process | None:
        """The process for which something was planned, if it still runs; where it stands still, the action waits."""
        if host.incarnation != incarnation:
            return None
        if host.paused:
            host.backlog.append(lambda: action(host, incarnation))
            return None
        self._acting = host.name
        return host.process

    def _tick(self, host: Host, incarnation: int) -> None:
        if host.incarnation != incarnation or host.process is None:
            return
        if host.paused:
            host.tick_missed = True
            return
        self._acting = host.name
        self._let_time_pass(host, host.process)
        self._act(host, host.process)
        self.timeline.after(self.dials.tick, self._tick, host, incarnation)

    def _turn(self, host: Host, incarnation: int) -> None:
        process = self._process(host, incarnation, self._turn)
        if process is not None:
            if self.leases is not None and not host.looked_at_clock:
                self._let_time_pass(host, process)
            self._act(host, process)

    def _let_time_pass(self, host: Host, process: Process) -> None:
        now, clocks = self.timeline.now, self.clocks[host.name]
        process.tick(clocks.local(now), clocks.wall(now))

    def _plan_turn(self, host: Host, process: Process) -> None:
        """Input is about to come in: it is acted upon a little later, together with what else comes by then."""
        if not host.turn_planned:
            host.turn_planned = True
            if self.leases is None:  # else as a server does it: the clock is read once everything has come in
                self._let_time_pass(host, process)
            self.timeline.after(self.dials.turn_delay, self._turn, host, host.incarnation)

    def _act(self, host: Host, process: Process) -> None:
        """Carry out a turn, effect by effect; a crash may come between any two."""
        host.turn_planned = host.looked_at_clock = False
        try:
            turn = process.turn()
        except Damaged:
            self._lose(host)
            return
        for receiver, message in turn.messages:
            if not self._next_effect(host):
                return
            self._send(host, receiver, message)
        # Last, because that is worse: what was sent has left, what should have been written has not.
        if turn.records:
            if not self._next_effect(host):
                return
            took = self.disks[host.name].begin(turn.records)
            self.timeline.after(took, self._written, host, host.incarnation, turn.records)
        self.situations.turned(process.replica)
        if self.doom and host.effects_left < 0 and process.replica.role is not Role.FOLLOWER:
            host.effects_left = self._random.randint(1, self.doom)
            host.restart_at = self.timeline.now + self._random.randint(20, 400)

    def _next_effect(self, host: Host) -> bool:
        if host.effects_left == 0:
            self.count("crash: between two effects")
            self.crash(host.name, max(host.restart_at, self.timeline.now + 1))
            return False
        host.effects_left -= host.effects_left > 0
        return True

    # -- disks --------------------------------------------------------------------------------------------------------

    def _written(self, host: Host, incarnation: int, records: Sequence[Record]) -> None:
        """The write that the process began has ended, whether the process goes on or stands still."""
        if host.incarnation != incarnation:
            return
        disk = self.disks[host.name]
        if disk.full:
            disk.fail()
            self.count("disk: a write found no room")
            self._notify(host, incarnation, stored=False)
            return
        for record in disk.finish():
            self.safety.durable(host.name, record)
        if self.trace is not None:
            self.trace.wrote(self.timeline.now, host.name, records)
        self._notify(host, incarnation, stored=True)

    def _notify(self, host: Host, incarnation: int, stored: bool) -> None:
        """Tell the process how its write ended."""
        process = self._process(host, incarnation, lambda host, incarnation: self._notify(host, incarnation, stored))
        if process is not None:
            self._plan_turn(host, process)
            if stored:
                process.persisted()
            else:
                process.storage_failed()

    # -- messages -----------------------------------------------------------------------------------------------------

    def _send(self, host: Host, receiver: str, message: object) -> None:
        host.sent += 1
        payload = message
        if receiver in self.hosts:
            if message is not self._encoded[0]:
                # One look and one encoding for all receivers of a broadcast.
                self.safety.sent(host.name, host.incarnation, self.disks[host.name], message)
                if self.leases is not None:
                    self.leases.sent(host.name, message)
                if host.process is not None:
                    self.situations.sent(host.process.replica, message)
                self._encoded = (message, self.service.encode(message))
            payload = self._encoded[1]
        if self.trace is not None:
            self.trace.sent(self.timeline.now, host.name, receiver, message)
        self._carry(host.name, receiver, payload)

    def request(self, client: str, node: str, message: object) -> None:
        """A client sends something to a node."""
        if self.trace is not None:
            self.trace.sent(self.timeline.now, client, node, message)
        self._carry(client, node, message)

    def _carry(self, sender: str, receiver: str, payload: object) -> None:
        for arrival in self.network.arrivals(sender, receiver, self.timeline.now):
            self._on_the_way += 1
            self.timeline.at(arrival, self._arrive, sender, receiver, payload)

    def _arrive(self, sender: str, receiver: str, payload: object) -> None:
        self._on_the_way -= 1
        if self.network.is_cut(sender, receiver):
            return
        host = self.hosts.get(receiver)
        if host is None:
            self._clients[receiver].receive(sender, payload)
        elif host.process is not None:
            self._deliver(host, host.incarnation, sender, payload)

    def _deliver(self, host: Host, incarnation: int, sender: str, payload: object) -> None:
        def deliver(host: Host, incarnation: int) -> None:
            self._deliver(host, incarnation, sender, payload)

        process = self._process(host, incarnation, deliver)
        if process is None:
            return
        message = self.service.decode(payload) if isinstance(payload, bytes) else payload
        if self.trace is not None:
            self.trace.received(self.timeline.now, sender, host.name, message)
        self._plan_turn(host, process)
        if self.leases is not None:
            self.leases.received(host.name, message)
        self.situations.received(process.replica, message)
        process.receive(sender, message)

    # -- faults -------------------------------------------------------------------------------------------------------

    def _begin(self, number: int, action: Action) -> None:
        if self.trace is not None:
            self.trace.note(self.timeline.now, "", f"fault {number}: {action.title}")
        action.begin(self)

    def _end(self, number: int, action: Action) -> None:
        if self.trace is not None:
            self.trace.note(self.timeline.now, "", f"fault {number} is over")
        action.end(self)

    def resolve(self, name: str) -> str:
        """A node's name; in place of ``LEADER`` that of the node that leads, with the highest ballot, or else any."""
        if name != LEADER:
            return name
        leaders = [
            host.process.replica
            for host in self.hosts.values()
            if host.process is not None and host.process.replica.role is Role.LEADER
        ]
        return max(leaders, key=lambda replica: replica.ballot).node if leaders else self.names[-1]

    def hand_over(self, name: str) -> None:
        """Tell a node to let another lead, if it leads."""
        host = self.hosts[name]
        if host.process is not None and not host.paused:
            self._plan_turn(host, host.process)
            host.process.replica.hand_over()

    def bad_weather(self, action: Action, weather: Weather) -> None:
        if self._healed or self.timeline.now >= action.until:
            return
        self._weather.setdefault(id(action), []).append(weather)
        self.network.begin(weather)

    def good_weather(self, action: Action) -> None:
        for weather in self._weather.pop(id(action), ()):
            self.network.end(weather)

    def count(self, what: str) -> None:
        """Something worth exercising happened."""
        self.counts[what] += 1
