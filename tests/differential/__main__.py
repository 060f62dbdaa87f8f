"""``python -m tests.differential --seconds 3600 --seed 7``: exits with 1 when the builds differ, and says by what."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from kvstore.version import is_compiled
from tests.differential.cases import CASES
from tests.differential.compare import both_builds, compare


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first case of each kind; each next one has the next"
    )
    parser.add_argument("--kinds", nargs="*", choices=list(CASES), default=list(CASES))
    options = parser.parse_args()
    if not is_compiled():
        print("nothing is compiled here: two processes of the sources are compared (.ci/compiled compiles)")
    end, seed, found = time.monotonic() + options.seconds, options.seed, 0
    tried: Counter[str] = Counter()
    with both_builds() as workers:
        while time.monotonic() < end:
            for kind in options.kinds:
                tried[kind] += 1
                if told := compare(workers, kind, seed):
                    found += 1
                    print(f"FOUND in {told}", flush=True)
            seed += 1
    cases = ", ".join(f"{count:,} of {kind}" for kind, count in tried.items())
    print(f"seeds {options.seed}..{seed - 1}: {cases}; {found} differ")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
