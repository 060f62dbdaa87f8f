"""``python -m tests.fuzz --seconds 3600 --seed 7``: exits with 1 when a run found something, and names its seed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import mkdtemp

from tests.fuzz.kinds import KINDS
from tests.fuzz.run import fuzz
from tests.system.servers import running

SLICE_SECONDS = 120.0
"""A new cluster and the next seed after so long: each seed can be repeated alone."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each next one has the next")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--longest-wait", type=float, default=1.0, help="in seconds, of a healthy client")
    parser.add_argument("--memory", type=int, default=600, help="in MiB, of one node")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), help="only these; else all not known to be harmful")
    parser.add_argument("--harmful", action="store_true", help="also the kinds known to be harmful until mended")
    options = parser.parse_args()
    kinds = options.kinds or [name for name, kind in KINDS.items() if options.harmful or not kind.harmful]
    seed, left, found = options.seed, options.seconds, False
    while left > 0:
        root = Path(mkdtemp(prefix="kvstore-fuzz-"))
        with running(root, options.nodes) as servers:
            outcome = fuzz(servers, seed, min(left, SLICE_SECONDS), kinds, options.clients)
        complaints = outcome.complaints
        if outcome.longest_wait > options.longest_wait:
            complaints.append(f"a healthy client waited {outcome.longest_wait:.2f} s")
        if max(outcome.memory.values(), default=0) > options.memory:
            complaints.append(f"memory: {outcome.memory} MiB")
        print(
            f"seed {seed}: {outcome.requests:,} requests, longest wait {outcome.longest_wait:.2f} s, memory"
            f" {outcome.memory} MiB, pipelines {outcome.pipelines}",
            flush=True,
        )
        for complaint in complaints:
            found = True
            print(f"seed {seed} FOUND (store and logs in {root}): {complaint}", flush=True)
        seed, left = seed + 1, left - SLICE_SECONDS
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
