"""What a node keeps in memory it counts itself: the counts must be true, and within the bounds that hold in the run."""

from __future__ import annotations

from collections.abc import Iterable

from kvstore.node import node as nodes
from kvstore.node import proposals
from kvstore.node.node import Node
from kvstore.resp.hub import MAX_HELD, Hub
from kvstore.server import peers
from kvstore.server.peers import OutboundConnection

MEMORY_RULE = "a node's memory is within its bounds, and counted rightly"
TICKS = 2
"""Requests of a node's own, which are taken without a look at the bounds."""
MESSAGE_BYTES = 1_048_576
"""The largest message of a run, with room to spare: values have some kilobytes."""


def wrong_in_node(node: Node) -> str:
    """Returns what is wrong with what a node keeps, "" if nothing."""
    waiting = node._proposals
    all_ones = [*waiting._commands.values(), *waiting._slots.values()]
    size = sum(proposal.size for proposal in all_ones)
    if size != waiting._pending_bytes:
        return f"requests of {size} bytes wait, and {waiting._pending_bytes} are counted"
    repeats = sum(len(proposal.others or ()) for proposal in waiting._commands.values())
    if repeats != waiting._repeats:
        return f"{repeats} callers wait for requests that others wait for too, and {waiting._repeats} are counted"
    if len(all_ones) + repeats > proposals.MAX_PENDING + TICKS:
        return f"{len(all_ones) + repeats} requests wait, and may be {proposals.MAX_PENDING}"
    largest = max((proposal.size for proposal in all_ones), default=0)
    if size - largest > proposals.MAX_MEMORY:
        return f"requests of {size} bytes wait, and may have {proposals.MAX_MEMORY} and one more"
    replica, kept = node.replica, node._keep_slots
    surplus = min(node.applied_upto, replica.durable_upto) - replica.log_start - kept
    if surplus > (kept >> 4) + nodes.APPLY_SLOTS:
        return f"of {surplus + kept} slots that are applied and durable {kept} are to stay in memory"
    return ""


def wrong_in_hub(hub: Hub, *, is_idle: bool) -> str:
    """The same of what is kept for clients. ``is_idle``: no request waits for its outcome."""
    room = hub.shares.room
    kept = sum(room._kept.values())
    if is_idle and room._taken != kept:
        return f"no large write runs, room of {kept} bytes is kept for clients, and {room._taken} are counted"
    held = sum(client.connection.held for client in hub.clients.values())
    if held != hub.held:
        return f"for clients {held} bytes are held, and {hub.held} are counted"
    return f"for clients {held} bytes are held" if held > MAX_HELD + MESSAGE_BYTES else ""


def wrong_in_links(links: Iterable[OutboundConnection]) -> str:
    """The same of what waits for links. A turn may add as much as is let wait, and one message more."""
    for link in links:
        queued = sum(map(len, link._queue))
        if queued != link._queued_bytes:
            return f"{queued} bytes wait for {link.name}, and {link._queued_bytes} are counted"
        if queued > 2 * peers.MAX_UNSENT_BYTES + MESSAGE_BYTES:
            return f"{queued} bytes wait for {link.name}, and may be {peers.MAX_UNSENT_BYTES}"
    return ""
