"""Fuzzes new clusters for as long as it is told to, and exits with 1 when a run found something.

``python -m tests.fuzz --seconds 3600 --seed 7`` runs seed 7, 8 and so on, two minutes each. What a client sends follows
from the seed; when it arrives is chance, so that a finding may need several runs. A finding is printed with the options
that repeat its run. With ``--shrink`` the run is then repeated with fewer clients, kinds and pipelines, as long as that
finds something too, and the smallest such options are printed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from kvstore.server.long_turns import LONG_MS
from tests.fuzz.judge import memory_figure
from tests.fuzz.kinds import KINDS
from tests.fuzz.run import Plan, fuzz, shrink
from tests.system.servers import running

SHOWN = 5
"""So many of the turns that were too long are printed."""
SLICE_SECONDS = 120.0
"""A new cluster and the next seed after so long: each seed can be repeated alone."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each next one has the next")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="*", default=range(6), help="their numbers (0 1 2 3 4 5)")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS), help="only these")
    parser.add_argument("--most", type=int, default=2**62, help="pipelines of one client")
    parser.add_argument("--crowd", type=int, default=1_000, help="connections at once that hardly say anything")
    parser.add_argument("--outages", type=float, default=0, help="seconds between two outages of a node, 0 for none")
    parser.add_argument("--longest-wait", type=float, default=1.0, help="in seconds, of a healthy client")
    parser.add_argument("--longest-turn", type=int, default=250, help="in ms, of a node's event loop")
    parser.add_argument("--memory", type=int, default=memory_figure(), help="in MiB, of one node")
    parser.add_argument("--shrink", action="store_true", help="repeat what found something, with less and less")
    return parser


def _run(plan: Plan, options: argparse.Namespace) -> int:
    """Run one plan and tell of it. Returns the highest pipeline, -1 if nothing was found."""
    root = Path(mkdtemp(prefix="kvstore-fuzz-"))
    with running(root, options.nodes) as servers:
        outcome = fuzz(servers, plan)
    if outcome.longest_wait > options.longest_wait:
        outcome.complain(f"a healthy client waited {outcome.longest_wait:.2f} s")
    if outcome.longest_turn[0] > options.longest_turn:
        outcome.complain(f"a turn of {outcome.longest_turn}")
    if max(outcome.memory.values(), default=0) > options.memory:
        outcome.complain(f"memory: {outcome.memory} MiB")
    print(
        f"seed {plan.seed}: {outcome.requests:,} requests, {outcome.healthy:,} healthy, longest wait"
        f" {outcome.longest_wait:.2f} s ({outcome.longest_wait_in_outage:.2f} s with a node down), memory"
        f" {outcome.memory} MiB, unavailable {outcome.unavailable} times, {outcome.long_turns} long turns, the longest"
        f" {outcome.longest_turn}, pipelines {outcome.pipelines}",
        flush=True,
    )
    over = sorted((turn for turn in outcome.busy_turns if turn[0] > LONG_MS), reverse=True)
    print(f"seed {plan.seed}: {len(over)} turns had a processor for more than {LONG_MS} ms", flush=True)
    for _, line in over[:SHOWN]:
        print(f"    {line}", flush=True)
    for complaint in outcome.complaints:
        print(f"seed {plan.seed} FOUND (store and logs in {root}): {complaint}", flush=True)
    if not outcome.complaints:
        rmtree(root)  # some gigabytes
        return -1
    print(f"to repeat it: python -m tests.fuzz --nodes {options.nodes} {plan.option()}", flush=True)
    return outcome.last_pipeline


def main() -> int:
    options = _parser().parse_args()
    seed, left, found = options.seed, options.seconds, False
    while left > 0:
        plan = Plan(
            *(seed, min(left, SLICE_SECONDS), tuple(options.kinds), tuple(options.clients)),
            *(options.most, options.crowd, options.outages),
        )
        last = _run(plan, options)
        if last >= 0:
            found = True
            if options.shrink:
                plan = shrink(replace(plan, most=last + 1), lambda smaller: _run(smaller, options) >= 0)
                print(f"the smallest that finds it: --nodes {options.nodes} {plan.option()}", flush=True)
        seed, left = seed + 1, left - SLICE_SECONDS
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
