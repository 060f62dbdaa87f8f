"""What INFO, ROLE and CONFIG GET say about a node."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable

from kvstore.glob import matcher
from kvstore.node.service import ServerStatus
from kvstore.resp.encoding import RespValue, Verbatim
from kvstore.resp.errors import quoted
from kvstore.resp.hub import Hub
from kvstore.version import is_compiled, own_version

REDIS_VERSION = "7.2.0"
"""The version of Redis whose commands and errors clients can expect."""

CONFIG = {
    "appendfsync": "always",
    "appendonly": "yes",
    "bind": "",
    "databases": "1",
    "maxclients": "10000",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    "proto-max-bulk-len": "1048576",
    "save": "",
    "timeout": "0",
}


def config(patterns: Iterable[bytes]) -> dict[str, RespValue]:
    """The settings whose names match one of the glob patterns; one that is named has its name as it was asked for."""
    found: dict[str, RespValue] = {}
    for pattern in patterns:
        name = quoted(pattern)
        if name.lower() in CONFIG:
            found[name] = CONFIG[name.lower()]
            continue
        matches = matcher(pattern.lower())
        found |= {name: value for name, value in CONFIG.items() if matches(name.encode())}
    return found


def role(status: ServerStatus) -> RespValue:
    """The reply to ROLE: a leader is a master whose slaves are the connected nodes; any other node is a slave."""
    node = status.status
    if node.role == "leader":
        slaves: list[RespValue] = []
        for peer in status.peers:
            if peer.connected:
                host, _, port = _parts(peer.address)
                slaves.append([host, port, str(max(peer.chosen_upto, 0))])
        return ["master", node.chosen_upto, slaves]
    leader = next((peer.address for peer in status.peers if peer.node_id == node.leader), ":0")
    host, _, port = _parts(leader)
    return ["slave", host, int(port), "connected" if node.leader else "connect", node.applied_upto]


def _parts(address: str) -> tuple[str, str, str]:
    host, colon, port = address.rpartition(":")
    return host.strip("[]"), colon, port


def info(status: ServerStatus, hub: Hub, wanted: Iterable[bytes]) -> Verbatim:
    """The reply to INFO: all sections, or those that are wanted."""
    names = {name.decode(errors="replace").lower() for name in wanted}
    is_all = not names or bool(names & {"all", "default", "everything"})
    lines: list[str] = []
    for name, fields in _sections(status, hub).items():
        if is_all or name.lower() in names:
            lines += [f"# {name}", *(f"{field}:{value}" for field, value in fields.items()), ""]
    return Verbatim("\r\n".join(lines))


def _sections(status: ServerStatus, hub: Hub) -> dict[str, dict[str, object]]:
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
        "Clients": {"connected_clients": status.clients, "maxclients": CONFIG["maxclients"], "blocked_clients": 0},
        "Memory": {"used_memory": status.memory_bytes, "used_memory_rss": status.memory_bytes, "maxmemory": 0},
        "Persistence": {"loading": 0, "aof_enabled": 1, "log_bytes": node.log_bytes, "state_bytes": node.state_bytes},
        "Stats": {
            "total_connections_received": hub.accepted,
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
            "node_id": node.node_id,
            "leader": node.leader or "",
            "ballot": node.ballot,
            "chosen_upto": node.chosen_upto,
            "applied_upto": node.applied_upto,
        },
        "CPU": {"used_cpu_user": status.cpu_ms / 1_000, "used_cpu_sys": 0},
        "Cluster": {"cluster_enabled": 0},
        "Keyspace": {"db0": f"keys={node.keys},expires=0,avg_ttl=0"} if node.keys else {},
    }
