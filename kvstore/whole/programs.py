"""Programs that hold a ``RemoteStore``: what they are told is judged like what other clients are told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial

from consensus.simulation.linearizability import PENDING, Operation
from consensus.simulation.scenario import Scenario
from kvstore import clocks
from kvstore.addresses import Address
from kvstore.commands import Command, is_read_only
from kvstore.errors import UnavailableError, UnknownOutcomeError
from kvstore.handles.remote import RemoteStore
from kvstore.simulated.clients import fades
from kvstore.simulated.model import UNTOLD, seen
from kvstore.simulated.oracle import Oracle, Told
from kvstore.store import Reply
from kvstore.whole.blocking import BlockingThread, VirtualConnection
from kvstore.whole.lines import PORT
from kvstore.whole.machine import VirtualMachine
from kvstore.whole.world import WholeWorld


class VirtualStore(RemoteStore):
    """A store on the simulated cluster, which tells the oracle what may happen from now on and what will not."""

    def __init__(
        self,
        nodes: Sequence[Address],
        thread: BlockingThread,
        oracle: Oracle,
        rng: random.Random,
        patience: float,
    ) -> None:
        super().__init__(nodes, patience=patience, connection=partial(VirtualConnection, thread))
        self._oracle = oracle
        self._random = rng

    def _new_session(self) -> str:
        return f"client.{self._random.getrandbits(64):016x}"

    @property
    def last_request(self) -> tuple[str, int]:
        """The session and the sequence of the last write that was executed by itself."""
        return self._session, self._sequence

    def _run(self, commands: Sequence[Command], session: str, first: int, since: int) -> list[Reply]:
        for sequence in range(first, first + len(commands)):
            self._oracle.asked(session, sequence)
        try:
            return super()._run(commands, session, first, since)
        except UnavailableError:
            if len(commands) == 1:  # of several the first may have been executed
                self._oracle.refused(session, first)
            raise


def store_on(
    world: WholeWorld, thread: BlockingThread, oracle: Oracle, rng: random.Random, patience: float
) -> VirtualStore:
    """A store that knows the addresses of all nodes, in an order of its own."""
    nodes = rng.sample(world.names, len(world.names))
    return VirtualStore([(node, PORT) for node in nodes], thread, oracle, rng, patience)


def start_program(
    world: WholeWorld, machine: VirtualMachine, rng: random.Random, program: Callable[[BlockingThread], None]
) -> BlockingThread:
    """Start a process whose only thread runs this; it ends with the thread."""
    ended: list[asyncio.Future[int]] = []

    async def main(_: VirtualMachine) -> int:
        ended.append(asyncio.get_running_loop().create_future())
        thread.begin()
        return await ended[0]

    thread = BlockingThread(machine, rng, program, lambda: ended[0].set_result(0))
    world.threads.append(thread)
    machine.start(main)
    return thread


class StoreProgram:
    """Executes one command after the other, each once, and looks at what becomes of it."""

    def __init__(
        self,
        name: str,
        world: WholeWorld,
        oracle: Oracle,
        scenario: Scenario,
        draw: Callable[[random.Random], Command | None],
    ) -> None:
        self.name = name
        self.told: list[Told] = []
        self._world = world
        self._oracle = oracle
        self._random = scenario.random(f"program {name}")
        self._draw = draw
        self._pace = self._random.choice([0.005, 0.05, 0.2])
        self._patience = self._random.choice([0.5, 2.0, 5.0])
        self._count = 0
        self._is_done = False
        self._is_at_work = False

    def begin(self) -> None:
        machine = self._world.client_machine(self.name)
        start_program(self._world, machine, self._random, self._execute_all)

    def stop(self) -> None:
        self._is_done = True

    def unfinished(self) -> str:
        """Nothing new is asked for any more, and what it waits for, if anything, has an end of its own."""
        return f"{self.name} waits for its store" if self._is_at_work else ""

    def _execute_all(self, thread: BlockingThread) -> None:
        with store_on(self._world, thread, self._oracle, self._random, self._patience) as store:
            while not self._is_done and (command := self._draw(self._random)) is not None:
                self._is_at_work = True
                self._execute(store, command)
                self._is_at_work = False
                clocks.sleep(self._random.random() * 2 * self._pace)

    def _execute(self, store: VirtualStore, command: Command) -> None:
        self._count += 1
        called = self._oracle.called(self.name, self._count)
        try:
            reply = store.execute(command)
        except UnavailableError:
            self._world.count("store: unavailable")
            return
        except UnknownOutcomeError:
            self._world.count("store: nobody knows")
            if not fades(command):
                self._oracle.history.append(Operation(self.name, called, PENDING, command, None))
            return
        self._world.count("store: executed")
        request = (self.name, self._count) if is_read_only(command) else store.last_request
        told = Told(*request, command, reply.slot, 0, seen(reply.result))
        if told.result in UNTOLD:
            self._world.count("store: executed, and its result is not kept")
            if not fades(command):
                self._oracle.history.append(Operation(self.name, called, PENDING, command, None))
            return
        self.told.append(told)
        returned = self._oracle.returned(told)
        if not fades(command):
            operation = Operation(self.name, called, returned, command, (told.result,), told.slot)
            self._oracle.history.append(operation)
