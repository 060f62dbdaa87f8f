"""The world of one run: processes with their disks and clocks, the network, clients, and what happens to them."""

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
from consensus.simulation.service import Damaged, Process, ServiceUnderTest, SimulatedClient
from consensus.simulation.situations import Situations
from consensus.simulation.timeline import Timeline
from consensus.simulation.trace import Trace
from consensus.simulation.violation import Violation

PATIENCE = 15_000
"""In ms: how soon after the last fault every node must serve, and all logs must agree."""
CHECK_INTERVAL = 50
MAX_WAITING = 2_000
MAX_ON_THE_WAY = 20_000
MAX_SENT_PER_SECOND = 10_000
MAX_KEPT = 200
"""Bounds on what a node holds, on messages under way at once, on what a node sends, and on applied slots in memory
beyond those that a node is told to keep. All of them lie above what the clients cause."""


class Machine:
    """What a node runs on: its process, while there is one, and what is about to happen to it."""

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
        """Its process has stood still right after it looked at its clock, and still acts by that time."""
        self.backlog: list[Callable[[], None]] = []


class World:
    """Runs one scenario. Everything is drawn from its seed, so that a run can be repeated event by event."""

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
        self.machines = {name: Machine(name) for name in self.names}
        self.service: ServiceUnderTest
        self.doom = 0
        self._clients: dict[str, SimulatedClient] = {}
        self._weather: dict[int, list[Weather]] = {}
        self._encoded: tuple[object, bytes] = (None, b"")
        self._on_the_way = 0
        self._acting = ""
        self._healed = False

    # -- a run --------------------------------------------------------------------------------------------------------

    def run(self, service: ServiceUnderTest) -> None:
        """Run it all: first with faults, then in peace, then judge. Raises Violation."""
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

    def _run(self, service: ServiceUnderTest) -> None:
        self.service = service
        self._clients = {client.name: client for client in service.clients}
        for name in self.names:
            self._start(name)
        for number, action in self.scenario.actions():
            self.timeline.at(action.at, self._begin, number, action)
            self.timeline.at(action.until, self._end, number, action)
        service.begin()
        for until in range(CHECK_INTERVAL, self.scenario.time + 1, CHECK_INTERVAL):
            self.timeline.run(until)
            self._check_bounds(until)
        for what, times in self.network.exercised().items():
            self.counts[what] += times
        self._heal()
        self._settle()
        for _ in range(2):
            service.probe()
            self._settle()
        service.judge()

    def _heal(self) -> None:
        """Undo all faults: from now on nothing goes wrong."""
        if self.trace is not None:
            self.trace.note(self.timeline.now, "", "the faults are over")
        self.network.clear()
        self._healed = True
        self.doom = 0
        for disk in self.disks.values():
            disk.slower, disk.full = 0, False
        for machine in self.machines.values():
            machine.effects_left = -1
            if machine.process is None:
                self._start(machine.name)
            if machine.paused:
                self._resume(machine, machine.incarnation)
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
        """What is still missing, in words, such as an answer to a client; empty if everything is as it should be."""
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
        return (machine.process.replica for machine in self.machines.values() if machine.process is not None)

    def _local(self, name: str) -> int:
        return self.clocks[name].local(self.timeline.now)

    def _check_bounds(self, now: int) -> None:
        """Check that nothing piles up: messages under way, requests in a node, slots in memory, what a node sends."""
        if self._on_the_way > MAX_ON_THE_WAY:
            raise Violation(f"at most {MAX_ON_THE_WAY} messages are on their way at once", str(self._on_the_way))
        for machine in self.machines.values():
            if machine.process is not None:
                self._check_memory(machine.name, machine.process)
            if now % 1_000 == 0:
                if machine.sent > MAX_SENT_PER_SECOND:
                    raise Violation(
                        f"a node sends at most {MAX_SENT_PER_SECOND} messages a second",
                        f"{machine.name} sent {machine.sent}",
                    )
                machine.sent = 0

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
        machine = self.machines[name]
        if machine.gone or machine.process is not None:
            return
        machine.incarnation += 1
        machine.effects_left = -1
        machine.turn_planned = False
        now, clocks = self.timeline.now, self.clocks[name]
        self._acting = name
        try:
            machine.process = self.service.start(name, self.disks[name], clocks.local(now), clocks.wall(now))
        except Damaged:
            self._lose(machine)
            return
        self.count("process: start")
        if self.trace is not None:
            self.trace.note(now, name, f"starts, incarnation {machine.incarnation}")
        self.timeline.after(0, self._tick, machine, machine.incarnation)

    def crash(self, name: str, restart: int) -> None:
        """Kill the process now, as by kill -9, and start it again at ``restart``."""
        machine = self.machines[name]
        if machine.process is None:
            return
        self.count("process: crash")
        self.situations.leads_no_more(machine.process.replica)
        kept, lost = self.disks[name].crash()
        for record in kept:
            self.safety.durable(name, record)
        if lost:
            self.count("disk: a write under way was kept in part" if kept else "disk: a write under way was lost")
        if self.trace is not None:
            self.trace.note(self.timeline.now, name, f"crashes, loses {lost} records under way")
        self._drop(machine)
        self.timeline.at(restart, self._start, name)

    def _lose(self, machine: Machine) -> None:
        """The disk is damaged, and the node stops for good, as it should."""
        self.count("disk: a rotten record stopped its node")
        if self.trace is not None:
            self.trace.note(self.timeline.now, machine.name, "stops for good, its disk is damaged")
        machine.gone = True
        self._drop(machine)

    def _drop(self, machine: Machine) -> None:
        if machine.process is not None:
            machine.process.crash()
        machine.process = None
        machine.paused = False
        machine.looked_at_clock = False
        machine.backlog.clear()
        machine.tick_missed = False
        machine.incarnation += 1

    def crash_after(self, name: str, effects: int, restart: int) -> None:
        """Crash the node once it has carried out this many more effects: as a rule between two of the same turn."""
        self.machines[name].effects_left = effects
        self.machines[name].restart_at = restart

    def pause(self, name: str, until: int) -> None:
        """Let the process stand still until then; whatever arrives for it waits."""
        machine = self.machines[name]
        if machine.process is None or machine.paused:
            return
        machine.paused = True
        self.count("process: pause")
        if self.trace is not None:
            self.trace.note(self.timeline.now, name, "stands still")
        self.timeline.at(until, self._resume, machine, machine.incarnation)

    def _resume(self, machine: Machine, incarnation: int) -> None:
        if machine.incarnation != incarnation or not machine.paused:
            return
        machine.paused = False
        machine.looked_at_clock = True
        if self.trace is not None:
            self.trace.note(self.timeline.now, machine.name, "goes on")
        if machine.process is not None and not machine.turn_planned:
            # It stood still right after it had looked at its clock, so it acts by the old time now.
            machine.turn_planned = True
            # With leases some of what waits comes in before: no read that does may be served by that time.
            delay = self.dials.turn_delay if self.leases is None else 2
            self.timeline.after(delay, self._turn, machine, machine.incarnation)
        # What waits on different connections is read in any order, and perhaps not all of it before the next turn.
        backlog, machine.backlog = machine.backlog, []
        self._random.shuffle(backlog)
        for action in backlog:
            self.timeline.after(self._random.choice([0, 0, 2]), action)
        if machine.tick_missed:
            machine.tick_missed = False
            self.timeline.after(self.dials.tick, self._tick, machine, machine.incarnation)

    def _process(self, machine: Machine, incarnation: int, action: Callable[[Machine, int], None]) -> Process | None:
        """The process for which the action was planned, if it still runs. If it stands still, the action waits."""
        if machine.incarnation != incarnation:
            return None
        if machine.paused:
            machine.backlog.append(lambda: action(machine, incarnation))
            return None
        self._acting = machine.name
        return machine.process

    def _tick(self, machine: Machine, incarnation: int) -> None:
        if machine.incarnation != incarnation or machine.process is None:
            return
        if machine.paused:
            machine.tick_missed = True
            return
        self._acting = machine.name
        self._let_time_pass(machine, machine.process)
        self._act(machine, machine.process)
        self.timeline.after(self.dials.tick, self._tick, machine, incarnation)

    def _turn(self, machine: Machine, incarnation: int) -> None:
        process = self._process(machine, incarnation, self._turn)
        if process is not None:
            if self.leases is not None and not machine.looked_at_clock:
                self._let_time_pass(machine, process)
            self._act(machine, process)

    def _let_time_pass(self, machine: Machine, process: Process) -> None:
        now, clocks = self.timeline.now, self.clocks[machine.name]
        process.tick(clocks.local(now), clocks.wall(now))

    def _plan_turn(self, machine: Machine, process: Process) -> None:
        """Input is about to come in: plan a turn for it a little later, and for whatever else has come by then."""
        if not machine.turn_planned:
            machine.turn_planned = True
            if self.leases is None:  # with leases the clock is read once everything has come in, as a server does it
                self._let_time_pass(machine, process)
            self.timeline.after(self.dials.turn_delay, self._turn, machine, machine.incarnation)

    def _act(self, machine: Machine, process: Process) -> None:
        """Carry out a turn, one effect after the other; a crash may come between any two."""
        machine.turn_planned = machine.looked_at_clock = False
        try:
            turn = process.turn()
        except Damaged:
            self._lose(machine)
            return
        for receiver, message in turn.messages:
            if not self._next_effect(machine):
                return
            self._send(machine, receiver, message)
        # Writing comes last, because that is worse in a crash: what was sent has left, and nothing has been written.
        if turn.records:
            if not self._next_effect(machine):
                return
            took = self.disks[machine.name].begin(turn.records)
            self.timeline.after(took, self._written, machine, machine.incarnation, turn.records)
        self.situations.turned(process.replica)
        if self.doom and machine.effects_left < 0 and process.replica.role is not Role.FOLLOWER:
            machine.effects_left = self._random.randint(1, self.doom)
            machine.restart_at = self.timeline.now + self._random.randint(20, 400)

    def _next_effect(self, machine: Machine) -> bool:
        if machine.effects_left == 0:
            self.count("crash: between two effects")
            self.crash(machine.name, max(machine.restart_at, self.timeline.now + 1))
            return False
        machine.effects_left -= machine.effects_left > 0
        return True

    # -- disks --------------------------------------------------------------------------------------------------------

    def _written(self, machine: Machine, incarnation: int, records: Sequence[Record]) -> None:
        """The write that the process began has ended, even if the process stands still."""
        if machine.incarnation != incarnation:
            return
        disk = self.disks[machine.name]
        if disk.full:
            disk.fail()
            self.count("disk: a write found no room")
            self._notify(machine, incarnation, stored=False)
            return
        for record in disk.finish():
            self.safety.durable(machine.name, record)
        if self.trace is not None:
            self.trace.wrote(self.timeline.now, machine.name, records)
        self._notify(machine, incarnation, stored=True)

    def _notify(self, machine: Machine, incarnation: int, stored: bool) -> None:
        """Tell the process how its write ended."""
        process = self._process(
            machine, incarnation, lambda machine, incarnation: self._notify(machine, incarnation, stored)
        )
        if process is not None:
            self._plan_turn(machine, process)
            if stored:
                process.persisted()
            else:
                process.storage_failed()

    # -- messages -----------------------------------------------------------------------------------------------------

    def _send(self, machine: Machine, receiver: str, message: object) -> None:
        machine.sent += 1
        payload = message
        if receiver in self.machines:
            if message is not self._encoded[0]:
                # A broadcast is checked and encoded once for all its receivers.
                self.safety.sent(machine.name, machine.incarnation, self.disks[machine.name], message)
                if self.leases is not None:
                    self.leases.sent(machine.name, message)
                if machine.process is not None:
                    self.situations.sent(machine.process.replica, message)
                self._encoded = (message, self.service.encode(message))
            payload = self._encoded[1]
        if self.trace is not None:
            self.trace.sent(self.timeline.now, machine.name, receiver, message)
        self._carry(machine.name, receiver, payload)

    @property
    def chosen_upto(self) -> int:
        return self.safety.chosen_upto

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
        machine = self.machines.get(receiver)
        if machine is None:
            self._clients[receiver].receive(sender, payload)
        elif machine.process is not None:
            self._deliver(machine, machine.incarnation, sender, payload)

    def _deliver(self, machine: Machine, incarnation: int, sender: str, payload: object) -> None:
        def deliver(machine: Machine, incarnation: int) -> None:
            self._deliver(machine, incarnation, sender, payload)

        process = self._process(machine, incarnation, deliver)
        if process is None:
            return
        message = self.service.decode(payload) if isinstance(payload, bytes) else payload
        if self.trace is not None:
            self.trace.received(self.timeline.now, sender, machine.name, message)
        self._plan_turn(machine, process)
        if self.leases is not None:
            self.leases.received(machine.name, message)
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
        """A node's name. ``LEADER`` is the leader with the highest ballot, or some node if there is none."""
        if name != LEADER:
            return name
        leaders = [
            machine.process.replica
            for machine in self.machines.values()
            if machine.process is not None and machine.process.replica.role is Role.LEADER
        ]
        return max(leaders, key=lambda replica: replica.ballot).node if leaders else self.names[-1]

    def hand_over(self, name: str) -> None:
        """Tell a node to let another one lead, if it leads."""
        machine = self.machines[name]
        if machine.process is not None and not machine.paused:
            self._plan_turn(machine, machine.process)
            if machine.process.replica.role is Role.LEADER:
                self.count("election: the leader hands over")
            machine.process.replica.hand_over()

    def reconfigure(self, voters: Sequence[str], first: str) -> None:
        """The leader proposes a configuration."""
        machine = self.machines[self.resolve(LEADER)]
        if machine.process is None or machine.paused or machine.process.replica.role is not Role.LEADER:
            return
        self._plan_turn(machine, machine.process)
        if machine.process.reconfigure(voters, first):
            self.count("configuration: proposed")

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
