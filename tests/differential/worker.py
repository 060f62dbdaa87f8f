"""``python -m tests.differential.worker BUILD``: tries the cases on standard input, and writes what came of them.

A case, and its answers, are MessagePack behind their length in four bytes. No clock goes on while a case is tried.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import BinaryIO, cast

import msgspec

from tests.differential import builds

READY = b"ready"
MAX_MEMORY = 2 * 1_073_741_824
"""In bytes, of addresses: a message that is valid may name slots so far apart that a list of them all never fits."""


def read(stream: BinaryIO) -> bytes:
    """The next frame; b"" at the end."""
    size = int.from_bytes(stream.read(4), "big")
    return stream.read(size)


def write(stream: BinaryIO, data: bytes) -> None:
    stream.write(len(data).to_bytes(4, "big") + data)
    stream.flush()


def stop_clocks() -> None:
    for name in ("time", "monotonic", "perf_counter"):
        setattr(time, name, lambda: 1_000.0)
        setattr(time, f"{name}_ns", lambda: 1_000 * 10**9)
    time.clock_gettime_ns = lambda clock: 1_000 * 10**9


def main() -> None:
    build = cast(builds.Build, sys.argv[1])
    builds.use(build)
    os.environ["KVSTORE_TESTED_BUILD"] = build
    from tests.differential.subjects import Step, tried

    cases, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything else prints is no answer
    decode = msgspec.msgpack.Decoder(tuple[str, int, list[Step]]).decode
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    stop_clocks()
    write(answers, READY)
    while data := read(cases):
        kind, seed, steps = decode(data)
        write(answers, msgspec.msgpack.encode(tried(kind, seed, steps)))


if __name__ == "__main__":
    main()
