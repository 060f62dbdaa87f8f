"""Random faults, drawn from a seed: nothing chosen changes, and once the faults stop all nodes know all of it."""

from __future__ import annotations

import pytest

from consensus.replica import Role
from tests.consensus.cluster import Cluster


def storm(seed: int, nodes: int) -> Cluster:
    cluster = Cluster(seed, nodes, keep=20)
    rng = cluster.random
    cluster.delay, cluster.disk_delay = (1, rng.choice([1, 5, 40])), (0, rng.choice([0, 3, 20]))
    proposed: list[bytes] = []
    acknowledged: dict[int, bytes] = {}
    for ms in range(rng.randint(1_000, 4_000)):
        cluster.step()
        dice = rng.random()
        if dice < 0.002:
            cluster.loss, cluster.duplication = rng.choice([0, 0.1, 0.4]), rng.choice([0, 0.2])
        elif dice < 0.004:
            pairs = [(a, b) for a in cluster.names for b in cluster.names if a != b and rng.random() < 0.4]
            cluster.partition(*pairs)
        elif dice < 0.010:
            cluster.heal()
        elif dice < 0.013 and cluster.replicas:
            cluster.crash(rng.choice(sorted(cluster.replicas)))
        elif dice < 0.0135:
            for name in sorted(cluster.replicas):
                cluster.crash(name)
        down = [name for name in cluster.names if name not in cluster.replicas]
        if down and rng.random() < 0.02:
            cluster.start(rng.choice(down))
        for name in cluster.leaders():
            replica = cluster.replicas[name]
            if rng.random() < 0.1:
                values = [b"%d:%d" % (ms, i) for i in range(rng.randint(1, 5))]
                proposed += values
                replica.propose(values)
            if rng.random() < 0.02:
                value = b"at:%d" % ms
                proposed.append(value)
                replica.propose_at(replica.chosen_upto + rng.randint(1, 8), value)
        for slot, value in acknowledged.items():
            assert cluster.chosen[slot] == value, "an acknowledged slot changed"
        acknowledged.update(cluster.chosen)
    cluster.heal()
    for name in cluster.names:
        if name not in cluster.replicas:
            cluster.start(name)
    cluster.leader()
    assert cluster.run(3_000, lambda: len(cluster.leaders()) == 1 and cluster.settled()), "the cluster did not settle"
    for _ in range(5):
        # A leader that the storm cut off may still step down, and forget what it had not sent.
        cluster.leader().propose([b"last"])
        if cluster.run(1_000, lambda: b"last" in cluster.chosen.values() and cluster.settled()):
            break
    else:
        pytest.fail("a healed cluster stands still")
    assert set(cluster.chosen.values()) <= {*proposed, b"", b"last"}, "a value was chosen that nobody proposed"
    return cluster


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("seed", range(8))
def test_random_faults_never_change_what_is_chosen(seed: int, nodes: int) -> None:
    cluster = storm(seed, nodes)
    assert sum(replica.role is Role.LEADER for replica in cluster.replicas.values()) == 1


def test_same_seed_same_run() -> None:
    assert storm(3, 3).trace == storm(3, 3).trace
