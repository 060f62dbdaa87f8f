"""The first configuration: the leader that has met all voters puts their data directories into the log."""

from __future__ import annotations

from kvstore.commands import Configure, Member
from kvstore.node.members import Members
from kvstore.node.node import Node


def register(node: Node, members: Members) -> bool:
    """Propose it if this node leads, knows of none, and all have noted the same. Returns whether it did."""
    if not node.leads or node.is_alone or node.configuration is not None or not members.all_agree:
        return False
    return node.propose_configuration(Configure(1, [Member(*known) for known in sorted(members.known.items())]))
