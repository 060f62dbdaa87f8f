"""The world of one run of the whole program: machines, their disks and network, clients, and what happens to them."""

from __future__ import annotations

import logging
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from consensus.simulation.action import LEADER, Action
from consensus.simulation.clocks import Clocks
from consensus.simulation.network import Network, Weather
from consensus.simulation.scenario import Scenario
from consensus.simulation.timeline import Timeline, Ts
from consensus.simulation.trace import Trace
from consensus.simulation.violation import Violation
from kvstore import exit_status
from kvstore.errors import DataDirError, KvstoreError
from kvstore.server.frames import MAX_FRAME_BYTES, FrameReader, decode_message
from kvstore.server.long_turns import LongTurns
from kvstore.server.main import serve
from kvstore.server.settings import TIMING, Settings
from kvstore.simulated.requests import ClientRequest, SlotClaim
from kvstore.state.entries import UNREADABLE
from kvstore.whole.blocking import BlockingThread
from kvstore.whole.counted_work import FIRST_TURNS, MAX_CALLS, CountedWork
from kvstore.whole.disk import DiskContent, SimulatedDisk
from kvstore.whole.faults import FailingDisk, has_readers
from kvstore.whole.lines import PORT, Unanswered
from kvstore.whole.loop import VirtualLoop
from kvstore.whole.machine import VirtualMachine
from kvstore.whole.server_machine import ServerMachine
from kvstore.whole.sockets import USUAL_WINDOW, Side, VirtualNetwork
from kvstore.whole.threads import VirtualThread

PEER_PORT = 7401
PATIENCE = 20_000
"""In ms: how soon after the last fault every node must serve and every client have its answers."""
CHECK_INTERVAL = 50
RESTART = 300
"""In ms: how soon a node that could not start is started again."""
SOON = 20
"""The same for one whose power was gone for a moment."""
FAILED_MS = 3_000
"""How soon a node must end when a sync of its log has failed: its disk may stall for two seconds."""
SIGNALS = ((signal.SIGTERM,), (signal.SIGINT,), (signal.SIGTERM, signal.SIGINT))
"""What a process that is told to end gets, in turn."""
GRACE = 30_000
"""In ms: how long a node that was told to end may take."""


class PeerMessages:
    """Understands what nodes send each other, for the trace."""

    def __init__(self, servers: Mapping[str, ServerMachine], trace: Trace, schedule: Milliseconds) -> None:
        self._servers = servers
        self._trace = trace
        self._schedule = schedule
        self._readers: dict[Side, FrameReader] = {}

    def __call__(self, sender: Side, data: bytes) -> None:
        receiver = sender.other.machine.name
        if not data or sender.machine.name not in self._servers or receiver not in self._servers:
            return
        reader = self._readers.get(sender)
        if reader is None:
            reader = self._readers[sender] = FrameReader()
            reader.limit = MAX_FRAME_BYTES
        for body in reader.feed(data):
            try:
                message: object = decode_message(body)
            except UNREADABLE:
                message = "a greeting"
            self._trace.sent(self._schedule.now, sender.machine.name, receiver, message)


