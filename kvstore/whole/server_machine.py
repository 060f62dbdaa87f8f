"""A node's machine in the world of the whole program: its process, its disk, and what is about to happen to them."""

from __future__ import annotations

import random
from collections.abc import Callable

from kvstore.server.settings import Settings
from kvstore.whole.disk import DiskContent, SimulatedDisk
from kvstore.whole.disk_faults import DiskFault
from kvstore.whole.machine import VirtualMachine

ROOM = (0, 10_000, 30_000, 100_000)
"""In bytes: what a disk that is called full takes yet."""


class ServerMachine:
    """A node's machine, its disk, and what is about to happen to it."""

    def __init__(self, machine: VirtualMachine, disk: SimulatedDisk, settings: Settings) -> None:
        self.machine = machine
        self.disk = disk
        self.settings = settings
        self.leads = False
        self.slower = 0
        self.draining = False
        self.told_to_end_at = 0.0
        self.restart_at = 0
        self.gone = False
        """Whether it is never started again, since its log has rotted."""
        self.lacks_state = False
        """Whether its state was lost, and may not have come back from another node yet."""
        self.is_rotten = False
        """Whether bits of its log have changed by themselves."""
        self.when_rotting: Callable[[], bool] = lambda: False
        self.troubles: dict[int, DiskFault] = {}
        """What goes wrong with the disk now, by the action that began it."""
        self.kept_state: DiskContent = {}
        """A copy of its state.db that somebody has made."""
        self.failed_for = 0
        """For how many ms the process has gone on since a sync of its log failed."""
        self.room = random.Random()
        self.had_failure = False
        """The same, but for a lack of room, which ends no node."""
        self.had_trouble = False
        """Whether something went wrong with the disk since the process was started."""
        self.has_failed = False
        """Whether the disk has ever failed, so that what is on it may be anything."""
        self.takes_power: DiskFault | None = None
        """What goes wrong with the disk so that, once the process ends, the power is gone too."""

    @property
    def full(self) -> bool:
        return self.disk.free is not None

    @full.setter
    def full(self, value: bool) -> None:
        self.disk.free = self.room.choice(ROOM) if value else None

    @property
    def last(self) -> int:
        return 0

    def rot(self, slot: int) -> bool:
        """Let some bits of the log rot, anywhere in it, while no process runs; False if they cannot."""
        return self.when_rotting()

    def took(self) -> int:
        """How long the disk was busy since this was last asked."""
        return self.disk.take_spent() + self.slower * 1_000

    def end_power_fault(self) -> bool:
        """End the fault that takes the power; returns whether there is one."""
        ended, self.takes_power = self.takes_power, None
        if ended is None:
            return False
        self.disk.call_off(ended)
        self.troubles = {key: fault for key, fault in self.troubles.items() if fault is not ended}
        return True
