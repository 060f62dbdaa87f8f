"""What INFO, ROLE and CONFIG GET say about a node."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence

from kvstore.glob import matcher
from kvstore.node.service import ServerStatus
from kvstore.resp.encoding import RespValue, Verbatim
from kvstore.resp.errors import quoted
from kvstore.resp.hub import Hub
from kvstore.resp.spec import check_patterns, word
from kvstore.version import is_compiled, own_version

REDIS_VERSION = "7.2.0"
"""The version of Redis whose commands and errors clients can expect."""

CONFIG = {
    "appendfsync": "always",
    "appendonly": "yes",
    "bind": "",
    "databases": "1",
    "maxclients": "",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    "proto-max-bulk-len": "1048576",
    "save": "",
    "timeout": "0",
}


def config(patterns: Sequence[bytes], hub: Hub) -> dict[str, RespValue]:
    """The settings whose names match one of the glob patterns; one that is named has its name as it was asked for.

    Raises RequestError when the patterns are too long.
    """
    check_patterns(patterns)
    settings = CONFIG | {"maxclients": str(hub.max_clients)}
    found: dict[str, RespValue] = {}
    for pattern in patterns:
        name = quoted(pattern)
        if name.lower() in settings:
            found[name] = settings[name.lower()]
            continue
        matches = matcher(pattern.lower())
        found |= {name: value for name, value in settings.items() if matches(name.encode())}
    return found


def role(status: ServerStatus) -> RespValue:
    """The reply to ROLE: a leader is a master whose slaves are the connected nodes; any other node is a slave."""
    node = status.status
    if node.role == "leader":
        slaves: list[RespValue] = []
        for peer in status.peers:
            if peer.connected:
                host, _, port = _parts(peer.client_address or peer.address)
                slaves.append([host, port, str(max(peer.chosen_upto, 0))])
        return ["master", node.chosen_upto, slaves]
    leader = next((peer.client_address or peer.address for peer in status.peers if peer.node_id == node.leader), ":0")
    host, _, port = _parts(leader)
    return ["slave", host, int(port), "connected" if node.leader else "connect", node.applied_upto]


def _master(status: ServerStatus) -> dict[str, object]:
    """On a node that follows: where clients find the leader; on a leader where they find the connected nodes."""
    node = status.status
    if node.role == "leader":
        slaves: dict[str, object] = {}
        for number, peer in enumerate([peer for peer in status.peers if peer.connected]):
            host, _, port = _parts(peer.client_address or peer.address)
            slaves[f"slave{number}"] = f"ip={host},port={port},state=online,offset={max(peer.chosen_upto, 0)},lag=0"
        return slaves
    leader = next((peer for peer in status.peers if peer.node_id == node.leader), None)
    host, _, port = _parts((leader.client_address or leader.address) if leader else ":0")
    return {"master_host": host, "master_port": port, "master_link_status": "up" if leader else "down"}


def _parts(address: str) -> tuple[str, str, str]:
    host, colon, port = address.rpartition(":")
    return host.strip("[]"), colon, port


def info(status: ServerStatus, hub: Hub, expiring: tuple[int, int], wanted: Iterable[bytes]) -> Verbatim:
    """The reply to INFO: all sections, or those that are wanted. ``expiring``: keys that expire, ms left on average."""
    names = {word(name).decode(errors="replace").lower() for name in wanted}
    is_all = not names or bool(names & {"all", "default", "everything"})
    lines: list[str] = []
    for name, fields in _sections(status, hub, expiring).items():
        if is_all or name.lower() in names:
            lines += [f"# {name}", *(f"{field}:{value}" for field, value in fields.items()), ""]
    return Verbatim("\r\n".join(lines))


def _sections(status: ServerStatus, hub: Hub, expiring: tuple[int, int]) -> dict[str, dict[str, object]]:
    node = status.status
    return {
        "Server": {
            "redis_version": REDIS_VERSION,
            "kvstore_version": own_version(),
            "kvstore_compiled": int(is_compiled()),
            "redis_mode": "standalone",
            "os": platform.system(),
            "process_id": os.getpid(),
            "tcp_port": status.client_address.rpartition(":")[2],
            "uptime_in_seconds": status.uptime_ms // 1_000,
            "uptime_in_days": status.uptime_ms // 86_400_000,
        },
        "Clients": {"connected_clients": status.clients, "maxclients": hub.max_clients, "blocked_clients": 0},
        "Memory": {"used_memory": status.memory_bytes, "used_memory_rss": status.memory_bytes, "maxmemory": 0},
        "Persistence": {"loading": 0, "aof_enabled": 1, "log_bytes": node.log_bytes, "state_bytes": node.state_bytes},
        "Stats": {
            "total_connections_received": hub.accepted,
            "rejected_connections": hub.rejected,
            "total_commands_processed": hub.commands,
            "acl_access_denied_auth": hub.guesses.wrong,
            "reads": status.reads,
            "writes": status.writes,
            "latency_p50_us": status.p50_us,
            "latency_p99_us": status.p99_us,
            "long_turns": status.long_turns,
            "longest_turn_ms": status.longest_turn_ms,
            "longest_turn": status.longest_turn,
        },
        "Replication": {
            "role": "master" if node.role == "leader" else "slave",
            "connected_slaves": sum(peer.connected for peer in status.peers) if node.role == "leader" else 0,
            **_master(status),
            "node_id": node.node_id,
            "leader": node.leader or "",
            "ballot": node.ballot,
            "chosen_upto": node.chosen_upto,
            "applied_upto": node.applied_upto,
            "trouble": node.trouble,
        },
        "CPU": {"used_cpu_user": status.cpu_ms / 1_000, "used_cpu_sys": 0},
        "Cluster": {"cluster_enabled": 0},
        "Keyspace": {"db0": f"keys={node.keys},expires={expiring[0]},avg_ttl={expiring[1]}"} if node.keys else {},
    }