class Milliseconds:
    """A timeline in microseconds, for those who count in milliseconds."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    @property
    def now(self) -> int:
        return self._timeline.now // 1_000

    def at(self, when: int, action: Callable[[*Ts], None], *arguments: *Ts) -> None:
        self._timeline.at(when * 1_000, action, *arguments)

    def after(self, delay: int, action: Callable[[*Ts], None], *arguments: *Ts) -> None:
        self._timeline.after(delay * 1_000, action, *arguments)


class UncountedTurns(LongTurns):
    """Takes no notice: how long something keeps the real processor differs from run to run."""

    def took(self, what: str, nanoseconds: int, detail: str = "", processor: int = -1) -> None:
        pass


class WholeWorld:
    """Runs one scenario with the real program. Everything is drawn from its seed."""

    def __init__(self, scenario: Scenario, directory: Path, trace: Trace | None = None) -> None:
        self.scenario = scenario
        self.names = scenario.names
        self.directory = directory
        self.counts: Counter[str] = Counter()
        self.micro = Timeline()
        self.timeline = Milliseconds(self.micro)
        self.acting: VirtualMachine | None = None
        self.trace = trace
        self.dials = dials = scenario.dials()
        self.doom = 0
        self.healed_at = 0
        """When the faults were over; 0 until then."""
        self._random = scenario.random("world")
        self.links = Network(scenario.random("network"), dials.delay, dials.loss, 0.0)
        self.network = VirtualNetwork(scenario.random("sockets"), self.micro, self.links, self.counts)
        if scenario.random("firewalls").random() < 2:
            self.network.walled_port = PEER_PORT
        bounds = dials.clock_bounds
        self.clocks = {name: Clocks(rate, bounds) for name, rate in zip(self.names, dials.rates, strict=True)}
        self.pace = self._random.choice([(2, 50), (20, 200), (200, 1_000)])
        self.servers = {name: self._server(name, directory / name) for name in self.names}
        if trace is not None:
            self.network.listener = PeerMessages(self.servers, trace, self.timeline)
        self.failure: Violation | None = None
        self.checks: list[Callable[[], None]] = []
        """What must hold all the time: each is called every ``CHECK_INTERVAL``, and raises Violation."""
        self.chosen_upto = 0
        self.unanswered: list[Unanswered] = []
        self.drained: dict[tuple[str, int], float] = {}
        """The processes that ended because they were told to, and how many ms that took by their own clocks."""
        self.waits_for_disks = scenario.random("disk time").random() < 0.3
        """Whether a loop that writes a few records by itself stands still meanwhile."""
        self.work: CountedWork | None = None
        """What turns do, if that is counted."""
        self.state_waits = 0
        """In microseconds: how long a commit of a state waits for its turn at most, if others do not wait longer."""
        self.lines: dict[str, Callable[[str, ClientRequest | SlotClaim], None]] = {}
        self.threads: list[BlockingThread] = []
        """Programs of clients that block; they end with the world."""
        self._weather: dict[int, list[Weather]] = {}

    def _server(self, name: str, directory: Path) -> ServerMachine:
        directory.mkdir()
        machine = VirtualMachine(
            name, self.scenario.random(f"machine {name}"), self.micro, self.network, self.clocks[name], self, self.pace
        )
        timing = replace(TIMING, lease=self.dials.lease, drift=self.dials.drift)
        settings = Settings(
            node_id=name,
            data_dir=directory,
            client_listen=(name, PORT),
            peer_listen=(name, PEER_PORT),
            peers={node: (node, PEER_PORT) for node in self.names},
            request_timeout_ms=self._random.choice([500, 2_000, 5_000]),
            timing=timing,
        )
        server = ServerMachine(machine, SimulatedDisk(directory, self.scenario.random(f"disk {name}")), settings)
        server.room = self.scenario.random(f"room {name}")
        server.when_rotting = partial(self._rot, server)
        return server

    def client_machine(self, name: str) -> VirtualMachine:
        """A machine for a client, whose clocks are right; its program begins at once."""
        rng = self.scenario.random(f"machine {name}")
        return VirtualMachine(name, rng, self.micro, self.network, Clocks(1.0), self, self.pace)

    # -- clocks and logs ----------------------------------------------------------------------------------------------

    def local_us(self) -> int:
        return self.micro.now if self.acting is None else self.acting.microseconds()

    def wall(self) -> int:
        return self.timeline.now if self.acting is None else self.acting.wall()

    def take_turn(self, machine: VirtualMachine, turn: Callable[[], object]) -> None:
        """Have a turn of a machine's loop take place, and look at what it did if that is counted in this run."""
        loop, server = machine.loop, self.servers.get(machine.name)
        if self.work is None or loop is None or server is None:
            machine.act(turn)
        elif (calls := self.work.measure(partial(machine.act, turn))) > MAX_CALLS and loop.turns > FIRST_TURNS:
            self.fail("no turn does more than its share", f"{machine.name} made {calls:,} calls", machine.name)
        if server is not None and self.waits_for_disks:
            machine.spent += server.disk.take_spent()

    def logged(self, event: str, level: int, fields: Mapping[str, object]) -> None:
        """The acting process logs something."""
        machine = self.acting
        server = None if machine is None else self.servers.get(machine.name)
        if server is None:
            return
        if self.trace is not None:
            told = " ".join(f"{name}={value}" for name, value in fields.items())
            self.note(server.machine.name, f"logs {event} {told}")
        if event == "role":
            self.hear_role(server, leads=fields.get("role") == "leader")
        elif event in ("bug", "request_failed", "slot_failed"):
            self.fail("no node logs a bug", f"{server.machine.name}: {event}: {fields}", server.machine.name)
        elif event == "peer_rubbish":
            self.fail("nodes understand each other", f"{server.machine.name}: {fields}", server.machine.name)
        elif event == "state_rebuilt" and not server.has_failed:
            rule = "no process leaves a state that its log does not lead to, unless its disk fails"
            self.fail(rule, f"{server.machine.name}: {self._short(str(fields['reason']))}", server.machine.name)
        elif level >= logging.WARNING:
            self.count(f"log: {event}")

    def hear_role(self, server: ServerMachine, *, leads: bool) -> None:
        """A node is the leader now, or is not."""
        was, server.leads = server.leads, leads
        if leads and not was:
            self.count("leader: elected")
            if self.doom:
                self.crash_after(server.machine.name, self._random.randint(1, self.doom), self.timeline.now + 300)

    def takes_part(self, name: str) -> None:
        """A node has opened its stores, and is about to hear and to speak."""
        if not self.servers[name].disk.is_as_found("log.db-wal"):
            self.fail(
                "what a node found in its log is durable before it takes part",
                f"a power loss could change the WAL of {name}'s log as it found it",
                name,
            )

    def note(self, name: str, text: str) -> None:
        """Something for those who look at the trace."""
        if self.trace is not None:
            self.trace.note(self.timeline.now, name, self._short(text))

    def _short(self, text: str) -> str:
        """A text without the directory of this run, which no other has."""
        return text.replace(f"{self.directory}/", "")

    def fail(self, rule: str, found: str, *nodes: str) -> None:
        """A rule is broken; the first one ends the run."""
        if self.failure is None:
            self.failure = Violation(rule, found, nodes=list(nodes))

    # -- processes ----------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        server = self.servers[name]
        if server.machine.is_up or server.gone:
            return
        server.disk.start()
        server.leads = server.draining = False
        server.failed_for = 0
        server.had_trouble = bool(server.troubles)
        server.had_failure = any(fault.trouble != "short" for fault in server.troubles.values())
        self.count("process: start")
        self.note(name, f"starts, incarnation {server.machine.incarnation + 1}")

        async def program(machine: VirtualMachine) -> int:
            rng = self.scenario.random(f"threads {name} {machine.incarnation}")

            def new_threads(purpose: str, count: int) -> VirtualThread:
                waits = max(rng.choice([50, 1_000, 20_000]), self.state_waits if purpose == "state" else 0)
                return VirtualThread(machine, rng, waits, server.took)

            return await self.serve(server, new_threads)

        server.machine.start(program)

    async def serve(self, server: ServerMachine, new_threads: Callable[[str, int], VirtualThread]) -> int:
        """What a node's process does; returns its exit status."""
        return await serve(server.settings, new_threads, UncountedTurns())

    def ended(self, machine: VirtualMachine, status: int) -> None:
        server = self.servers.get(machine.name)
        if server is None:
            return
        self.count(f"process: ended with status {status}")
        self.note(machine.name, f"ends with status {status}")
        server.disk.kill()
        if status == 0 and server.draining:
            self.drained[machine.name, machine.incarnation] = self._own_time(server) - server.told_to_end_at
            self.micro.at(server.restart_at, self._start_again, machine.name)
            return
        if server.is_rotten and status == exit_status.UNAVAILABLE:
            self._refused(server)
            return
        if status == exit_status.UNAVAILABLE and server.had_failure:
            self.count("process: ended because of its disk")
            what_next = server.room.random()
            if server.end_power_fault():  # nothing excuses what is found at the next start
                self._lose_power(server, torn=True)
                self.timeline.after(SOON, self.start, machine.name)
                return
            if what_next < 0.4:
                self._start_without_room(server)
            elif what_next < 0.8:
                self._lose_power(server)  # with what no sync has followed
            self.timeline.after(RESTART, self.start, machine.name)
            return
        self.fail("a node ends only when it is told to", f"{machine.name} ended with status {status}", machine.name)

    def _start_without_room(self, server: ServerMachine) -> None:
        self.count("process: starts on a full disk")
        server.disk.free = 0
        self.timeline.after(RESTART + server.room.choice([100, 500]), self._make_room, server)

    def _make_room(self, server: ServerMachine) -> None:
        server.full = False

    def failed(self, machine: VirtualMachine, error: BaseException) -> None:
        server = self.servers.get(machine.name)
        if server is not None and server.is_rotten and isinstance(error, DataDirError):
            self._refused(server)
            return
        if server is not None and (server.full or server.had_trouble) and isinstance(error, KvstoreError):
            self.count("process: cannot start because of its disk")
            server.disk.kill()
            self.timeline.after(RESTART, self.start, machine.name)
            return
        trace = "".join(traceback.format_exception(error))
        self.fail("nothing fails in a way that nobody foresaw", f"{machine.name}: {trace}", machine.name)

    def _refused(self, server: ServerMachine) -> None:
        """A process has noticed that its log has rotted: nobody starts it again."""
        self.count("process: refuses a rotten log")
        server.disk.kill()
        server.gone = True

    def _start_again(self, name: str) -> None:
        if not self.servers[name].draining or self.servers[name].machine.is_up:
            return
        self.start(name)

    # -- what a fault may do ------------------------------------------------------------------------------------------

    @property
    def disks(self) -> Mapping[str, ServerMachine]:
        return self.servers

    def resolve(self, name: str) -> str:
        if name != LEADER:
            return name
        return next((name for name, server in self.servers.items() if server.leads), self.names[0])

    def crash(self, name: str, restart: int) -> None:
        """Kill the process, or the whole machine's power is gone."""
        server = self.servers[name]
        if not server.machine.is_up:
            return
        server.leads = False
        if self._random.random() < 0.5:
            self.kill(name, restart)
        else:
            self._lose_power(server)
            self.timeline.at(restart, self.start, name)

    def kill(self, name: str, restart: int) -> None:
        server = self.servers[name]
        if not server.machine.is_up:
            return
        self.count("process: killed")
        self.note(name, "is killed")
        server.leads = False
        server.machine.kill()
        server.disk.kill()
        self.timeline.at(restart, self.start, name)

    def _lose_power(self, server: ServerMachine, *, torn: bool = False) -> None:
        self.count("machine: lost its power")
        self.note(server.machine.name, "loses its power")
        server.leads = False
        server.machine.lose_power()
        server.disk.lose_power(torn=torn)

    def lose_power_again(self, name: str, gaps: Sequence[int], until: int) -> None:
        server = self.servers[name]
        if self.timeline.now >= until:
            return
        if server.machine.is_up:
            self.count("machine: loses its power soon after a start")
            self._lose_power(server)
            self.timeline.after(5, self.start, name)
        if gaps:
            self.timeline.after(gaps[0], self.lose_power_again, name, gaps[1:], until)

    def crash_after(self, name: str, effects: int, restart: int) -> None:
        machine = self.servers[name].machine
        machine.steps_left = max(effects, 1) * 4
        machine.on_last_step = lambda: self.crash(name, restart)

    def pause(self, name: str, until: int) -> None:
        machine = self.servers[name].machine
        if machine.is_up and not machine.is_paused:
            self.count("process: pause")
            self.note(name, f"stands still until {until}")
            machine.pause()
            self.timeline.at(until, machine.resume)

    def hand_over(self, name: str) -> None:
        """End the node as an operator does, and start it again."""
        server = self.servers[name]
        if server.machine.loop is not None and not server.draining:
            self.count("process: told to end")
            server.draining = True
            server.told_to_end_at = self._own_time(server)
            server.restart_at = self.micro.now + self._random.randint(1, 500) * 1_000
            self.tell_to_end(server.machine.loop, server)

    def tell_to_end(self, loop: VirtualLoop, server: ServerMachine) -> None:
        """Tell the process that runs now, as those do who run such nodes."""
        first, *again = SIGNALS[self.counts["process: told to end"] % len(SIGNALS)]
        loop.signal(first)
        for number in again:
            self.timeline.after(20, loop.signal, number)

    def _own_time(self, server: ServerMachine) -> float:
        return server.machine.clocks.exact(self.micro.now / 1_000)

    def break_connections(self, name: str, share: float) -> None:
        """Reset connections of a node's machine, each with this chance."""
        for side in list(self.servers[name].machine.sides):
            if self._random.random() < share:
                side.reset()

    def fail_disk(self, action: FailingDisk, name: str) -> None:
        server = self.servers[name]
        if action.loses_power and server.takes_power is not None:
            return
        times = None if action.lasts else 1
        fault = server.disk.fail(action.operation, action.trouble, after=action.after, times=times, name=action.file)
        server.troubles[id(action)] = fault
        server.had_trouble = True
        server.had_failure |= action.trouble != "short"
        server.has_failed |= action.trouble == "EIO"
        if action.loses_power:
            server.takes_power = fault

    def _rot(self, server: ServerMachine) -> bool:
        if server.gone or has_readers(self.scenario):  # who asks this node and no other would wait for ever
            return False
        if not server.machine.is_up:
            return False  # after a power loss nothing tells damage to the very last commit from a torn one
        name = server.machine.name
        self.kill(name, self.timeline.now + RESTART)
        server.disk.kill()
        server.is_rotten = bool(server.disk.flip_bits(server.room.choice([1, 4, 30]), "log.db")) or server.is_rotten
        self.note(name, "has a log in which bits have changed")
        return server.is_rotten

    def keep_state(self, name: str) -> None:
        server = self.servers[name]
        server.kept_state = server.disk.copy("state.db")

    def replace_state(self, name: str, other: str | None) -> None:
        server = self.servers[name]
        content: DiskContent = {}
        if other is not None:
            content = server.kept_state if other == name else self.servers[other].disk.copy("state.db")
        self.kill(name, self.timeline.now + RESTART)
        server.disk.kill()
        server.has_failed = True  # it may make its state anew, and has to if this is another node's
        server.disk.replace({file: data for file, data in content.items() if not file.endswith("-shm")}, "state.db")

    def forget_name(self, name: str) -> None:
        self.network.unknown[name] += 1

    def know_name(self, name: str) -> None:
        self.network.unknown[name] -= 1

    def leave_room(self, name: str, room: int | None) -> None:
        self.servers[name].disk.free = room

    def mend_disk(self, action: FailingDisk) -> None:
        for server in self.servers.values():
            if (fault := server.troubles.pop(id(action), None)) is not None:
                server.disk.call_off(fault)
                if fault is server.takes_power:
                    server.takes_power = None

    def bad_weather(self, action: Action, weather: Weather) -> None:
        self._weather.setdefault(id(action), []).append(weather)
        self.links.begin(weather)

    def good_weather(self, action: Action) -> None:
        for weather in self._weather.pop(id(action), []):
            self.links.end(weather)

    def count(self, what: str) -> None:
        self.counts[what] += 1

    # -- clients ------------------------------------------------------------------------------------------------------

    def request(self, client: str, node: str, request: ClientRequest | SlotClaim) -> None:
        if self.trace is not None:
            self.trace.sent(self.timeline.now, client, node, request)
        self.lines[client](node, request)

    # -- a run --------------------------------------------------------------------------------------------------------

    def run(self, until: int) -> None:
        """Let time pass until then, in ms. Raises Violation."""
        while self.timeline.now < until:
            self.micro.run(min(until, self.timeline.now + CHECK_INTERVAL) * 1_000)
            for check in self.checks:
                check()
            self._look_at_failed_logs()
            if self.failure is not None:
                raise self.failure

    def _look_at_failed_logs(self) -> None:
        for name, server in self.servers.items():
            if "log.db-wal" not in server.disk.failed_syncs or not server.machine.is_up or server.machine.is_paused:
                continue
            server.failed_for += CHECK_INTERVAL
            if server.failed_for > FAILED_MS:
                self.fail("a node whose log failed ends", f"{name} has gone on for {server.failed_for} ms", name)

    def heal(self) -> None:
        """Undo all faults."""
        self.note("", "the faults are over")
        self.links.clear()
        self.links.stragglers = 0.0  # on a connection all that comes later waits for one: nobody could ever lead
        # A promise tells of all that is open: what carries it too slowly elects nobody, see ``BYTES_PER_MS``.
        self.network.window = max(self.network.window, USUAL_WINDOW)
        self.doom = 0
        self.healed_at = self.timeline.now
        for name, server in self.servers.items():
            server.machine.steps_left = -1
            server.disk.call_off_all()
            server.full, server.slower = False, 0
            server.machine.resume()
            self.start(name)

    def end_nodes(self) -> None:
        """Tell all nodes to end, and wait until they have. Raises Violation."""
        while any(server.machine.is_up and server.disk.failed_syncs for server in self.servers.values()):
            self.run(self.timeline.now + CHECK_INTERVAL)
            if all(not server.failed_for for server in self.servers.values()):
                break
        for server in self.servers.values():
            if server.machine.loop is not None:
                server.draining = True
                server.restart_at = 1 << 62
                self.tell_to_end(server.machine.loop, server)
        until = self.timeline.now + GRACE
        while any(server.machine.is_up for server in self.servers.values()):
            if self.timeline.now >= until:
                names = [name for name, server in self.servers.items() if server.machine.is_up]
                raise Violation("a node that is told to end ends", f"{', '.join(names)} did not", nodes=names)
            self.run(self.timeline.now + CHECK_INTERVAL)

    def close(self) -> None:
        """Let go of the disks. What ended processes have left is dropped afterwards, and can do no harm."""
        for thread in self.threads:
            thread.kill()
        for server in self.servers.values():
            server.disk.kill()
            server.machine.close()
            server.disk.close()
