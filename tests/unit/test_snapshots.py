"""Copies of the state: made beside writes, handed on in parts, and put in the place of another state."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from kvstore.commands import Set, Value
from kvstore.errors import StorageFullError
from kvstore.state import entries, snapshots
from kvstore.state.entries import Entry
from kvstore.state.identity import Owner
from kvstore.state.machine import StateMachine
from kvstore.state.snapshots import Snapshot, SnapshotFile
from kvstore.storage.data_dir import DataDir

OWN, OTHER = Owner("a" * 32, "n1"), Owner("b" * 32, "n2")


def entry(number: int, keys: int = 100) -> bytes:
    return entries.encode(Entry("", 0, 0, 1, Set(b"k%d" % (number % keys), Value(b"%d" % number * 50))))


def state(path: Path, slots: int, owner: Owner = OWN) -> StateMachine:
    path.parent.mkdir(exist_ok=True)
    machine = StateMachine(path, owner=owner)
    first = machine.applied_upto + 1
    machine.apply(first, [entry(slot) for slot in range(first, slots + 1)])
    machine.commit()
    return machine


def moved(source: SnapshotFile, snapshot: Snapshot, target: SnapshotFile) -> None:
    at = target.begin(snapshot)
    while part := source.read(at):
        at = target.add(at, part)


def test_a_copy_becomes_the_state_of_another_node(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "n1" / "state.db", tmp_path / "n2" / "state.db"
    outgoing, incoming = SnapshotFile(ours, "outgoing"), SnapshotFile(theirs, "incoming")
    with closing(state(ours, 500)) as machine:
        snapshot = outgoing.make(0)
        assert snapshot.slot == 500 and outgoing.known() == snapshot
        digest = machine.digest()
    state(theirs, 20, OTHER).close()
    moved(outgoing, snapshot, incoming)
    assert incoming.adopt(snapshot, OTHER)
    DataDir(theirs.parent, None).install_snapshot()
    with closing(StateMachine(theirs, owner=OTHER)) as machine:
        assert machine.applied_upto == 500
        assert machine.digest() == digest
        machine.apply(501, [entry(501)])
        machine.commit()
    DataDir(theirs.parent, None).install_snapshot()  # a second time after a crash: nothing is left to be done
    with closing(StateMachine(theirs, owner=OTHER)) as machine:
        assert machine.applied_upto == 501


def test_a_copy_made_beside_writes_is_the_state_after_one_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PAGES_AT_ONCE", 1)
    path = tmp_path / "n1" / "state.db"
    outgoing, over = SnapshotFile(path, "outgoing"), threading.Event()
    with closing(state(path, 2_000)) as machine:

        def write() -> None:
            while not over.is_set():
                first = machine.applied_upto + 1
                machine.apply(first, [entry(slot) for slot in range(first, first + 50)])
                machine.commit()

        thread = threading.Thread(target=write)
        thread.start()
        try:
            made = [outgoing.make(0) for _ in range(5)]
        finally:
            over.set()
            thread.join()
    assert 2_000 <= made[0].slot <= made[-1].slot
    with closing(state(tmp_path / "again" / "state.db", made[-1].slot)) as expected:
        copied = SnapshotFile(tmp_path / "n2" / "state.db", "incoming")
        copied.path.parent.mkdir()
        moved(outgoing, made[-1], copied)
        assert copied.adopt(made[-1], OTHER)
        with closing(StateMachine(copied.path, owner=OTHER)) as machine:
            assert machine.digest() == expected.digest()


def test_a_copy_is_gone_on_with_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PART_BYTES", 1_000)
    ours, theirs = tmp_path / "n1" / "state.db", tmp_path / "n2" / "state.db"
    theirs.parent.mkdir()
    state(ours, 500).close()
    snapshot = SnapshotFile(ours, "outgoing").make(0)
    at = 0
    while at < snapshot.size:
        outgoing, incoming = SnapshotFile(ours, "outgoing"), SnapshotFile(theirs, "incoming")
        assert outgoing.known() == snapshot
        assert incoming.begin(snapshot) == at
        part = outgoing.read(at)
        at = incoming.add(at, part)
        assert incoming.add(at - len(part), part) == at, "a part that comes twice is taken once"
        assert incoming.add(at + 1, b"x") == at, "a part that is not the next is left out"
    assert incoming.adopt(snapshot, OTHER)


def test_what_is_here_of_another_copy_goes(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "n1" / "state.db", tmp_path / "n2" / "state.db"
    theirs.parent.mkdir()
    outgoing, incoming = SnapshotFile(ours, "outgoing"), SnapshotFile(theirs, "incoming")
    state(ours, 500).close()
    incoming.add(incoming.begin(outgoing.make(0)), outgoing.read(0))
    later = outgoing.make(0)
    assert incoming.begin(later) == 0
    moved(outgoing, later, incoming)
    assert incoming.adopt(later, OTHER)


def test_a_copy_with_a_wrong_byte_is_not_adopted(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "n1" / "state.db", tmp_path / "n2" / "state.db"
    theirs.parent.mkdir()
    outgoing, incoming = SnapshotFile(ours, "outgoing"), SnapshotFile(theirs, "incoming")
    state(ours, 500).close()
    snapshot = outgoing.make(0)
    moved(outgoing, snapshot, incoming)
    with incoming.path.open("r+b") as file:
        file.seek(snapshot.size // 2)
        byte = file.read(1)
        file.seek(snapshot.size // 2)
        file.write(bytes([byte[0] ^ 1]))
    assert not incoming.adopt(snapshot, OTHER)
    assert incoming.begin(snapshot) == 0, "it comes again from its beginning"


def test_a_copy_that_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "n1" / "state.db"
    state(path, 500).close()
    with pytest.raises(StorageFullError, match="room"):
        SnapshotFile(path, "outgoing").make(1 << 60)
    assert sorted(file.name for file in path.parent.iterdir()) == ["state.db"]
