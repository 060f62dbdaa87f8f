"""The rows of ``kvstore top``: which node they are of, and how far behind it is."""

from __future__ import annotations

from cli.clusters import top
from cli.clusters.top import Sample
from kvstore.server.settings import Address

NODES: list[Address] = [("10.0.0.1", 6401), ("10.0.0.2", 6401), ("10.0.0.3", 6401)]


def sample(name: str, role: str, chosen: int, applied: int, at: float = 1.0) -> Sample:
    fields = {"node_id": name, "role": role, "ballot": "3.n1", "chosen_upto": chosen, "applied_upto": applied}
    numbers = dict.fromkeys(("reads", "writes", "cpu_ms", "p50_us", "p99_us", "log_bytes", "memory_bytes"), 0)
    return Sample(at, {key: str(value) for key, value in {**fields, **numbers}.items()}, name=name)


def test_a_node_that_is_down_keeps_its_name() -> None:
    before = [sample("n1", "leader", 9, 9), sample("n2", "follower", 9, 9), Sample(1.0, None, "refused")]
    now = [sample("n1", "leader", 9, 9, 2.0), Sample(2.0, None, "refused", name="n2"), Sample(2.0, None, "refused")]
    rows = top._rows(NODES, before, now)
    assert [(row.node, row.role, row.error) for row in rows] == [
        ("n1", "leader", None),
        ("n2", "down", "refused"),
        ("10.0.0.3:6401", "down", "refused"),
    ]


def test_a_leader_does_not_lag() -> None:
    """It is asked a moment before the others, which have applied more by then."""
    now = [sample("n1", "leader", 5, 5), sample("n2", "follower", 8, 8), sample("n3", "follower", 8, 2)]
    assert [row.lag for row in top._rows(NODES, now, now)] == [0, 0, 6]
