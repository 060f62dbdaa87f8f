"""Describes what a command would do, for people who study consensus. Nothing is executed."""

from __future__ import annotations

from collections.abc import Iterator

from cli.render import counted
from kvstore.commands import Command, Set, Txn, is_read_only
from kvstore.language.canonical import format as canonical
from kvstore.language.parser import parse
from kvstore.store import Status


def explain(text: str, status: Status) -> Iterator[str]:
    """The way that a command would take through the store as it stands now, as lines of text."""
    command = parse(text)
    yield f"canonical   {canonical(command)}"
    yield f"meaning     {_meaning(command)}"
    quorum = len(status.nodes) // 2 + 1
    of = f"{quorum} of {counted(len(status.nodes), 'node')}"
    if is_read_only(command):
        yield "slot        none: a read changes nothing, so the log does not need it"
        yield f"quorum      {of} must confirm, after the read arrived, that ballot {status.ballot} still leads"
        yield f"then        once slot {status.chosen_upto} is applied, the answer comes from the state database"
        return
    free = status.gaps[0][0] if status.gaps else status.last_slot + 1
    yield f"slot        {free}, the lowest free one" + (" (it fills a gap)" if status.gaps else "")
    if status.role == "leader":
        yield f"phase 1     skipped if ballot {status.ballot} has proposed before: its promises cover every later slot"
    elif status.leader is not None:
        yield f"phase 1     a matter of {status.leader}, which leads: it skips phase 1 unless its ballot is new"
    else:
        yield "phase 1     run first: there is no leader"
    yield f"phase 2     accept slot {free} under ballot {status.ballot}; each acceptor syncs its log before it votes"
    have = "has" if quorum == 1 else "have"
    yield f"chosen      when {of} {have} accepted it; from then on no other value can be chosen in this slot"
    yield "applied     to the state database, after all slots before it; only then is it answered"


def _meaning(command: Command) -> str:
    if isinstance(command, Txn):
        count = len(command.then) + len(command.otherwise)
        tests = f"{len(command.conditions)} conditions decide between two branches, " if command.conditions else ""
        if is_read_only(command):
            return f"a linearizable read: {tests}{count} commands that all see the same state"
        together = "a command that fails changes nothing" if command.partial else "all or nothing"
        return f"a transaction: {tests}{count} commands in one slot, {together}"
    if is_read_only(command):
        return "a linearizable read"
    if isinstance(command, Set) and (command.when or command.ifeq is not None):
        return "a conditional write: it takes a slot even if its condition turns out not to hold"
    return "a write: every replica executes it, in the order of the slots"
